from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, RateLimit
    from recording import record

    app = App("shop")

    @app.subscribe("{limited}", rate_limit=RateLimit(20, seconds=0.5))
    def limited(messages):
        for message in messages:
            record(message)

    @app.each("{free}")
    def free(message):
        record(message)
"""


def test_a_rate_limit_spreads_messages_over_time_and_holds_up_nobody_else(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Over all partitions of the subscription in a worker: what was saved up at once, then no more than the rate allows; another
    subscription of the same worker goes on meanwhile."""
    limited, free = topic(partitions=2), topic()
    daemon = swarm_project(APP.format(limited=limited, free=free), {"swarm": {"workers": 1}})
    recording = Recording(daemon.folder)
    for partition in range(2):
        broker.produce(limited, [(None, str(number)) for number in range(60)], partition)
    broker.produce(free, [(None, str(number)) for number in range(500)])

    daemon.start()
    ends = {(limited, 0): 60, (limited, 1): 60, (free, 0): 500}
    daemon.wait_for(lambda: broker.committed(daemon.group) == ends, what="the ends")
    assert daemon.stop() == 0

    times = sorted(each.at for each in recording.all(topic=limited))
    assert len(times) == 120
    for number, at in enumerate(times):
        late = 0.5  # s: how much later than it was let in the first one may have been noted
        assert number < 20 + 40 * (at - times[0] + late), f"{number} messages after {at - times[0]:.2f} s"
    assert max(each.at for each in recording.all(topic=free)) < times[-1], "the other subscription had to wait"
    for partition, offsets in recording.offsets(limited).items():
        assert offsets == list(range(60)), partition
