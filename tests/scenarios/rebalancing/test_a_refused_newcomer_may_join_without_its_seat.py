from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from tests.scenarios.rebalancing.ledger import HANDLER, balance, steady_input
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = HANDLER + '\n    app.subscribe("TOPIC", max_messages=20)(Noted)\n'


def test_a_newcomer_that_the_broker_refuses_its_seat_joins_under_a_fresh_identity(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """`group.protocol=consumer` and `refused_seat = "dynamic"`: a share of what the living have at once, that of the dead only when its
    session is over; its next planned successor has the seat again. Nothing is lost, nothing repeated but what the kill explains."""
    orders = topic(partitions=4)
    daemon = swarm_project(
        APP.replace("TOPIC", orders),
        {"kafka": {"group.protocol": "consumer"}, "supervision": {"refused_seat": "dynamic"}},
    )
    recording = Recording(daemon.folder)
    with steady_input(broker, {orders: 4}) as written:
        daemon.start().until_running()
        daemon.wait_for(lambda: len(recording.offsets(orders)) == 4, what="every partition to be under way")
        victim = daemon.workers()[1]["pid"]
        os.kill(victim, signal.SIGKILL)
        killed_at = time.monotonic()
        (forgone,) = daemon.wait_for_event("seat_forgone")
        daemon.wait_for(lambda: recording.all(pid=forgone["pid"]), what="the newcomer to have a share")
        daemon.wait_for(
            lambda: sum(len(worker["assignment"]) for worker in daemon.workers()) == 4, what="the dead one's partitions"
        )
        restarted = daemon.run("restart", "1")
        daemon.wait_for(lambda: recording.all(pid=daemon.workers()[1]["pid"]), what="its successor to have its share")
    daemon.wait_for(lambda: len(recording.seen(orders)) == written.count(orders), what="the rest", within=60)
    assert daemon.stop() == 0

    assert restarted.returncode == 0, restarted.stderr
    assert forgone["instance"].endswith(".1")
    assert len(daemon.events("seat_forgone")) == 1
    assert len(daemon.events("client_rebuilt")) == 1
    assert [event["pid"] for event in daemon.events("worker_exited") if event["reason"] != "requested"] == [victim]
    balance([recording], written.written, {victim: killed_at})
    assert broker.committed(daemon.group) == written.written
