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


def test_a_static_newcomer_that_the_broker_refuses_waits_with_backoff_and_no_worker_exits(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """`group.protocol=consumer` keeps a killed member's static id until its session is over (here 3 s; 45 s by default):
    UNRELEASED_INSTANCE_ID. Its client is made anew, visibly and ever less often; the other worker goes on meanwhile."""
    orders = topic(partitions=4)
    daemon = swarm_project(APP.replace("TOPIC", orders), {"kafka": {"group.protocol": "consumer"}})
    recording = Recording(daemon.folder)
    with steady_input(broker, {orders: 4}) as written:
        daemon.start().until_running()
        daemon.wait_for(lambda: len(recording.offsets(orders)) == 4, what="every partition to be under way")
        victim = daemon.workers()[1]["pid"]
        os.kill(victim, signal.SIGKILL)
        killed_at = time.monotonic()
        # Not at one moment: between two tries it has a client for an instant, and is no more than a member without partitions.
        daemon.wait_for(lambda: daemon.workers()[1]["health"] == "fenced", what="it to say that its seat is taken")
        daemon.wait_for_event("client_rebuilt", count=2)
        daemon.wait_for(lambda: recording.all(pid=daemon.workers()[1]["pid"]), what="the newcomer to have its share")
    daemon.wait_for(lambda: len(recording.seen(orders)) == written.count(orders), what="the rest")
    status = daemon.workers()[1]
    assert daemon.stop() == 0

    refused = daemon.events("client_rebuilt")
    assert 2 <= len(refused) <= 4, "the wait doubles from half a second on"
    assert {event["pid"] for event in refused} == {status["pid"]}
    assert all("instance" in event["error"].lower() for event in refused)
    assert status["health"] == "ok"
    assert [event["pid"] for event in daemon.events("worker_exited") if event["reason"] != "requested"] == [victim]
    balance([recording], written.written, {victim: killed_at})
    assert broker.committed(daemon.group) == written.written
