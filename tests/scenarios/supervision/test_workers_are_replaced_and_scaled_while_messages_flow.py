from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("{orders}")
    def order(message):
        record(message)
        time.sleep(0.003)  # the work
"""


def test_workers_are_replaced_one_by_one_and_scaled_while_messages_flow(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A rolling restart disturbs no other worker; scaled up and down, the partitions move; nothing is lost and nothing repeated."""
    orders = topic(partitions=4)
    daemon = swarm_project(APP.format(orders=orders), {"swarm": {"workers": 2}})
    recording = Recording(daemon.folder)
    for partition in range(4):
        broker.produce(orders, [(None, str(number)) for number in range(1000)], partition)
    daemon.start().until_running()
    first = [worker["pid"] for worker in daemon.workers()]

    restarted = daemon.run("restart")
    second = [worker["pid"] for worker in daemon.workers()]
    exits = daemon.events("worker_exited")
    ready = daemon.events("worker_ready")
    alone = daemon.run("restart", "1")
    third = [worker["pid"] for worker in daemon.workers()]
    revoked = [line for line in daemon.events("partitions_revoked") if line["pid"] not in (*first, second[1])]
    scaled_up = daemon.run("scale", "4")
    four = daemon.workers()
    daemon.wait_for(lambda: all(worker["assignment"] for worker in daemon.workers()), what="a partition for each")
    scaled_down = daemon.run("scale", "1")
    (one,) = daemon.workers()
    daemon.wait_for(lambda: len(daemon.workers()[0]["assignment"]) == 4, what="all partitions for the last one")
    daemon.wait_for(lambda: len(recording.seen(orders)) == 4000, what="the end", within=60)
    assert daemon.stop() == 0

    assert (restarted.returncode, restarted.stdout.split(" (")[0]) == (0, "all workers were replaced")
    assert not set(first) & set(second)
    assert [line["pid"] for line in exits] == first, "not one after the other"
    assert ready[2]["timestamp"] <= exits[1]["timestamp"], "the second was replaced before the first was back"
    assert {line["reason"] for line in exits} == {"requested"}
    assert (alone.returncode, third[0]) == (0, second[0])
    assert third[1] != second[1]
    assert not revoked, "another worker's restart took partitions from somebody"
    assert (scaled_up.returncode, [worker["state"] for worker in four]) == (0, ["running"] * 4)
    assert (scaled_down.returncode, one["index"], one["pid"]) == (0, 0, third[0])
    assert [(line["before"], line["workers"]) for line in daemon.events("swarm_scaled")] == [(2, 4), (4, 1)]
    offsets = recording.offsets(orders)
    assert {partition: sorted(seen) for partition, seen in offsets.items()} == {p: list(range(1000)) for p in range(4)}
    assert broker.committed(daemon.group) == {(orders, partition): 1000 for partition in range(4)}


def test_what_cannot_be_replaced_or_scaled_is_refused(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """In one line that says what there is; the swarm goes on as before."""
    daemon = swarm_project(APP.format(orders=topic()), {"swarm": {"workers": 1}})
    Recording(daemon.folder)
    daemon.start().until_running()
    before = [worker["pid"] for worker in daemon.workers()]

    nobody = daemon.run("restart", "7")
    none = daemon.run("scale", "0")
    after = [worker["pid"] for worker in daemon.workers()]
    assert daemon.stop() == 0

    assert nobody.returncode != 0
    assert "there is no worker 7" in nobody.stderr
    assert none.returncode != 0
    assert "1<=x<=256" in none.stderr
    assert after == before
