from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App, Consumer
    from recording import note, record

    app = App("shop")

    class Orders(Consumer):
        def on_assigned(self):
            self.last = None
            note("hook", "on_assigned", self.partition)

        def consume(self, messages):
            note("hook", "consume", self.partition)
            for message in messages:
                record(message)
            self.last = messages[-1]

        def on_idle(self):
            note("hook", "on_idle", self.partition)

        def on_revoked(self):
            note("hook", "on_revoked", self.partition)
            if self.last is not None:
                self.mark_as_consumed(self.last)

        def on_shutdown(self):
            note("hook", "on_shutdown", self.partition)
            if self.last is not None:
                self.mark_as_consumed(self.last)

    app.subscribe("{topic}", offsets="manual")(Orders)
"""


def test_hooks_run_around_each_assignment_of_a_partition_and_marks_made_in_them_are_committed(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """on_assigned before the first consume, on_idle when it has run out, on_revoked or, at the stop, on_shutdown last."""
    orders = topic(partitions=2)
    old, new = (
        swarm_project(
            APP.format(topic=orders),
            {
                "swarm": {"workers": 1, "group_id": group, "host": host},
                "kafka": {"heartbeat.interval.ms": 300},
            },
        )
        for host in ("one", "two")
    )
    before, after = Recording(old.folder), Recording(new.folder)
    for partition in range(2):
        broker.produce(orders, [(None, "first")], partition)

    old.start()
    old.wait_for(lambda: len(before.all("hook", topic="on_idle")) == 2, what="both partitions to be idle")
    new.start()
    (taken,) = new.wait_for(lambda: after.all("hook", topic="on_assigned"), what="a partition to be handed over")
    for partition in range(2):
        broker.produce(orders, [(None, "second")], partition)
    new.wait_for(lambda: len(before.all() + after.all()) == 4, what="the other messages")
    assert old.stop() == 0
    assert new.stop() == 0

    kept = 1 - taken.partition
    life = ["on_assigned", "consume", "on_idle"]
    assert _hooks(before, taken.partition) == [*life, "on_revoked"]
    assert _hooks(before, kept) in [[*life, "consume", *idle, "on_shutdown"] for idle in ([], ["on_idle"])]
    assert _hooks(after, taken.partition)[:2] == ["on_assigned", "consume"]
    assert after.offsets(orders)[taken.partition] == [1], "what on_revoked marked was committed before the handover"
    assert broker.committed(group) == {(orders, 0): 2, (orders, 1): 2}


def _hooks(recording: Recording, partition: int) -> list[str]:
    return [each.topic for each in recording.all("hook", partition=partition)]
