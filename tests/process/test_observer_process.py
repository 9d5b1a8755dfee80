"""The observer as a process: forked, on a real socket, with scoreboards and a bulletin that the test writes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.scoreboard import LOOP_AT, PID, Bulletin, Scoreboard
from tests.support.ports import free_port

# Forks the observer as the supervisor does, says its pid, and passes on its exit code. The descriptors are the test's.
_PARENT = """
import json, os, sys
from pathlib import Path
from swarm.scoreboard import Bulletin, Scoreboard

host, port, metrics_dir, bulletin, *boards = sys.argv[1:]
boards = [Scoreboard.attach(int(fd)) for fd in boards]
bulletin = Bulletin(int(bulletin))
pid = os.fork()
if not pid:
    from swarm.supervisor.observer import run

    say = lambda what: print(json.dumps(what), flush=True)
    say({"pid": os.getpid()})
    where = Path(metrics_dir) if metrics_dir else None
    os._exit(run(host, int(port), boards, bulletin, announce=say, metrics_dir=where))
_, status = os.waitpid(pid, 0)
code = os.waitstatus_to_exitcode(status)
sys.exit(code if code >= 0 else 100 - code)
"""


class Observer:
    """A running one, and what it reads."""

    def __init__(self, host: str, metrics_dir: Path | None, workers: int, port: int | None = None) -> None:
        self.host = host
        self.port = port or free_port()
        self.boards = [Scoreboard.create(index) for index in range(workers)]
        self.bulletin = Bulletin.create()
        fds = [self.bulletin.fd, *(board.fd for board in self.boards)]
        self.parent = subprocess.Popen(
            [sys.executable, "-c", _PARENT, host, str(self.port), str(metrics_dir or ""), *map(str, fds)],
            pass_fds=fds,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._next_line()["pid"]
        self.announced = self._next_line()

    def _next_line(self) -> dict[str, Any]:
        assert self.parent.stdout is not None
        line = self.parent.stdout.readline()
        if not line:
            raise AssertionError(f"the observer went: {self.parent.communicate()[1]}")
        return dict(json.loads(line))

    def connect(self) -> http.client.HTTPConnection:
        """A connection of its own, with a limit of 10 s to every step."""
        return http.client.HTTPConnection(self.host, self.port, timeout=10.0)

    def ask(self, path: str, method: str = "GET", body: str | None = None) -> tuple[int, str]:
        """Status and body, over a new connection."""
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def ask_json(self, path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
        """Status and body, which is a JSON object."""
        status, body = self.ask(path, method)
        return status, dict(json.loads(body))

    def end(self) -> tuple[int, str]:
        """SIGTERM; its exit code, and what stood on stderr."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        return self.gone()

    def gone(self) -> tuple[int, str]:
        """Its exit code, and what stood on stderr, once it has gone by itself."""
        _, errors = self.parent.communicate(timeout=10.0)
        return self.parent.returncode, errors

    def close(self) -> None:
        """Leave no process and no descriptor."""
        if self.parent.poll() is None:
            self.end()
        for board in self.boards:
            board.close()
        os.close(self.bulletin.fd)


@pytest.fixture
def observe() -> Iterator[Callable[..., Observer]]:
    """`observe(host="127.0.0.1", metrics_dir=None, workers=2)` -> Observer."""
    running: list[Observer] = []

    def start(
        host: str = "127.0.0.1", metrics_dir: Path | None = None, workers: int = 2, port: int | None = None
    ) -> Observer:
        running.append(Observer(host, metrics_dir, workers, port))
        return running[-1]

    yield start
    for observer in running:
        observer.close()


def post(observer: Observer, **more: object) -> None:
    """A swarm of this test's process as worker 0, which is a member and polls."""
    observer.bulletin.came_round(time.monotonic())
    entry = {"index": 0, "pid": os.getpid(), "state": "running", "restarts_by_reason": {"killed": 1}, "memory": {}}
    snapshot = {"name": "shop", "version": "1", "state": "running", "groups": ["shop"], "workers": [entry]}
    observer.bulletin.post({**snapshot, **more})
    board = observer.boards[0]
    board.ints[PID] = os.getpid()
    board.floats[LOOP_AT] = time.monotonic()
    if not board.groups():
        board.joined(board.add_group("shop"), time.monotonic(), 1)
    board.polled(0, time.monotonic())


