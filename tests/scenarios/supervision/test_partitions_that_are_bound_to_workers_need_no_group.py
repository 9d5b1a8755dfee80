"""`partitions=` on a subscription: each worker takes what is bound to it, without a membership, and commits under the group's id."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.scenarios.supervision.explaining import until
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("{orders}", partitions={bound}, delivery="{delivery}")
    def order(message, consumer):
        record(message)
        consumer.producer.produce("{done}", value=message.raw)
        time.sleep(0.002)  # the work
"""

BOUND = {0: [0, 1], 1: [2, 3]}


def held(daemon: Daemon) -> dict[int, list[int]]:
    """Worker -> its partitions, as `status` shows them."""
    return {w["index"]: [each["partition"] for each in w["assignment"]] for w in daemon.workers()}


def change(daemon: Daemon, old: str, new: str) -> None:
    """A deployment."""
    path = daemon.folder / "app.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_each_worker_consumes_what_is_bound_to_it_and_goes_on_at_the_commit_after_a_kill(
    delivery: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """No partition ever changes its worker; nothing is lost, everything committed, exactly once where that was asked for."""
    orders, done = topic(partitions=4), topic(partitions=1)
    daemon = swarm_project(
        APP.format(orders=orders, done=done, bound=BOUND, delivery=delivery),
        {"swarm": {"workers": 2}, "worker": {"commit_interval": 0.5}},
    )
    recording = Recording(daemon.folder)
    for partition in range(4):
        broker.produce(orders, [(None, f"{partition}/{number}") for number in range(200)], partition)
    daemon.start().until_running()
    daemon.wait_for(lambda: len(recording.seen(orders)) > 100, what="some of it")
    os.kill(daemon.workers()[0]["pid"], signal.SIGKILL)
    daemon.wait_for(lambda: len(recording.seen(orders)) == 800, what="all of it", within=60)
    # What the killed worker had done and not committed is done again before anything of it can be committed.
    everything = {(orders, partition): 200 for partition in range(4)}
    daemon.wait_for(lambda: broker.committed(daemon.group) == everything, what="all of it committed", within=60)
    assert daemon.stop() == 0

    outputs = [message.value() for message in broker.read_all(done, read_committed=True)]
    workers: dict[int, set[int]] = {}
    for event in daemon.events("partitions_assigned"):
        for _, partition, _ in event["partitions"]:
            workers.setdefault(partition, set()).add(event["worker"])
    assert workers == {0: {0}, 1: {0}, 2: {1}, 3: {1}}
    assert broker.committed(daemon.group) == {(orders, partition): 200 for partition in range(4)}
    assert len(set(outputs)) == 800
    assert delivery == "at_least_once" or len(outputs) == 800


def test_scale_and_reload_never_move_a_bound_partition_and_say_what_they_refuse(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """More workers stand by, fewer are refused, as is a map that moves one; a partition that the map has forgotten is an alarm, one
    that does not exist is said, and both end when they are mended."""
    orders, done = topic(partitions=3), topic(partitions=1)
    daemon = swarm_project(
        APP.format(orders=orders, done=done, bound={0: [0], 1: [1, 3]}, delivery="at_least_once"),
        {"swarm": {"workers": 2}, "supervision": {"ownership_interval": 1.0}},
    )
    daemon.expect_errors("partition_unowned", "reload_refused")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    (missing,) = daemon.wait_for_event("partition_missing")
    (forgotten,) = daemon.wait_for_event("partition_unowned")
    why = until(daemon, "unowned")["verdict"]
    doctor = daemon.run("doctor", "--seconds", "0").stdout
    fewer = daemon.run("scale", "1")
    more = daemon.run("scale", "3")
    change(daemon, "{0: [0], 1: [1, 3]}", "{0: [1], 1: [0, 3]}")
    moved = daemon.run("reload")
    change(daemon, "{0: [1], 1: [0, 3]}", "{0: [0, 2], 1: [1, 3]}")
    broker.add_partitions(orders, 4)
    reloaded = daemon.run("reload")
    daemon.wait_for(lambda: held(daemon) == {0: [0, 2], 1: [1, 3]}, what="the partitions", within=60)
    daemon.wait_for(lambda: daemon.status()["unowned"] == [], what="the alarm to end")
    for partition in range(4):
        broker.produce(orders, [(None, str(number)) for number in range(10)], partition)
    daemon.wait_for(lambda: len(recording.seen(orders)) == 40, what="the messages")
    assert daemon.stop() == 0

    def said(event: dict[str, Any]) -> Any:
        return event["topic"], event.get("partition", event.get("partitions"))

    assert f"{orders}/2 is bound to no worker, for " in why
    assert f"{orders}/2 is bound to no worker, so the group {daemon.group} reads nothing of it" in doctor
    assert (said(missing), said(forgotten)) == ((orders, 3), (orders, [2]))
    assert (fewer.returncode, more.returncode, moved.returncode, reloaded.returncode) == (1, 0, 1, 0), reloaded.stderr
    assert "is placed on worker 1, so 2 workers are the fewest" in fewer.stderr
    assert f"{orders}/0 is bound to worker 0, and would be to worker 1" in moved.stderr
