from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from tests.support.daemon import Daemon, Line
from tests.support.kafka import Broker
from tests.support.recording import Recording, by_partition, repeated

APP = """
    import time
    from swarm import App, Consumer
    from recording import record

    app = App("shop")

    @app.subscribe("{topic}", max_messages=10)
    class Orders(Consumer):
        def consume(self, messages):
            for message in messages:
                record(message)
                time.sleep(0.002)  # the work
"""


def test_a_killed_worker_is_followed_by_another_in_its_seat_that_repeats_only_what_it_had_not_committed(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """SIGKILL: nothing lost; what is twice lies between the last commit and the kill; the others see no rebalance."""
    orders = topic(partitions=6)
    daemon = swarm_project(
        APP.format(topic=orders),
        {"swarm": {"workers": 3}, "worker": {"commit_interval": 0.2}, "log": {"level": "debug"}},
    )
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    daemon.wait_for(
        lambda: sorted(len(worker["assignment"]) for worker in daemon.workers()) == [2, 2, 2], what="an even share"
    )
    victim = daemon.workers()[1]["pid"]  # asked before there is work: on a busy machine the answer takes its time
    for partition in range(6):
        broker.produce(orders, [(None, str(number)) for number in range(400)], partition)
    daemon.wait_for(
        lambda: len(recording.offsets(orders)) == 6 and min(map(len, recording.offsets(orders).values())) > 150,
        what="every partition to be under way",
    )

    rebalances = len(_rebalances_of_others(daemon, victim))
    os.kill(victim, signal.SIGKILL)
    killed_at = time.monotonic()
    daemon.wait_for(lambda: len(recording.seen(orders)) == 6 * 400, what="every message")
    successor = daemon.workers()[1]
    noticed = _rebalances_of_others(daemon, victim, successor["pid"])[rebalances:]
    assert daemon.stop() == 0

    assert successor["last_exit"]["reason"] == "killed"
    assert successor["last_exit"]["signal"] == "SIGKILL"
    before = by_partition(recording.all(pid=victim))
    after = by_partition(recording.all(pid=successor["pid"]))
    assert len(before) == 2
    assert set(after) == set(before), "the successor has the killed worker's partitions and no others"

    committed: dict[int, int] = {}
    for event in daemon.events("offsets_committed", pid=victim):
        committed.update({partition: offset for _, partition, offset in event["offsets"]})
    everything = recording.offsets(orders)
    for partition, offsets in everything.items():
        assert set(offsets) == set(range(400)), "lost"
        if partition in before:
            assert after[partition][0] == committed[partition]
            assert repeated(offsets) == set(range(committed[partition], before[partition][-1] + 1))
        else:
            assert offsets == list(range(400)), "a partition of a worker that was not killed"

    assert noticed == []
    answer = daemon.audit()
    assert {each["cause"] for each in answer["duplicates"]} == {"crash"}
    assert {(each["partition"], each["first_offset"]) for each in answer["duplicates"]} == set(committed.items())
    assert (answer["gaps"], answer["exit"]) == ([], 0)
    first = recording.all(pid=successor["pid"])[0]
    assert first.at - killed_at < 3.0, "with the default session timeout it is 45 s where nobody takes the seat"


def _rebalances_of_others(daemon: Daemon, *pids: int) -> list[Line]:
    names = ("partitions_assigned", "partitions_revoked", "partitions_lost")
    return [line for line in daemon.events() if line["event"] in names and line["pid"] not in pids]
