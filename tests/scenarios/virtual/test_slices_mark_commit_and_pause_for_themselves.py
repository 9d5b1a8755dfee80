from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import threading
    from swarm import App, Backoff, Consumer, VirtualPartitions
    from recording import note, record

    app = App("shop")
    together = threading.Barrier(3)

    @app.subscribe("{orders}", offsets="{offsets}", virtual_partitions=VirtualPartitions(by="key", maximum=3),
                   max_messages=30, max_wait=2.0, backoff=Backoff(initial=0.02))
    class Orders(Consumer):
        paused = False

        def consume(self, messages):
            for message in messages:
                record(message)
                self.mark_as_consumed(message)
                if message.attempt == 1 and message.offset in (9, 10, 11):
                    together.wait(20)  # all three slices have marked up to here
                    if message.offset == 9:
                        note("committed" if self.commit() else "refused")
                    together.wait(20)
                if message.offset == 14 and not self.paused:
                    Orders.paused = True
                    self.pause(0.3)
                    return
"""


@pytest.mark.parametrize("offsets", ["automatic", "manual"])
def test_slices_mark_commit_and_pause_for_themselves_alone(
    offsets: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """In a Consumer class: a mark speaks for its slice; commit() commits what all of them have done without a gap; one that pauses
    leaves the rest of its own messages for the run after the pause, and what others did is not repeated."""
    orders = topic()
    daemon = swarm_project(
        APP.format(orders=orders, offsets=offsets),
        {"swarm": {"workers": 1}, "worker": {"concurrency": 4, "commit_interval": 30.0}},
    )
    recording = Recording(daemon.folder)
    broker.produce(orders, [(f"key {number % 3}", "x") for number in range(30)])

    daemon.start()
    daemon.wait_for(lambda: len(recording.seen(orders)) == 30, what="all messages")
    daemon.wait_for(lambda: recording.all("committed"), what="the commit in the middle")
    first = [line["offsets"] for line in daemon.events("offsets_committed")]
    assert daemon.stop() == 0

    assert broker.committed(daemon.group) == {(orders, 0): 30}
    assert [[orders, 0, 12]] in first, first
    runs = recording.offsets(orders)[0]
    assert sorted(runs) == sorted([*range(30)]), "what was marked ran again"
    for key in range(3):
        assert [offset for offset in runs if offset % 3 == key] == list(range(key, 30, 3)), f"order of key {key}"
    times = {each.offset: each.at for each in recording.all()}
    assert times[17] - times[14] > 0.25, "the pause was not kept"
    assert times[28] < times[17], "another slice was held up"
