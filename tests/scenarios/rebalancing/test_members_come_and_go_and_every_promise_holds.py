from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.scenarios.rebalancing.ledger import HANDLER, balance, steady_input
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = (
    HANDLER
    + """
    app.subscribe("TOPIC", max_messages=20)(Noted)

    @app.after_fork
    def join_one_after_another(worker):
        time.sleep(0.4 * worker)
"""
)
PARTITIONS = 6
PROTOCOLS: dict[str, dict[str, str]] = {
    "cooperative-sticky": {},
    "range": {"partition.assignment.strategy": "range"},
    "roundrobin": {"partition.assignment.strategy": "roundrobin"},
    "consumer": {"group.protocol": "consumer"},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_members_join_die_and_leave_under_load_and_nothing_is_lost_repeated_or_owned_twice(
    protocol: str, broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """Three join one after another, one is killed, a second swarm joins the group and leaves it. In order, never two at once;
    only what the killed one had not committed runs again; all is committed in the end."""
    orders = topic(partitions=PARTITIONS)
    first, second = (
        swarm_project(
            APP.replace("TOPIC", orders),
            {
                "swarm": {"group_id": group, "workers": workers},
                "kafka": PROTOCOLS[protocol],
                "worker": {"commit_interval": 0.2},
                "log": {"level": "debug"},
            },
            name=name,
        )
        for name, workers in (("shop", 3), ("extra", 2))
    )
    recordings = [Recording(daemon.folder) for daemon in (first, second)]

    def share(daemon: Daemon, partitions: int) -> Callable[[], bool]:
        return lambda: sum(len(worker["assignment"]) for worker in daemon.workers()) == partitions

    with steady_input(broker, {orders: PARTITIONS}) as written:
        first.start().until_running()
        first.wait_for(
            lambda: [len(worker["assignment"]) for worker in first.workers()] == [2, 2, 2], what="an even share"
        )
        first.wait_for(lambda: len(recordings[0].offsets(orders)) == PARTITIONS, what="every partition to be under way")

        victim = first.workers()[1]["pid"]
        os.kill(victim, signal.SIGKILL)
        killed = {victim: time.monotonic()}
        first.wait_for(
            lambda: (
                {each.partition for each in recordings[0].all() if each.at > killed[victim] + 0.2}
                == set(range(PARTITIONS))
            ),
            what="the killed worker's partitions to go on",
        )
        second.start().until_running()
        second.wait_for(lambda: len(recordings[1].offsets(orders)) >= 2, what="the second swarm to have a share")
        assert second.stop() == 0
        left_at = time.monotonic()
        first.wait_for(share(first, PARTITIONS), what="all partitions to be the first swarm's again")
        first.wait_for(
            lambda: {each.partition for each in recordings[0].all() if each.at > left_at} == set(range(PARTITIONS)),
            what="every partition to go on",
        )
    first.wait_for(lambda: sum(map(len, seen(recordings, orders).values())) == written.count(orders), what="the rest")
    assert first.stop() == 0

    repeats = balance(recordings, written.written, killed)
    committed: dict[int, int] = {}
    for event in first.events("offsets_committed", pid=victim):
        committed.update({partition: offset for _, partition, offset in event["offsets"]})
    for (_, partition), steps in repeats.items():
        ((start, _),) = steps
        assert start >= committed[partition], "repeated although the killed worker had committed it"
    assert broker.committed(group) == written.written
    assert [event["reason"] for event in first.events("worker_exited") if event["reason"] != "requested"] == ["killed"]


def seen(recordings: list[Recording], topic: str) -> dict[int, set[int]]:
    """Partition -> the offsets that any of them holds."""
    found: dict[int, set[int]] = {}
    for recording in recordings:
        for partition, offset in recording.seen(topic):
            found.setdefault(partition, set()).add(offset)
    return found
