from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("{topic}")
    def orders(message):
        record(message)
"""

MOMENTS = ("swarm_started", "worker_started", "observer_started", "partitions_assigned", "worker_ready")


def test_a_stop_is_graceful_at_every_moment_of_the_start_also_while_partitions_are_being_assigned(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Exit 0, every worker ends by itself with 0, and what was not begun is there at the next start, once."""
    orders = topic(partitions=4)
    daemon = swarm_project(APP.format(topic=orders), {"swarm": {"workers": 3}})
    recording = Recording(daemon.folder)
    for partition in range(4):
        broker.produce(orders, [(None, str(number)) for number in range(20)], partition)

    for moment in MOMENTS:
        seen = len(daemon.events(moment))
        daemon.start()
        daemon.wait_for_event(moment, count=seen + 1)
        assert daemon.stop() == 0, moment
    broker.produce(orders, [(None, "the last")], 0)
    daemon.start()
    daemon.wait_for(lambda: len(recording.seen(orders)) == 4 * 20 + 1, what="every message")
    assert daemon.stop() == 0

    assert {(event["code"], event["signal"]) for event in daemon.events("worker_exited")} == {(0, None)}
    ends = {0: 21, 1: 20, 2: 20, 3: 20}
    assert recording.offsets(orders) == {partition: list(range(end)) for partition, end in ends.items()}
    assert broker.committed(daemon.group) == {(orders, partition): end for partition, end in ends.items()}
