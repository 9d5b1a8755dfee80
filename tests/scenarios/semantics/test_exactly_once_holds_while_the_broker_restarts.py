from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App
    from recording import record

    app = App("shop")

    @app.subscribe("orders", delivery="exactly_once", max_messages=25)
    def invoice(messages, consumer):
        for message in messages:
            record(message)
            consumer.producer.produce("invoices", value=message.raw, key=message.raw)
            time.sleep(0.004)  # the work
"""


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    with Broker() as running:
        yield running


def test_exactly_once_holds_while_the_broker_is_killed_and_started_again(
    own_broker: Broker, swarm_project: Callable[..., Daemon]
) -> None:
    """Killed in the middle of transactions: what was not committed is undone or goes on, each input has one output, and no worker is
    replaced."""
    own_broker.create_topic("orders", 3)
    own_broker.create_topic("invoices", 2)
    daemon = swarm_project(APP, {"swarm": {"workers": 1}, "worker": {"concurrency": 2}}, bootstrap=own_broker.bootstrap)
    recording = Recording(daemon.folder)
    for partition in range(3):
        own_broker.produce("orders", [(None, f"{partition}/{number}") for number in range(200)], partition)

    daemon.start()
    daemon.wait_for(lambda: len(recording.all()) > 150, what="some work")
    own_broker.kill()
    own_broker.start()
    ends = {("orders", partition): 200 for partition in range(3)}
    daemon.wait_for(lambda: own_broker.committed(daemon.group) == ends, what="the ends")
    assert daemon.stop() == 0

    outputs = Counter(message.value() for message in own_broker.read_all("invoices", read_committed=True))
    assert outputs == Counter(f"{partition}/{number}".encode() for partition in range(3) for number in range(200))
    assert not daemon.events("worker_started", restarts=1)
