"""`workers=` on a subscription: who is asked, and nobody else, also after one of them was replaced."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("{orders}", workers=[0])
    def order(message):
        record(message, "message")

    @app.each("{clicks}", workers=[0, 1])
    def click(message):
        record(message, "message")
"""


def test_topics_are_consumed_by_the_workers_that_they_are_placed_on_and_by_no_others(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A worker without any stands by; a scale that would leave a topic without its worker is refused; nothing is lost."""
    orders, clicks = topic(partitions=2), topic(partitions=2)
    daemon = swarm_project(APP.format(orders=orders, clicks=clicks), {"swarm": {"workers": 3}})
    recording = Recording(daemon.folder)

    def placed() -> bool:
        """Whether each partition has an owner, and that is one of those it is placed on."""
        held = [(each["topic"], worker["index"]) for worker in daemon.workers() for each in worker["assignment"]]
        assert set(held) <= {(orders, 0), (clicks, 0), (clicks, 1)}
        return len(held) == 4

    daemon.start().until_running()
    daemon.wait_for(placed, what="each partition to be where it belongs")
    idle = daemon.workers()[2]["health"]
    refused = daemon.run("scale", "1")
    daemon.run("scale", "2")
    daemon.run("restart")
    daemon.wait_for(placed, what="the same after a restart")
    for name in (orders, clicks):
        for partition in range(2):
            broker.produce(name, [(None, str(number)) for number in range(10)], partition)
    daemon.wait_for(lambda: len(recording.seen(orders)) == len(recording.seen(clicks)) == 20, what="the messages")
    assert daemon.stop() == 0

    assert idle == "standby"
    assert refused.returncode == 1
    assert "is placed on worker 1, so 2 workers are the fewest" in refused.stderr
