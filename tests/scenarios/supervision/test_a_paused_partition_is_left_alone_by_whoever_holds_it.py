"""`swarmctl pause` and `resume` of a partition: over a restart, a scaling and a reload, until somebody takes it back."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("{orders}")
    def order(message):
        record(message, "message")
"""


def test_a_paused_partition_is_left_alone_by_whoever_holds_it_until_it_is_resumed(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """The other partitions go on all the time; nothing is lost, nothing repeated, and a stop forgets the pause."""
    orders = topic(partitions=2)
    daemon = swarm_project(APP.format(orders=orders), {"swarm": {"workers": 1}, "log": {"level": "debug"}})
    recording = Recording(daemon.folder)

    def produce(partition: int, count: int = 10) -> None:
        broker.produce(orders, [(None, str(number)) for number in range(count)], partition)

    def seen() -> dict[int, int]:
        return {partition: len(offsets) for partition, offsets in recording.offsets(orders).items()}

    def rests() -> bool:
        held = [each for worker in daemon.workers() for each in worker["assignment"]]
        return [each["paused"] for each in sorted(held, key=lambda each: int(each["partition"]))] == [True, False]

    def goes_on_beside_it(total: int) -> None:
        daemon.wait_for(rests, what="the pause, and nothing else, to be shown")
        for partition in (0, 1):
            produce(partition)
        daemon.wait_for(lambda: seen().get(1) == total, what="the other partition")
        assert seen().get(0) == 10

    produce(0)
    daemon.start().until_running()
    daemon.wait_for(lambda: seen().get(0) == 10, what="the first messages")
    unknown = daemon.run("pause", f"{orders}.typo")
    paused = daemon.run("pause", f"{orders}/0", "--group", daemon.group)
    goes_on_beside_it(10)
    daemon.run("restart")
    goes_on_beside_it(20)
    daemon.run("scale", "2")
    goes_on_beside_it(30)
    reloaded = daemon.run("reload")
    daemon.run("quiet")
    resumed_from_quiet = daemon.run("resume")
    goes_on_beside_it(40)
    shown = daemon.run("status").stdout
    committed_meanwhile = daemon.events("consumption_paused", topic=orders, partition=0)
    resumed = daemon.run("resume", f"{orders}/0")
    daemon.wait_for(lambda: seen().get(0) == 50, what="what had waited")
    after = daemon.status()["paused"]
    daemon.run("pause", orders)
    produce(0)
    assert daemon.stop() == 0
    daemon.start().until_running()
    daemon.wait_for(lambda: seen().get(0) == 60, what="the pause to be forgotten")
    assert daemon.stop() == 0

    assert unknown.returncode == 1
    assert f"{orders}.typo" in unknown.stderr
    assert (paused.returncode, reloaded.returncode, resumed_from_quiet.returncode, resumed.returncode) == (0, 0, 0, 0)
    assert "held by worker 0" in paused.stdout
    assert f"paused: {orders}/0 (group {daemon.group})." in shown
    assert {line["offset"] for line in committed_meanwhile} == {10}
    assert len(committed_meanwhile) >= 3, "whoever got the partition said that it rests"
    assert after == []
    assert [line["topic"] for line in daemon.events("pause_ordered")] == [orders, orders]
    assert {p: sorted(offsets) for p, offsets in recording.offsets(orders).items()} == {
        0: list(range(60)),
        1: list(range(40)),
    }
