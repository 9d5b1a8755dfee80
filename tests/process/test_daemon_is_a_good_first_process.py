"""A container's PID 1: it hears TERM, reaps what others leave behind, and takes everything with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import SWARMCTL, Daemon
from tests.support.tether import tethered
from tests.support.waiting import wait_for

NO_BROKER = "127.0.0.1:1"

# Each worker leaves grandchildren behind that end only when the file `go` is there: nobody of ours waits for them.
APP = """
    import os, time
    from swarm import App

    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass

    @app.after_fork
    def leave_orphans(worker):
        for _ in range(0 if os.path.exists("go") else 5):
            if os.fork() == 0:
                if os.fork() == 0:
                    os.write(os.open("orphans", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), b"%d\\n" % os.getpid())
                    while not os.path.exists("go"):
                        time.sleep(0.01)
                os._exit(0)
            os.wait()
"""


def orphans(daemon: Daemon) -> list[int]:
    file = daemon.folder / "orphans"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def test_orphans_of_an_application_leave_no_zombies(swarm_project: Callable[..., Daemon]) -> None:
    """Processes that an application has left behind are reaped, also where they end together with a worker."""
    daemon = swarm_project(APP, bootstrap=NO_BROKER)
    daemon.start()
    daemon.wait_for(lambda: len(orphans(daemon)) == 10, what="orphans")
    first = daemon.wait_for(daemon.workers, what="its workers")

    os.kill(daemon.pid, signal.SIGSTOP)  # so that all of it has happened when the supervisor looks
    (daemon.folder / "go").touch()
    for worker in first:
        os.kill(worker["pid"], signal.SIGKILL)
    daemon.wait_for(lambda: len(zombies(daemon.pid)) == 12, what="all to have ended")
    os.kill(daemon.pid, signal.SIGCONT)
    daemon.wait_for_event("worker_started", count=4)

    daemon.wait_for(lambda: not zombies(daemon.pid), what="every zombie to be reaped")
    assert daemon.stop() == 0


def test_it_serves_as_pid_one(swarm_project: Callable[..., Daemon]) -> None:
    """In a pid namespace of its own: status and backtraces work, TERM ends it with 0, and no process is left."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a pid namespace")
    daemon = swarm_project(APP, bootstrap=NO_BROKER)
    (daemon.folder / "go").touch()
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no pid namespace can be made here")
    command = [*unshare, str(SWARMCTL), "start", "--config", str(daemon.config), "-o", "log.format=json"]
    with (daemon.folder / "stderr").open("ab") as stderr:
        outside = subprocess.Popen(
            tethered(command, signal.SIGKILL), cwd=daemon.folder, stdin=subprocess.DEVNULL, stderr=stderr
        )
    try:
        path = Path(daemon.settings["swarm"]["run_dir"]) / "control.sock"
        status = wait_for(lambda: up(path), what="the daemon as PID 1", seen=daemon.story)
        assert status["pid"] == 1
        assert all(worker["memory"]["rss"] > 0 for worker in status["workers"])
        shown = json.loads(daemon.run("backtrace", "--json").stdout)["processes"]
        assert {each["process"] for each in shown} == {"supervisor", "observer", "worker"}
        [first] = (Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text()).split()
        inside = Path(f"/proc/{first}/task/{first}/children").read_text().split()

        os.kill(int(first), signal.SIGTERM)
        code = outside.wait(timeout=30.0)
    finally:
        outside.kill()
        outside.wait()

    assert code == 0, daemon.story()
    assert [pid for pid in inside if Path(f"/proc/{pid}").exists()] == []
    assert daemon.events("swarm_stopped")[-1]["code"] == 0


def up(path: Path) -> dict[str, Any] | None:
    """The status once every worker has reported."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return None
        client.sendall(b'{"command": "status"}\n')
        with client.makefile("rb") as answers:
            status: dict[str, Any] = json.loads(answers.readline())["result"]
    return status if all(worker["report_age"] is not None for worker in status["workers"]) else None


def zombies(parent: int) -> list[int]:
    """Children of a process that have ended and were not waited for."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state == "Z" and int(ppid) == parent:
            found.append(int(stat.parent.name))
    return found
