"""`worker.max_messages`: a process that has handled so many is drained and replaced, and nobody else at the same time."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording, repeated

APP = """
    from recording import record
    from swarm import App

    app = App("shop")

    @app.each("TOPIC")
    def handle(message):
        record(message)
"""


def until_replaced(daemon: Daemon, before: list[int]) -> None:
    """Until every worker has another process."""
    daemon.wait_for(lambda: not {worker["pid"] for worker in daemon.workers()} & {*before, None}, what="successors")


def test_workers_are_recycled_after_their_messages_one_at_a_time_and_nothing_is_repeated(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A planned replacement: drained, committed, followed at once, shown by its reason; the count begins anew with each process."""
    name = topic(partitions=4)
    daemon = swarm_project(APP.replace("TOPIC", name), {"worker": {"max_messages": 100}})
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    for _ in range(2):
        before = [worker["pid"] for worker in daemon.workers()]
        for partition in range(4):
            broker.produce(name, [(None, "x")] * 60, partition)
        until_replaced(daemon, before)
        daemon.until_running()
    daemon.wait_for(lambda: len(recording.seen(name)) == 480, what="every message")
    status = daemon.workers()
    assert daemon.stop() == 0

    assert not {partition for partition, offsets in recording.offsets(name).items() if repeated(offsets)}
    story = [
        (line["event"], line["worker"])
        for line in daemon.events()
        if (line["event"], line.get("reason")) == ("worker_stopping", "max_messages") or line["event"] == "worker_ready"
    ]
    recycled = story[2:]  # after the two that were the first to be ready
    assert [event for event, _ in recycled] == ["worker_stopping", "worker_ready"] * 4
    assert all(one[1] == other[1] for one, other in zip(recycled[::2], recycled[1::2], strict=True))
    assert [worker["last_exit"]["reason"] for worker in status] == ["max_messages"] * 2
    assert [worker["restarts_by_reason"] for worker in status] == [{"max_messages": 2}] * 2
    assert broker.committed(daemon.group) == {(name, partition): 120 for partition in range(4)}
