"""Another number of workers, other processes: where that does not go smoothly, it is said, and the supervisor goes on. No broker."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.daemon import SWARMCTL, Daemon
from tests.support.tether import tethered

NO_BROKER = "127.0.0.1:1"

APP = """
    import os
    from swarm import App

    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass

    @app.after_fork
    def refuse(worker):
        if os.path.exists(f"refuse.{worker}"):
            raise RuntimeError(f"worker {worker} cannot boot")
"""


def started(daemon: Daemon) -> Daemon:
    daemon.start()
    daemon.wait_for(lambda: all(w["report_age"] is not None for w in daemon.workers()), what="its workers")
    return daemon


@contextmanager
def connection(daemon: Daemon) -> Iterator[Callable[..., None]]:
    """Ask without waiting for answers."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(Path(daemon.settings["swarm"]["run_dir"]) / "control.sock"))

        def ask(command: str, **more: Any) -> None:
            client.sendall(json.dumps({"command": command, **more}).encode() + b"\n")

        yield ask


def test_scaling_beyond_the_descriptors_there_are_is_refused(swarm_project: Callable[..., Daemon]) -> None:
    """With what is missing, and nothing changed: neither the workers nor the descriptors."""
    daemon = started(swarm_project(APP, bootstrap=NO_BROKER))
    open_before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (open_before + 20, open_before + 20))

    refused = daemon.run("scale", "200")
    after = daemon.status()
    open_after = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    assert daemon.stop() == 0

    assert refused.returncode == 1
    assert "no room for 200 workers: Too many open files" in refused.stderr
    assert len(after["workers"]) == 2
    assert after["under_way"] is None
    assert open_after <= open_before + 2  # the connection of the one who asks


def test_who_waits_for_a_worker_that_cannot_boot_is_told_and_outvoted_by_the_next_scale(
    swarm_project: Callable[..., Daemon],
) -> None:
    """The command does not wait in silence, `status` says the same, and another number answers the first."""
    daemon = started(swarm_project(APP, {"swarm": {"workers": 1}}, bootstrap=NO_BROKER))
    daemon.expect_errors("boot_failed")
    (daemon.folder / "refuse.1").touch()

    waiting = subprocess.Popen(
        tethered([str(SWARMCTL), "scale", "2", "--config", str(daemon.config)], signal.SIGTERM),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr is not None
    told = waiting.stderr.readline()
    shown = daemon.status()["under_way"]
    other = daemon.run("scale", "1", "--no-wait")
    _, said = waiting.communicate(timeout=60)
    daemon.wait_for(lambda: len(daemon.workers()) == 1, what="one worker")
    assert daemon.stop() == 0

    assert "worker 1 waits for its next start (boot_error: RuntimeError: worker 1 cannot boot)" in told
    assert "worker 1" in shown
    assert (waiting.returncode, other.returncode) == (1, 0)
    assert "somebody has set the number of workers to 1 meanwhile" in said


def test_a_restart_ends_the_wait_of_a_worker_for_its_next_start(swarm_project: Callable[..., Daemon]) -> None:
    """Who has mended what was wrong need not wait for the backoff."""
    slow = {"restart_backoff": {"initial": 600.0, "factor": 2.0, "maximum": 600.0}}
    daemon = started(swarm_project(APP, {"supervision": slow}, bootstrap=NO_BROKER))
    os.kill(daemon.workers()[1]["pid"], signal.SIGKILL)
    daemon.wait_for_event("worker_backoff", worker=1)
    waits = daemon.workers()[1]

    done = daemon.run("restart", "1", "--no-wait")
    daemon.wait_for_event("worker_started", worker=1, count=2)
    assert daemon.stop() == 0

    assert waits["state"] == "backoff"
    assert done.returncode == 0


def test_a_worker_that_was_scaled_away_may_die_while_its_backtrace_is_awaited(
    swarm_project: Callable[..., Daemon],
) -> None:
    """Nobody reads a file that has been closed: the supervisor goes on, and who asked gets an answer."""
    daemon = started(swarm_project(APP, bootstrap=NO_BROKER))
    pid = daemon.workers()[1]["pid"]
    os.kill(pid, signal.SIGSTOP)
    with connection(daemon) as ask:
        ask("backtrace", worker=1)
        ask("scale", workers=1, wait=False)
        daemon.wait_for_event("swarm_scaled")
        os.kill(pid, signal.SIGKILL)
        daemon.wait_for(lambda: len(daemon.workers()) == 1, what="one worker")
    assert daemon.stop() == 0

    assert [line["worker"] for line in daemon.events("worker_exited")] == [1, 0]
    assert not daemon.events("worker_backoff")
