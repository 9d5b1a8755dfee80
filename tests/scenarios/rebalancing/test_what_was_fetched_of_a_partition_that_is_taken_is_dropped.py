from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import pytest

from tests.scenarios.rebalancing.ledger import HANDLER, balance
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

# Slow until the partitions have moved, so that nobody is through before.
APP = (
    HANDLER.replace("time.sleep(0.002)", 'time.sleep(0.0 if Path("fast").exists() else 0.02)').replace(
        "import time", "import time\n    from pathlib import Path", 1
    )
    + '\n    app.subscribe("TOPIC", max_messages=5)(Noted)\n'
)
PARTITIONS, MESSAGES = 4, 500


@pytest.mark.parametrize("protocol", [{}, {"group.protocol": "consumer"}], ids=["classic", "consumer"])
def test_what_was_fetched_of_a_partition_that_is_taken_is_dropped_and_read_again_by_its_next_holder(
    protocol: dict[str, str], broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """One worker has all in store; half of it goes to a second one, and comes back to the first, whose own store is old by then."""
    orders = topic(partitions=PARTITIONS)
    daemon = swarm_project(
        APP.replace("TOPIC", orders), {"swarm": {"workers": 1}, "worker": {"concurrency": 1}, "kafka": protocol}
    )
    recording = Recording(daemon.folder)
    for partition in range(PARTITIONS):
        broker.produce(orders, [(None, str(number)) for number in range(MESSAGES)], partition)

    def held() -> list[int]:
        return [len(worker["assignment"]) for worker in daemon.workers()]

    daemon.start()
    daemon.wait_for(
        lambda: all("in store" in daemon.run("why", f"{orders}/{number}").stdout for number in range(PARTITIONS)),
        what="every partition to be in store",
    )
    first = daemon.workers()[0]["pid"]
    assert daemon.run("scale", "2").returncode == 0
    daemon.wait_for(lambda: held() == [2, 2], what="an even share")
    second = daemon.workers()[1]["pid"]
    daemon.wait_for(
        lambda: len({each.partition for each in recording.all(pid=second)}) == 2,
        what="the second worker to work on both",
    )
    assert daemon.run("scale", "1").returncode == 0
    daemon.wait_for(lambda: held() == [4], what="all of it to come back")
    (daemon.folder / "fast").touch()
    daemon.wait_for(lambda: len(recording.seen(orders)) == PARTITIONS * MESSAGES, what="every message")
    assert daemon.stop() == 0

    assert balance([recording], {(orders, partition): MESSAGES for partition in range(PARTITIONS)}) == {}
    moved = {each.partition for each in recording.all(pid=second)}
    assert len(moved) == 2
    for partition in moved:
        holders = [pid for pid, _ in groupby(each.pid for each in recording.all(partition=partition))]
        assert holders == [first, second, first]
