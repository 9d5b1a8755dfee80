from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from pathlib import Path
    from swarm import App
    from recording import record

    app = App("shop")
    fast = Path("{fast}")

    @app.subscribe("{orders}", delivery="exactly_once", max_messages=25, transaction_partitions={together})
    def invoice(messages, consumer):
        for message in messages:
            record(message)
            consumer.producer.produce("{invoices}", value=message.raw, key=message.raw)
            time.sleep(0.0 if fast.exists() else 0.02)  # the work
"""


@pytest.mark.parametrize(("protocol", "together"), [("classic", 1), ("consumer", 1), ("classic", 4)])
def test_exactly_once_holds_while_partitions_move_between_two_daemons(
    protocol: str,
    together: int,
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
    tmp_path: Path,
) -> None:
    """A second daemon joins the group in the middle of runs, and leaves again: each run is committed before its partition moves or is
    undone, so each input has one output; nothing runs twice but what a TransactionAborted event names."""
    orders, invoices = topic(partitions=4), topic(partitions=2)
    app = APP.format(orders=orders, invoices=invoices, fast=tmp_path / "fast", together=together)
    settings = {
        "swarm": {"workers": 1, "group_id": f"group of {orders}"},
        "worker": {"concurrency": 2},
        "kafka": {"group.protocol": protocol},
    }
    first, second = swarm_project(app, settings, name="first"), swarm_project(app, settings, name="second")
    records = [Recording(daemon.folder) for daemon in (first, second)]
    for partition in range(4):
        broker.produce(orders, [(None, f"{partition}/{number}") for number in range(800)], partition)

    first.start()
    first.wait_for(lambda: len(records[0].all()) > 50, what="the first one's work")
    second.start()
    second.wait_for(lambda: len(records[1].all()) > 50, what="the second one's work")
    assert second.stop() == 0
    (tmp_path / "fast").touch()
    ends = {(orders, partition): 800 for partition in range(4)}
    first.wait_for(lambda: broker.committed(first.group) == ends, what="the ends")
    assert first.stop() == 0

    outputs = Counter(message.value() for message in broker.read_all(invoices, read_committed=True))
    assert outputs == Counter(f"{partition}/{number}".encode() for partition in range(4) for number in range(800))
    runs = Counter((each.partition, each.offset) for recording in records for each in recording.all())
    aborted = [line for daemon in (first, second) for line in daemon.events("transaction_aborted")]
    for partition, offset in (key for key, count in runs.items() if count > 1):
        assert any(
            line["partition"] == partition and line["first_offset"] <= offset <= line["last_offset"] for line in aborted
        ), f"{partition}/{offset} ran twice, and no event says why"
