"""Whatever arrives at the control socket, the supervisor answers or hangs up, and goes on supervising."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon

NO_BROKER = "127.0.0.1:1"

APP = """
    from swarm import App

    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass
"""

REFUSED = (
    b"nonsense",
    b"\xff\xfe",
    b"[1, 2]",
    b"[" * 60_000,
    b"{}",
    b'{"command": 7}',
    b'{"command": "dance"}',
    b'{"command": "\\ud800"}',
    b'{"command": "backtrace", "worker": 99}',
    b'{"command": "backtrace", "worker": 0.0}',
    b'{"command": "backtrace", "worker": [0]}',
    b'{"command": "stop", "timeout": -1}',
    b'{"command": "stop", "timeout": NaN}',
    b'{"command": "stop", "timeout": "soon"}',
)


def test_garbage_is_refused_and_nothing_stops(swarm_project: Callable[..., Daemon]) -> None:
    """Each line gets `ok: false` with a reason; a line without an end, a client that leaves and a crowd harm nobody."""
    daemon = swarm_project(APP, bootstrap=NO_BROKER)
    daemon.start()
    before = daemon.wait_for(daemon.status, what="its status")
    path = str(Path(daemon.settings["swarm"]["run_dir"]) / "control.sock")

    for line in REFUSED:
        answer = ask(path, line)
        assert answer["ok"] is False, line
        assert answer["pid"] == daemon.pid
        assert answer["error"]

    with connected(path) as endless:
        try:
            while True:
                endless.sendall(b"x" * 65536)
        except OSError:
            pass  # it hung up, as it should: without that this would never end
    with connected(path) as hasty:
        hasty.sendall(b'{"command": "status"}\n' * 50)
    crowd = [connected(path) for _ in range(80)]
    for each in crowd:
        each.close()

    after = daemon.wait_for(daemon.status, what="its status")
    assert after["pid"] == before["pid"]
    assert after["state"] == before["state"]
    assert [worker["pid"] for worker in after["workers"]] == [worker["pid"] for worker in before["workers"]]
    assert daemon.stop() == 0


def connected(path: str) -> socket.socket:
    """A connection whose every step has a limit."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)  # waits where as many as may are waiting already; with a limit it would fail at once
    client.settimeout(10.0)
    return client


def ask(path: str, line: bytes) -> dict[str, Any]:
    """The answer to one line."""
    with connected(path) as client, client.makefile("rb") as answers:
        client.sendall(line + b"\n")
        answer: dict[str, Any] = json.loads(answers.readline())
        return answer
