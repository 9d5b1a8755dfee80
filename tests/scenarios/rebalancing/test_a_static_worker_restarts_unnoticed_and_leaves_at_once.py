from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.scenarios.rebalancing.ledger import HANDLER, balance, steady_input
from tests.support.daemon import Daemon, Line
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = HANDLER + '\n    app.subscribe("TOPIC", max_messages=20)(Noted)\n'
PROTOCOLS: dict[str, dict[str, str]] = {
    "cooperative-sticky": {},
    "range": {"partition.assignment.strategy": "range"},
    "consumer": {"group.protocol": "consumer"},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_others_notice_nothing_of_a_restart_and_get_the_partitions_of_one_that_is_retired_at_once(
    protocol: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A worker that is asked to go comes back to its partitions, which nobody else had meanwhile; one that the swarm does without
    hands its own over long before a session (45 s; with `consumer` here 3 s) is over. Nothing is lost, and none runs twice."""
    orders = topic(partitions=6)
    daemon = swarm_project(APP.replace("TOPIC", orders), {"swarm": {"workers": 3}, "kafka": PROTOCOLS[protocol]})
    recording = Recording(daemon.folder)

    def shares() -> list[list[int]]:
        return [sorted(each["partition"] for each in worker["assignment"]) for worker in daemon.workers()]

    with steady_input(broker, {orders: 6}) as written:
        daemon.start().until_running()
        daemon.wait_for(lambda: [len(share) for share in shares()] == [2, 2, 2], what="an even share")
        before, old = shares(), daemon.workers()[1]["pid"]
        noticed = len(rebalances_of(daemon, 0, 2))
        os.kill(old, signal.SIGTERM)
        daemon.wait_for_event("worker_exited", worker=1, reason="finished")
        daemon.wait_for(
            lambda: daemon.workers()[1]["pid"] not in (None, old) and shares() == before, what="the seat to be taken"
        )
        successor = daemon.workers()[1]["pid"]
        daemon.wait_for(
            lambda: {each.partition for each in recording.all(pid=successor)} == set(before[1]), what="it to go on"
        )
        assert rebalances_of(daemon, 0, 2)[noticed:] == []

        assert daemon.run("scale", "2").returncode == 0
        daemon.wait_for(lambda: sum(map(len, shares())) == 6, within=20.0, what="all partitions to have an owner")
    daemon.wait_for(lambda: len(recording.seen(orders)) == written.count(orders), what="the rest")
    assert daemon.stop() == 0

    assert balance([recording], written.written) == {}
    assert broker.committed(daemon.group) == written.written
    assert daemon.events("partitions_lost") + daemon.events("client_rebuilt") == []


def rebalances_of(daemon: Daemon, *workers: int) -> list[Line]:
    names = ("partitions_assigned", "partitions_revoked", "partitions_lost")
    return [line for line in daemon.events() if line["event"] in names and line["worker"] in workers]
