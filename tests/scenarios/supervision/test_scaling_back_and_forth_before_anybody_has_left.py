from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable

from tests.scenarios.supervision.incidents import incidents
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import os, threading, time
    from swarm import App
    from recording import note, record

    app = App("shop")

    def first(name):
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    @app.each("{orders}")
    def order(message):
        if message.raw == b"stuck" and first("stuck"):
            note("stuck")
            threading.Event().wait()
        record(message)
        time.sleep(0.01)  # the work
"""


def indexes(daemon: Daemon) -> set[str]:
    """The workers of which the metrics speak."""
    with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=10) as answer:
        return set(re.findall(r'swarm_worker_up\{worker="(\d+)"\} 1', answer.read().decode()))


def test_scaling_back_and_forth_before_anybody_has_left_ends_with_the_last_number(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Who was to leave and is wanted again comes back; one that is stuck while it leaves is shown and killed; metrics follow; no
    message is lost."""
    orders = topic(partitions=4)
    settings = {
        "swarm": {"workers": 2, "shutdown_timeout": 6.0},  # who leaves in the middle of a rebalance needs some seconds
        "worker": {"commit_interval": 0.1},
        "kafka": {"session.timeout.ms": 6000},  # after which the group does without one that could not leave
    }
    daemon = swarm_project(APP.format(orders=orders), settings)
    recording = Recording(daemon.folder)
    daemon.expect_errors("worker_killed")
    daemon.start().until_running()
    for partition in range(4):
        broker.produce(orders, [(None, str(number)) for number in range(200)], partition)
    daemon.wait_for(lambda: len(recording.seen(orders)) > 40, what="some messages")
    before = [worker["pid"] for worker in daemon.workers()]

    for count in ("4", "1", "3"):
        assert daemon.run("scale", count, "--no-wait").returncode == 0
    back = daemon.run("scale", "2")
    two = daemon.workers()
    daemon.wait_for(lambda: len(recording.seen(orders)) == 800, what="all messages")
    daemon.wait_for(
        lambda: all(len(worker["assignment"]) == 2 for worker in daemon.workers()), what="two partitions each"
    )
    daemon.wait_for(lambda: indexes(daemon) == {"0", "1"}, what="metrics of both")
    for line in daemon.workers()[1]["assignment"]:
        broker.produce(orders, [(None, "stuck")], line["partition"])
    daemon.wait_for(lambda: recording.all("stuck"), what="a stuck worker")
    scaled = daemon.run("scale", "1")
    daemon.wait_for(lambda: len(recording.seen(orders)) == 802, what="the last ones")
    daemon.wait_for(lambda: indexes(daemon) == {"0"}, what="metrics of the one")
    with urllib.request.urlopen(f"{daemon.url}/readyz", timeout=10) as answer:
        ready = answer.status
    assert daemon.stop() == 0

    assert (back.returncode, scaled.returncode, ready) == (0, 0, 200)
    assert [worker["state"] for worker in two] == ["running"] * 2
    assert two[0]["pid"] == before[0], "worker 0 was never to leave"
    (killed,) = daemon.events("worker_killed")
    assert (killed["worker"], killed["reason"]) == (1, "requested")
    assert [(each["worker"], "wait" in each["backtrace"]) for each in incidents(daemon)] == [(1, True)]
    assert not daemon.events("observer_failed")
    assert not daemon.events("worker_backoff")
