"""The control socket: whatever comes in is answered or dropped; the supervisor's loop never waits and never ends by it."""

from __future__ import annotations

import json
import os
import selectors
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.errors import RunDirectoryError
from swarm.supervisor.control import MAX_CONNECTIONS, MAX_REQUEST, Connection, ControlServer


class Served:
    """A server in a loop of its own making, and what it was asked."""

    def __init__(self, path: Path) -> None:
        self.selector = selectors.DefaultSelector()
        self.asked: list[tuple[dict[str, Any], Connection]] = []
        self.server = ControlServer(path, self.selector, self.handle)

    def handle(self, request: dict[str, Any], connection: Connection) -> None:
        self.asked.append((request, connection))
        if request["command"] == "echo":
            connection.answer(request)

    def turn(self) -> None:
        """All that the loop has to do now."""
        for _ in range(1000):
            ready = self.selector.select(0)
            if not ready:
                return
            for key, mask in ready:
                key.data(mask)
        raise AssertionError("the loop never comes to rest")

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.server.path))
        client.setblocking(False)
        self.turn()
        return client

    def ask(self, client: socket.socket, data: bytes) -> list[Any]:
        """Send, let the loop run, and read what came back; b"" at the end: the connection was dropped."""
        client.setblocking(True)
        client.settimeout(5.0)
        view = memoryview(data)
        try:
            while view:
                view = view[client.send(view[:30_000]) :]
                self.turn()
        except OSError:
            return [b""]
        client.setblocking(False)
        text = b""
        dropped = False
        try:
            while chunk := client.recv(1 << 16):
                text += chunk
            dropped = True
        except BlockingIOError:
            pass
        except ConnectionResetError:
            dropped = True
        return [json.loads(line) for line in text.splitlines()] + [b""] * dropped


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server on a socket in a short path."""
    with_server = Served(tmp_path / "s")
    yield with_server
    with_server.server.close()


def test_a_request_is_answered_with_the_supervisor_s_pid(served: Served) -> None:
    """One JSON object per line, also when it comes in pieces or several at once."""
    with served.connect() as client:
        assert served.ask(client, b'{"command": "ec') == []
        first, second = served.ask(client, b'ho", "n": 1}\n{"command": "echo", "n": 2}\n')

    assert first == {"ok": True, "pid": os.getpid(), "result": {"command": "echo", "n": 1}}
    assert second["result"]["n"] == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=200) | st.sampled_from([b"[" * 60_000, b'{"a":' * 10_000, b"\xff\xfe", b"\x00", b"NaN", b"[1]"])
)
def test_garbage_is_refused_and_the_next_request_is_served(served: Served, garbage: bytes) -> None:
    """Every line that is no request gets a reason; none of them ends the loop or the connection."""
    with served.connect() as client:
        *refused, answer = served.ask(client, garbage + b'\n{"command": "echo"}\n')

    assert len(refused) == garbage.count(b"\n") + 1
    assert all(line["ok"] is False and "one JSON object per line" in line["error"] for line in refused)
    assert answer["ok"] is True


def test_a_request_without_an_end_is_dropped(served: Served) -> None:
    """Memory is bounded by the length of one request."""
    with served.connect() as client:
        answers = served.ask(client, b"x" * (MAX_REQUEST + 70_000))

    assert answers[-1] == b""


def test_an_answer_may_come_late_or_find_nobody(served: Served) -> None:
    """`stop` is answered at the very end; a client that has gone by then is no error."""
    with served.connect() as patient, served.connect() as gone:
        served.ask(patient, b'{"command": "stop"}\n')
        served.ask(gone, b'{"command": "stop"}\n')
        gone.close()
        served.turn()
        for _, connection in served.asked:
            connection.progress("one of two")
            connection.answer({"code": 0})

        said, answer = (json.loads(line) for line in patient.recv(1 << 16).splitlines())

    assert said == {"progress": "one of two"}
    assert answer["result"] == {"code": 0}


def test_a_client_that_does_not_read_blocks_nobody(served: Served) -> None:
    """What does not fit waits for room; meanwhile others are served; in the end all of it arrives."""
    large = {"text": "x" * 2_000_000}
    with served.connect() as slow, served.connect() as quick:
        served.ask(slow, b'{"command": "status"}\n')
        served.asked[0][1].answer(large)
        [answer] = served.ask(quick, b'{"command": "echo"}\n')
        assert answer["ok"] is True

        text = b""
        while not text.endswith(b"\n"):
            text += slow.recv(1 << 20)
            served.turn()

    assert json.loads(text)["result"] == large


def test_more_clients_than_it_serves_are_turned_away(served: Served) -> None:
    """And there is room again when one leaves."""
    clients = [served.connect() for _ in range(MAX_CONNECTIONS)]
    with served.connect() as extra:
        assert extra.recv(1) == b""
    clients.pop().close()
    served.turn()
    with served.connect() as again:
        [answer] = served.ask(again, b'{"command": "echo"}\n')
    for client in clients:
        client.close()

    assert answer["ok"] is True


def test_the_socket_is_for_its_owner_and_goes_with_the_server(tmp_path: Path) -> None:
    """Mode 0600; a stale one is replaced; after the end there is none."""
    path = tmp_path / "s"
    path.write_text("left behind")
    served = Served(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_ISSOCK(path.stat().st_mode)
    served.server.close()
    assert not path.exists()


def test_a_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    """With the setting that mends it."""
    with pytest.raises(RunDirectoryError, match=r"swarm\.run_dir"):
        Served(tmp_path / ("x" * 120))