def test_it_shows_what_stands_in_the_shared_memory_now(observe: Callable[..., Observer]) -> None:
    """No cooperation of a worker is needed, nor of the supervisor: each answer reads the memory anew."""
    observer = observe()
    assert observer.announced == {"event": "listening", "port": observer.port}
    assert observer.ask_json("/healthz")[0] == 500
    assert observer.ask_json("/readyz")[0] == 503

    post(observer)
    observer.boards[0].batch_done(7, 7, 0.01)

    assert observer.ask_json("/healthz")[0] == 200
    assert observer.ask_json("/readyz?verbose")[1]["groups"] == {"shop": {"members": 1, "polling": 1}}
    page = observer.ask("/metrics")[1]
    assert 'swarm_messages_total{worker="0"} 7.0\n' in page
    assert 'swarm_worker_restarts_total{reason="killed",worker="0"} 1.0\n' in page
    assert 'swarm_worker_cpu_seconds_total{worker="0"}' in page, "the worker's /proc is there to read"

    observer.boards[0].batch_done(1, 1, 0.01)
    observer.bulletin.came_round(time.monotonic() - 11.0)
    assert 'swarm_messages_total{worker="0"} 8.0\n' in observer.ask("/metrics")[1]
    assert observer.ask_json("/healthz")[0] == 500
    assert observer.end() == (0, "")


def test_it_serves_a_page_for_people(observe: Callable[..., Observer]) -> None:
    """As HTML, with a policy that lets a browser do nothing but show it; never kept, for it is of now."""
    observer = observe()
    post(observer)
    board = observer.boards[0]
    names = (board.string("shop"), board.string("<b>orders"))
    board.set_assigned([(*names, 0, 10, 10, 17, time.monotonic(), False, 0.0)])
    with contextlib.closing(observer.connect()) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200
        assert response.getheader("Content-Type") == "text/html; charset=utf-8"
        assert str(response.getheader("Content-Security-Policy")).startswith("default-src 'none'; style-src 'sha256-")
        assert response.getheader("X-Content-Type-Options") == "nosniff"
        assert response.getheader("Cache-Control") == "no-store"
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        response.read()
        assert response.getheader("Content-Security-Policy") is None
    assert body.startswith("<!doctype html>")
    assert "&lt;b&gt;orders" in body
    assert "<b>orders" not in body
    assert observer.end() == (0, "")


def test_it_outlives_garbage(observe: Callable[..., Observer]) -> None:
    """A bulletin and a scoreboard of random bytes cost it answers, not its life, and it recovers with them."""
    observer = observe()
    post(observer)
    observer.bulletin._bytes[64:100] = bytes(range(200, 236))
    observer.boards[1]._bytes[:] = b"\xfe" * len(observer.boards[1]._bytes)

    status, body = observer.ask_json("/readyz")
    assert (status, body["ok"]) == (503, False)
    assert "bulletin" in body["why"]
    assert observer.ask("/metrics")[0] == 200
    assert observer.ask("/")[0] == 200

    post(observer)
    assert observer.ask_json("/readyz")[0] == 200


def test_it_goes_whenever_it_is_told_to(observe: Callable[..., Observer]) -> None:
    """Also at the moment when it begins to wait for the next request, when a handler of Python's would be noted and not run."""
    for _ in range(20):
        observer = observe()
        assert observer.end() == (0, "")


def test_it_speaks_http_to_whoever_asks(observe: Callable[..., Observer]) -> None:
    """One connection serves many requests; HEAD is GET without the body; anything else is refused in JSON."""
    observer = observe()
    post(observer)
    with contextlib.closing(observer.connect()) as connection:
        for _ in range(3):
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            body = response.read()
            assert (response.version, response.getheader("Content-Length")) == (11, str(len(body)))
        kept = connection.sock
        connection.request("HEAD", "/metrics")
        response = connection.getresponse()
        assert int(response.getheader("Content-Length", "0")) > 1000
        assert response.read() == b""
        assert str(response.getheader("Content-Type")).startswith("text/plain; version=0.0.4")
        assert connection.sock is kept

    status, answer = observer.ask_json("/etc/passwd")
    assert (status, answer["paths"]) == (404, ["/", "/metrics", "/healthz", "/readyz"])
    for method in ("POST", "DELETE", "OPTIONS"):
        assert observer.ask_json("/metrics", method)[0] == 405
    assert observer.ask("/metrics", "POST", "GET /healthz HTTP/1.1\r\n\r\n" * 100)[0] == 405
    assert observer.ask_json("/metrics", "BREW")[0] == 501


