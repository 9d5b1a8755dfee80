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

    @app.subscribe("{topic}", max_messages=20)
    class Orders(Consumer):
        def consume(self, messages):
            for message in messages:
                record(message)
                time.sleep(0.002)  # the work
"""


def test_every_message_is_processed_once_and_in_order_although_the_swarm_is_stopped_in_the_middle(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Healthy processes and graceful stops: no message lost, none twice, each partition in order, all of it committed."""
    orders = topic(partitions=6)
    daemon = swarm_project(APP.format(topic=orders), {"swarm": {"workers": 3}})
    recording = Recording(daemon.folder)
    for partition in range(6):
        broker.produce(orders, [(None, str(number)) for number in range(300)], partition)

    daemon.start()
    daemon.wait_for(
        lambda: len(recording.offsets(orders)) == 6 and len(recording.all()) > 200, what="work on every partition"
    )
    assert daemon.stop() == 0
    at_the_stop = recording.offsets(orders)
    committed_at_the_stop = broker.committed(daemon.group)
    for partition in range(6):
        broker.produce(orders, [(None, str(number)) for number in range(300, 400)], partition)
    daemon.start()
    daemon.wait_for(lambda: len(recording.seen(orders)) == 6 * 400, what="every message")
    assert daemon.stop() == 0

    assert len(at_the_stop) == 6
    assert sum(map(len, at_the_stop.values())) < 6 * 300, "the stop came too late to be in the middle"
    seen_first = {(orders, partition): offsets[-1] + 1 for partition, offsets in at_the_stop.items()}
    assert committed_at_the_stop == seen_first
    assert recording.offsets(orders) == {partition: list(range(400)) for partition in range(6)}
    assert broker.committed(daemon.group) == {(orders, partition): 400 for partition in range(6)}
