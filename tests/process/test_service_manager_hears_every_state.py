"""sd_notify: what systemd is told, over a socket as it would give us one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.manager import ServiceManager

NO_BROKER = "127.0.0.1:1"

APP = """
    import os
    from swarm import App

    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass

    @app.after_fork
    def note(worker):
        with open(f"environment.{worker}", "w") as file:
            file.write(" ".join(os.environ))
"""


def test_ready_status_watchdog_stopping(
    swarm_project: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY when every worker has reported, a broker or not; WATCHDOG within the time asked for; STOPPING at the end, with the wish for
    more time."""
    given = {"WATCHDOG_USEC": "400000"}
    with ServiceManager(tmp_path.name) as manager:
        daemon = swarm_project(APP, bootstrap=NO_BROKER)
        given |= manager.environment
        usual = daemon._environment()
        monkeypatch.setattr(daemon, "_environment", lambda: usual | given)

        daemon.start()
        heard = manager.listen("READY=1")
        assert all(worker["report_age"] is not None for worker in daemon.workers())
        assert any(line.startswith("STATUS=") and "2 workers" in line for line in heard)
        heard = manager.listen("WATCHDOG=1")
        heard += manager.listen("WATCHDOG=1")
        assert daemon.stop() == 0
        heard += manager.listen("STOPPING=1")
        heard += manager.listen("EXTEND_TIMEOUT_USEC=")

        assert "READY=1" not in heard
    known = (daemon.folder / "environment.0").read_text().split()
    assert [name for name in given if name in known] == []
