from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, Backoff
    from recording import note, record

    app = App("shop")
    steps = {{3: ["fail", "seek", "pause"], 5: ["pause-back"]}}

    @app.each("{topic}", backoff=Backoff(initial=0.05))
    def orders(message, consumer):
        record(message)
        if message.partition == 0 and steps.get(message.offset):
            step = steps[message.offset].pop(0)
            note(step)
            if step == "fail":
                raise ValueError("not yet")
            if step == "seek":
                consumer.seek(1)
            if step == "pause":
                consumer.pause(1.5)
            if step == "pause-back":
                consumer.pause(1.5, 4)
"""

COUNT = 6000  # more than a lane buffers, so that its partition is paused at the client, too


def test_a_handler_pauses_and_seeks_in_its_own_partition_while_the_others_go_on(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Nothing of such a run is marked by itself; after the pause it goes on where it was asked to; attempts start over at 1."""
    orders = topic(partitions=2)
    daemon = swarm_project(
        APP.format(topic=orders), {"swarm": {"workers": 1}, "worker": {"concurrency": 1, "commit_interval": 0.05}}
    )
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, "x")] * COUNT, 0)

    daemon.start()
    held = []
    for step in ("pause", "pause-back"):
        daemon.wait_for(lambda step=step: recording.all(step), what=f"the {step}")  # type: ignore[misc]
        done = len(recording.all(partition=1))
        broker.produce(orders, [(None, "x")] * 20, 1)
        daemon.wait_for(lambda done=done: len(recording.all(partition=1)) == done + 20, what="the other partition")  # type: ignore[misc]
        daemon.wait_for(
            lambda done=done: broker.committed(daemon.group).get((orders, 1)) == done + 20,  # type: ignore[misc]
            what="its commit",
        )
        held.append(broker.committed(daemon.group).get((orders, 0), 0))
        assert len(recording.all(partition=0)) == {"pause": 8, "pause-back": 11}[step], "the pause was over too soon"
    daemon.wait_for(lambda: recording.all(partition=0, offset=COUNT - 1), what="the last message")
    assert daemon.stop() == 0

    runs = [(each.offset, each.attempt) for each in recording.all(partition=0)]
    failed = [(0, 1), (1, 1), (2, 1), (3, 1), (3, 2)]  # the second attempt seeks
    sought = [(1, 1), (2, 1), (3, 1)]  # and the third time it pauses
    paused = [(3, 1), (4, 1), (5, 1)]
    assert runs == [*failed, *sought, *paused, *((offset, 1) for offset in range(4, COUNT))]
    assert held[0] <= 3
    assert held[1] <= 5
    times = [each.at for each in recording.all(partition=0)]
    assert times[8] - times[7] > 1.4
    assert times[11] - times[10] > 1.4
    assert recording.offsets(orders)[1] == list(range(40))
    assert broker.committed(daemon.group) == {(orders, 0): COUNT, (orders, 1): 40}
