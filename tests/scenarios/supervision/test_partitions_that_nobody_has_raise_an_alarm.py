"""Partitions without an owner: here new ones, which a group whose metadata are refreshed rarely does not notice for long."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil

from swarm.display import remarks
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


def test_partitions_that_nobody_in_the_group_has_raise_an_alarm_until_somebody_gets_them(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """`status` names them, the swarm stays up and ready, and a worker leaves and joins again: a rebalance, at which the group's leader
    asks anew, ends it."""
    orders = topic(partitions=2)
    daemon = swarm_project(
        APP.format(orders=orders),
        {
            "swarm": {"workers": 1},
            "supervision": {"ownership_interval": 1.0},
            "kafka": {"topic.metadata.refresh.interval.ms": 600_000},
        },
    )
    daemon.expect_errors("partition_unowned")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    daemon.wait_for(lambda: len(daemon.workers()[0]["assignment"]) == 2, what="the partitions that there are")
    daemon.wait_for(lambda: daemon.status()["ownership"]["checked"] is not None, what="a look at the owners")
    before = daemon.status()["unowned"]
    broker.add_partitions(orders, 4)
    alarmed = daemon.wait_for(lambda: with_alarm(daemon), what="the alarm in its status")
    (alarm,) = daemon.wait_for_event("partition_unowned")
    daemon.wait_for(lambda: daemon.status()["unowned"] == [], what="the alarm to end", within=60)
    broker.produce(orders, [(None, "new")], 3)
    daemon.wait_for(lambda: recording.seen(orders), what="the new partition to be read")
    assert daemon.stop() == 0

    assert before == []
    assert len(daemon.events("group_rejoined")) == 1
    assert (alarm["group"], alarm["topic"], alarm["partitions"]) == (daemon.group, orders, [2, 3])
    assert f"nobody in group {daemon.group} has {orders}/2,3" in "\n".join(remarks(alarmed, time.time()))
    assert [(each["topic"], each["partition"]) for each in alarmed["unowned"]] == [(orders, 2), (orders, 3)]


def with_alarm(daemon: Daemon) -> dict[str, Any] | None:
    """Its status, if it names partitions without an owner: that may last for no longer than a second."""
    status = daemon.status()
    return status if status["unowned"] else None


def crash_who_asks(daemon: Daemon) -> bool:
    """Abort the supervisor's child that asks the broker for owners, if there is one at this moment."""
    for child in psutil.Process(daemon.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "[owners]" in " ".join(child.cmdline()):
                child.send_signal(signal.SIGABRT)
                return True
    return False


def test_who_asks_for_owners_may_die_and_costs_no_worker(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """librdkafka's admin requests have ended their process in chaos. `status` says why nothing is known, and soon it is known again."""
    orders = topic()
    daemon = swarm_project(
        APP.format(orders=orders), {"swarm": {"workers": 1}, "supervision": {"ownership_interval": 1.0}}
    )
    Recording(daemon.folder)
    daemon.start().until_running()
    before = [worker["pid"] for worker in daemon.workers()]

    def error() -> str:
        return daemon.status()["ownership"]["error"] or ""

    daemon.wait_for(
        lambda: crash_who_asks(daemon) and "ended: killed by SIGABRT" in error(), what="its death", within=60
    )
    daemon.wait_for(lambda: not error(), what="another look")
    assert [worker["pid"] for worker in daemon.workers()] == before
    assert daemon.stop() == 0
