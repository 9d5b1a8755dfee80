"""sd_notify: what systemd is told, over a socket as it would give us one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import Daemon

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
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = f"\0{tmp_path.name}-{os.getpid()}"  # an abstract one, which systemd writes with an @
        manager.bind(address)
        manager.settimeout(30.0)
        daemon = swarm_project(APP, bootstrap=NO_BROKER)
        given = {"NOTIFY_SOCKET": f"@{address[1:]}", "WATCHDOG_USEC": "400000"}
        usual = daemon._environment()
        monkeypatch.setattr(daemon, "_environment", lambda: usual | given)
        heard: list[str] = []

        def listen(until: str) -> None:
            while not any(line.startswith(until) for line in heard):
                heard.extend(manager.recv(65536).decode().splitlines())

        daemon.start()
        listen("READY=1")
        assert all(worker["report_age"] is not None for worker in daemon.workers())
        assert any(line.startswith("STATUS=") and "2 workers" in line for line in heard)
        heard.clear()
        listen("WATCHDOG=1")
        heard.clear()
        listen("WATCHDOG=1")
        assert daemon.stop() == 0
        listen("STOPPING=1")
        listen("EXTEND_TIMEOUT_USEC=")

        assert "READY=1" not in heard
    known = (daemon.folder / "environment.0").read_text().split()
    assert [name for name in given if name in known] == []