def test_many_clients_that_say_nothing_do_not_shut_the_others_out(observe: Callable[..., Observer]) -> None:
    """Threads are bounded: the first idle connections get one each, what is above is told so and can come again."""
    observer = observe()
    post(observer)
    with contextlib.ExitStack() as stack:
        for _ in range(15):
            stack.enter_context(socket.create_connection((observer.host, observer.port), 10.0))
        assert observer.ask_json("/healthz")[0] == 200

        refused = [
            stack.enter_context(socket.create_connection((observer.host, observer.port), 10.0)) for _ in range(9)
        ]
        assert refused[-1].recv(100).startswith(b"HTTP/1.1 503")
        threads = len(os.listdir(f"/proc/{observer.pid}/task"))
        assert threads <= 18  # 16 connections, the one that listens, and the one that waits for SIGTERM


def test_a_taken_port_is_said_with_the_setting_that_mends_it(observe: Callable[..., Observer]) -> None:
    """It goes with code 1 and the reason, without a traceback; the one that was first is not disturbed."""
    first = observe()

    second = observe(port=first.port)

    assert second.announced["event"] == "failed"
    error = second.announced["error"]
    assert f"127.0.0.1:{first.port}" in error
    assert "observer.port" in error
    assert "SWARM_OBSERVER__PORT" in error
    assert second.gone() == (1, "")
    assert first.ask_json("/healthz")[0] == 500


def test_a_host_that_this_machine_does_not_have_is_said_with_its_setting(observe: Callable[..., Observer]) -> None:
    """An address of somebody else's (of the range for documentation), and a name that cannot be."""
    for host in ("192.0.2.1", "no..host", "größe"):
        observer = observe(host)
        assert observer.announced["event"] == "failed"
        assert "SWARM_OBSERVER__HOST" in observer.announced["error"]
        assert observer.gone() == (1, "")


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_it_listens_on_ipv6(observe: Callable[..., Observer]) -> None:
    """As observer.host = "::1" says."""
    observer = observe("::1")
    assert observer.announced == {"event": "listening", "port": observer.port}
    assert observer.ask_json("/healthz")[0] == 500


def test_term_ends_it_at_once_whoever_is_connected(observe: Callable[..., Observer]) -> None:
    """Code 0, also with a client in the middle of a request."""
    observer = observe()
    with socket.create_connection((observer.host, observer.port), 10.0) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert observer.ask_json("/healthz")[0] == 500
        began = time.monotonic()
        assert observer.end() == (0, "")
    assert time.monotonic() - began < 5.0, "it did not wait for the client"


def test_damaged_application_metrics_are_named_on_stderr_once(observe: Callable[..., Observer], tmp_path: Path) -> None:
    """Each scrape succeeds and counts the file; stderr has one line, not one for each scrape."""
    (tmp_path / "counter_0.db").write_bytes(b"\xff" * 100)
    observer = observe(metrics_dir=tmp_path)
    for _ in range(2):
        status, page = observer.ask("/metrics")
        assert status == 200
        assert "\nswarm_damaged_metric_files 1.0\n" in page
    code, errors = observer.end()
    assert code == 0
    assert errors.count("counter_0.db") == 1
    assert errors.count("\n") == 1


def test_it_ends_by_itself_on_nothing_but_a_signal(observe: Callable[..., Observer]) -> None:
    """A client that breaks off, or talks nonsense, is no reason, and no noise."""
    observer = observe()
    for nonsense in (
        b"",
        b"\r\n",
        b"\x16\x03\x01\x02",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b"\r\n\r\n",
    ):
        with socket.create_connection((observer.host, observer.port), 10.0) as client:
            client.sendall(nonsense)
            client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while client.recv(4096):
                    pass
    assert observer.ask_json("/healthz")[0] == 500
    assert observer.end() == (0, "")
