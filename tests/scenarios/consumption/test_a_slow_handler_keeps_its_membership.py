from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App, Consumer
    from recording import record

    app = App("shop")

    @app.subscribe("{topic}", max_messages=1)
    class Orders(Consumer):
        def consume(self, messages):
            record(messages[0], "begin")
            if self.partition == 0:
                time.sleep(4.0)  # the work; longer than the session and the poll interval
            record(messages[0])
"""


def test_a_slow_handler_keeps_its_membership_while_it_runs_and_while_it_is_waited_for_at_the_stop(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Handlers that take longer than session.timeout.ms and max.poll.interval.ms cost no membership and no second run."""
    orders = topic(partitions=2)
    daemon = swarm_project(
        APP.format(topic=orders),
        {
            "swarm": {"workers": 1},
            "kafka": {"session.timeout.ms": 1500, "heartbeat.interval.ms": 300, "max.poll.interval.ms": 2000},
        },
    )
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, "slow"), (None, "slow as well"), (None, "after the stop")], 0)
    broker.produce(orders, [(None, str(number)) for number in range(100)], 1)

    daemon.start()
    daemon.wait_for(lambda: len(recording.all("begin", partition=0)) == 2, what="the second slow message")
    others_done = len(recording.all(partition=1))
    assert daemon.stop() == 0

    assert others_done == 100, "the other partition goes on meanwhile"
    assert recording.offsets(orders)[0] == [0, 1]
    assert broker.committed(daemon.group) == {(orders, 0): 2, (orders, 1): 100}
    assert [line["event"] for line in daemon.events() if line["event"] in {"partitions_lost", "client_error"}] == []
    assert len(daemon.events("partitions_assigned")) == 1
