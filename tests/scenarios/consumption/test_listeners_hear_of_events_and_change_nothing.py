from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App, events
    from recording import note, record

    app = App("shop")

    @app.each("{topic}")
    def orders(message):
        record(message)

    @app.on(events.PartitionsAssigned)
    def hears(event):
        for topic, partition, offset in event.partitions:
            note("assigned", topic, partition, offset)

    @app.on(events.BatchConsumed)
    def slow(event):
        time.sleep(30.0)

    @app.on(events.PartitionsAssigned)
    def raises(event):
        raise SystemExit("from a listener")
"""


def test_listeners_hear_of_events_and_neither_slow_nor_raising_ones_change_anything(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """What a listener raises is counted and said; while one sleeps, messages are processed and the stop is not delayed."""
    orders = topic()
    daemon = swarm_project(APP.format(topic=orders), {"swarm": {"workers": 1}})
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(50)])

    daemon.start()
    daemon.wait_for(lambda: len(recording.all()) == 50, what="every message")
    broker.produce(orders, [(None, str(number)) for number in range(50)])
    daemon.wait_for(lambda: len(recording.all()) == 100, what="messages behind a listener that sleeps")
    assert daemon.stop(within=8.0) == 0

    assert [(each.topic, each.partition, each.offset) for each in recording.all("assigned")] == [(orders, 0, 0)]
    (failed,) = daemon.events(
        "listener_failed", listener="raises"
    )  # on a slow machine the other one is said to be slow, too
    assert "SystemExit: from a listener" in failed["error"]
    assert broker.committed(daemon.group) == {(orders, 0): 100}
