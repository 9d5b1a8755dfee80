"""What a person, a script and `ps` see of a running swarm: the contract's status and process titles."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon
from tests.support.kafka import Broker

APP = """
    import gc
    import os
    from swarm import App

    app = App("seen")

    @app.after_fork
    def count(worker):
        with open(f"frozen-{os.getpid()}", "w") as file:
            print(gc.get_freeze_count(), file=file)

    @app.subscribe("TOPIC")
    def handle(messages):
        if any(message.raw == b"bad" for message in messages):
            raise ValueError("no good")
"""

Number = (int, float)
SWARM: dict[str, Any] = {
    "name": str,
    "pid": int,
    "state": str,
    "version": str,
    "started_at": str,
    "allocator": str,
    "groups": list,
    "workers": list,
}
WORKER: dict[str, Any] = {
    "index": int,
    "pid": int,
    "state": str,
    "uptime": Number,
    "restarts": int,
    "last_exit": type(None),
    "report_age": Number,
    "poll_age": Number,
    "job_age": type(None),
    "messages": int,
    "batches": int,
    "errors": int,
    "health": str,
    "memory": dict,
    "cpu_percent": Number,
    "assignment": list,
}
PARTITION = {"group": str, "topic": str, "partition": int, "position": int, "committed": int, "lag": int}
MEMORY = {"rss": int, "uss": int, "pss": int}


def test_every_promised_fact_is_there(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Every key with its type; counters and lag are right; the third worker of two partitions is a healthy standby."""
    name = topic(2)
    daemon = swarm_project(APP.replace("TOPIC", name), {"swarm": {"workers": 3}, "worker": {"commit_interval": 0.1}})
    daemon.expect_errors("consume_failed")
    daemon.start().until_running()
    for partition in (0, 1):
        broker.produce(name, [(None, "good")] * 5, partition)

    def all_committed() -> bool:
        assigned = [each for worker in daemon.workers() for each in worker["assignment"]]
        return [each["committed"] for each in assigned] == [5, 5] and all(each["lag"] == 0 for each in assigned)

    daemon.wait_for(all_committed, what="everything to be committed")
    broker.produce(name, [(None, "bad")], 0)
    daemon.wait_for(lambda: any(each["lag"] == 1 for each in assignment(daemon)), what="a lag of one")

    status = daemon.status()
    assert_types(status, SWARM)
    assert (status["name"], status["pid"], status["state"]) == ("shop", daemon.pid, "running")
    assert status["groups"] == [daemon.group]
    assert datetime.datetime.fromisoformat(status["started_at"]).tzinfo is not None
    for number, worker in enumerate(daemon.workers()):
        assert_types(worker, WORKER)
        assert_types(worker["memory"], MEMORY)
        assert worker["index"] == number
        assert worker["state"] == "running"
        frozen = int((daemon.folder / f"frozen-{worker['pid']}").read_text())
        assert frozen > 10_000, (
            "what was loaded before the fork is looked at by each collection, and its pages are copied"
        )
        assert max(worker["report_age"], worker["poll_age"]) < worker["uptime"]
        assert 0 < worker["memory"]["uss"] <= worker["memory"]["rss"]
        for partition in worker["assignment"]:
            assert_types(partition, PARTITION)
            assert (partition["group"], partition["topic"]) == (daemon.group, name)
    health = sorted((len(worker["assignment"]), worker["health"]) for worker in daemon.workers())
    assert health == [(0, "standby"), (1, "ok"), (1, "ok")]
    assert sum(worker["messages"] for worker in daemon.workers()) == 10
    assert sum(worker["errors"] for worker in daemon.workers()) >= 1

    titles = {title(daemon.pid), *(title(worker["pid"]) for worker in daemon.workers())}
    expected = {"swarm: shop [supervisor] running"}
    for worker in daemon.workers():
        held = ",".join(str(each["partition"]) for each in worker["assignment"])
        expected.add(f"swarm: shop [worker {worker['index']}] running {name}/{held}" if held else NO_PARTITION % worker)
    assert titles == expected
    assert daemon.stop() == 0


NO_PARTITION = "swarm: shop [worker %(index)d] running"


def assignment(daemon: Daemon) -> list[dict[str, Any]]:
    return [each for worker in daemon.workers() for each in worker["assignment"]]


def assert_types(facts: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every key is there, with a value of its type."""
    wrong = {key: facts.get(key, "missing") for key, kind in expected.items() if not isinstance(facts.get(key), kind)}
    assert set(expected) <= set(facts)
    assert not wrong


def title(pid: int) -> str:
    """As `ps` shows it."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()
