from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Line
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("ORDERS")
    def orders(message):
        record(message)
"""

SECRET = "planted-hunter2-in-properties"


def given(daemon: Daemon) -> list[Line]:
    """The assignments that brought something; in a cooperative rebalance each member is told also that nothing is new for it."""
    return [each for each in daemon.events("partitions_assigned") if each["partitions"]]


@pytest.mark.limit(240)  # it starts some dozens of commands
def test_a_worker_is_debugged_for_a_while_and_logs_more(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """It is replaced under its static id, nobody else notices, what librdkafka says is in a file of its own without a secret, and after
    the time it is an ordinary one again; what it logs changes without a replacement."""
    orders = topic(partitions=2)
    daemon = swarm_project(
        APP.replace("ORDERS", orders),
        {"kafka": {"sasl.username": "planted-user-name", "sasl.password": SECRET}, "log": {"level": "info"}},
    )
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    # Workers that join one after the other hand partitions over: only what is revoked after that is the order's doing.
    daemon.wait_for(
        lambda: all(len(worker["assignment"]) == 1 for worker in daemon.workers()), what="one partition each"
    )
    daemon.wait_for(lambda: {each["worker"] for each in given(daemon)} == {0, 1}, what="the log to say so")
    before = [worker["pid"] for worker in daemon.workers()]
    assigned = len(given(daemon))
    revoked = len(daemon.events("partitions_revoked"))

    refused = daemon.run("debug", "1", "--flags", "cgrp,ftech")
    assert (
        refused.returncode,
        "librdkafka knows no debug context ftech; it knows generic, broker, " in refused.stderr,
    ) == (1, True)
    done = daemon.run("debug", "1", "--flags", "all", "--for", "3", "--json")
    assert done.returncode == 0, done.stderr
    [order] = json.loads(done.stdout)["debugged"]
    path = Path(order["path"])
    assert (order["worker"], order["flags"], order["begun"]) == (1, "all", True)

    daemon.wait_for(lambda: "Group" in path.read_text() and "ASSIGN" in path.read_text(), what="lines of librdkafka's")
    daemon.wait_for_event("debug_ended", worker=1)
    started = daemon.wait_for_event(
        "worker_started", count=3, worker=1
    )  # an ordinary one, one that tells more, an ordinary one
    daemon.until_running()
    assert [worker["pid"] for worker in daemon.workers()] == [before[0], started[2]["pid"]]
    assert json.loads(daemon.run("debug", "--json").stdout) == {"debugged": []}
    text = path.read_text()
    assert "[thrd:" in text
    assert "planted" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "planted" not in daemon.log
    assert not [line for line in daemon.events("log") if line["level"] == "debug"]
    # What a predecessor lays down at its end its successor takes up, each in its seat; the other worker notices nothing.
    ended = [each["pid"] for each in daemon.events("partitions_revoked")[revoked:]]
    begun = [each["pid"] for each in given(daemon)[assigned:]]
    assert ended == [before[1], started[1]["pid"]]
    assert begun == [started[1]["pid"], started[2]["pid"]]

    assert not daemon.events("batch_consumed")
    assert daemon.run("log-level", "debug").returncode == 0
    for partition in range(2):
        broker.produce(orders, [(None, "1")], partition=partition)
    daemon.wait_for_event("batch_consumed", count=2)
    assert daemon.run("log-level", "info", "0").returncode == 0
    daemon.wait_for_event("log_level_set", threshold="info")
    assert daemon.run("log-level", "loud").returncode == 1

    daemon.wait_for(lambda: len(recording.all()) == 2, what="both messages")
    assert daemon.stop() == 0
