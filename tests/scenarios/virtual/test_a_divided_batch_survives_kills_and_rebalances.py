from __future__ import annotations

import os
import signal
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

    @app.{form}("{orders}", concurrency_key="key", max_messages=60, delivery="{delivery}")
    def order(item, consumer):
        for message in [item] if "{form}" == "each" else item:
            record(message)
            time.sleep(0.0 if fast.exists() else 0.03)  # the work
"""


@pytest.mark.parametrize(
    ("form", "delivery"), [("each", "at_least_once"), ("subscribe", "at_least_once"), ("subscribe", "at_most_once")]
)
def test_a_divided_batch_survives_kills_and_rebalances_and_stops(
    form: str,
    delivery: str,
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
    tmp_path: Path,
) -> None:
    """In the middle of slices a second daemon comes, which repeats nothing; then a kill -9, after which only what was not committed
    comes again (at most once: never); then a graceful stop, which repeats nothing either. Keys keep their order."""
    orders = topic(partitions=2)
    settings = {
        "swarm": {"workers": 1, "group_id": f"group of {orders}"},
        "worker": {"concurrency": 3, "commit_interval": 0.1},
    }
    app = APP.format(form=form, delivery=delivery, orders=orders, fast=tmp_path / "fast")
    first, second = swarm_project(app, settings, name="first"), swarm_project(app, settings, name="second")
    records = [Recording(daemon.folder) for daemon in (first, second)]
    for partition in range(2):
        broker.produce(orders, [(f"key {number % 5}", "x") for number in range(1200)], partition)

    def runs() -> Counter[tuple[int, int]]:
        return Counter((each.partition, each.offset) for recording in records for each in recording.all())

    first.start()
    first.wait_for(lambda: len(records[0].all()) > 50, what="some work")
    second.start()
    second.wait_for(lambda: len(records[1].all()) > 50, what="the second one's work")
    assert max(runs().values()) == 1, "repeated by a rebalance"
    os.kill(records[0].all()[-1].pid, signal.SIGKILL)
    first.wait_for_event("partitions_assigned", count=4)

    def seen_by_first() -> set[tuple[int, int]]:
        return {(each.partition, each.offset) for each in records[0].all()}

    before = len(seen_by_first())  # what comes again is behind it when that has grown by some batches
    first.wait_for(lambda: len(seen_by_first()) > before + 100, what="work after what the kill repeats")
    at_the_kill = {key for key, count in runs().items() if count > 1}
    assert first.stop() == 0
    (tmp_path / "fast").touch()
    ends = {(orders, partition): 1200 for partition in range(2)}
    second.wait_for(lambda: broker.committed(second.group) == ends, what="the ends")
    assert second.stop() == 0

    counts = runs()
    repeated = {key for key, count in counts.items() if count > 1}
    assert repeated == at_the_kill, "repeated by a stop"
    assert len(repeated) <= 2 * 60, "more than the batches in hand were repeated"
    if delivery == "at_most_once":
        assert not repeated
        assert len(counts) >= 2400 - 2 * 60, "more than the batches in hand were lost"
    else:
        assert len(counts) == 2400
