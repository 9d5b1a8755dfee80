"""Nothing that cannot be written holds the supervisor up or ends it: a log nobody reads, a disk without room."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon

NO_BROKER = "127.0.0.1:1"

APP = """
    from swarm import App

    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass
"""


@pytest.fixture
def full_pipe() -> Iterator[Path]:
    """The writing end of a pipe that is full and that nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(4096))
    except BlockingIOError:
        pass
    yield Path(f"/proc/{os.getpid()}/fd/{writing}")
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("place", ["pipe", "disk"])
def test_log_that_cannot_be_written(place: str, swarm_project: Callable[..., Daemon], full_pipe: Path) -> None:
    """The daemon starts, answers, replaces a worker and stops with 0 although not one line of its log gets through."""
    daemon = swarm_project(APP, bootstrap=NO_BROKER)
    log = daemon.folder / "stderr"
    log.symlink_to(full_pipe if place == "pipe" else "/dev/full")

    daemon.start()
    log.unlink()  # the daemon has it; a test that fails must not try to read it
    first = daemon.wait_for(daemon.workers, what="its workers")
    os.kill(first[0]["pid"], signal.SIGKILL)
    daemon.wait_for(lambda: daemon.workers()[0]["restarts"] == 1 and daemon.workers()[0]["pid"], what="a successor")

    assert daemon.workers()[1]["pid"] == first[1]["pid"]
    assert daemon.stop() == 0


def test_incident_that_cannot_be_written(swarm_project: Callable[..., Daemon]) -> None:
    """It is said that it could not be, and the worker is replaced all the same."""
    daemon = swarm_project(
        APP,
        {"swarm": {"shutdown_timeout": 0.5}, "supervision": {"check_interval": 0.1, "report_timeout": 1.5}},
        bootstrap=NO_BROKER,
    )
    state = Path(daemon.settings["swarm"]["state_dir"])
    state.mkdir(mode=0o700)
    (state / "incidents").symlink_to("/dev/full")  # no directory, and nothing can be written there

    daemon.start()
    first = daemon.wait_for(lambda: [w for w in daemon.workers() if w["report_age"] is not None][1:], what="workers")
    os.kill(first[0]["pid"], signal.SIGSTOP)
    daemon.wait_for_event("worker_killed", reason="report_timeout")
    daemon.wait_for(lambda: [w for w in daemon.workers() if w["restarts"] == 1 and w["pid"]], what="a successor")

    warnings = [line["what"] for line in daemon.events("supervisor_warning")]
    assert any("incident" in text and str(state) in text for text in warnings)
    assert daemon.stop() == 0
