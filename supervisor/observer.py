"""The observer: a child of the supervisor that answers /metrics, /healthz, /readyz and, for people, /. Knows scoreboards and bulletin;
decides nothing.

Import it in the child: it brings http.server with it, and the first scrape prometheus-client, which the supervisor and its
workers do without. It may die without harm: nothing waits for it, and all it knows it reads anew.

    parse       the bulletin, whatever is in it -> Notice      (pure)
    health      the supervisor's loop -> status, body           (pure)
    readiness   the groups' members -> status, body             (pure)
    run         bind, announce, serve until SIGTERM
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from swarm.scoreboard import PID, Bulletin, Scoreboard

if TYPE_CHECKING:
    from swarm.supervisor.exposition import Exposition

HEALTHY_WITHIN: Final = 10.0
"""Seconds in which the supervisor's loop must have come round for /healthz to be 200."""
POLL_TIMEOUT: Final = 60.0
"""Seconds in which a member must have polled, where the bulletin does not say."""
PATHS: Final = ("/", "/metrics", "/healthz", "/readyz")

_CONSUMING: Final = frozenset({"starting", "running", "quiet"})  # a worker that is stopping keeps no group ready
_MAX_CONNECTIONS: Final = 16  # threads; more clients than that are no monitoring
_REQUEST_TIMEOUT: Final = 10.0  # s between two bytes of a request, or two requests of a connection
_CONNECTION_LIFE: Final = 30.0  # s; where all threads are taken, older connections make room
_MAX_BODY: Final = 65_536  # bytes of a request's body that are read before the connection is closed
_MAX_COMPLAINTS: Final = 100
_JSON: Final = "application/json; charset=utf-8"
_HTML: Final = "text/html; charset=utf-8"


# -- what the supervisor says ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Worker:
    """One entry of the bulletin's workers. `pid` is None while no process is there; `memory` has only what is known. `cpu_before`:
    seconds of processor time of the index's former processes."""

    index: int
    pid: int | None
    state: str
    restarts: Mapping[str, int]
    memory: Mapping[str, int]
    cpu_before: float = 0.0
    failures: int = 0
    """Deaths in a row."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What the bulletin says, as far as it makes sense; empty before the first post. `problem`: why it says nothing."""

    name: str = ""
    version: str = ""
    state: str = ""
    groups: tuple[str, ...] = ()
    workers: Mapping[int, Worker] = field(default_factory=dict)
    poll_timeout: float = POLL_TIMEOUT
    problem: str = ""
    unowned: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """How many partitions of a group's topic nobody has."""
    suspects: Mapping[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """Of a group's topic: ranges of which a message may kill its process, and those messages that are known to."""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    with contextlib.suppress(OverflowError):
        if math.isfinite(number := float(value)):
            return number
    return None


def _text(value: object) -> str:
    """The text, without what UTF-8 cannot say (JSON can: half of a surrogate pair)."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _counts(value: object, keys: Sequence[str] | None = None) -> dict[str, int]:
    """The entries that are numbers from 0 on; of `keys` only, if given."""
    if not isinstance(value, dict):
        return {}
    counts = {}
    for key, entry in value.items():
        number = _number(entry)
        if number is not None and number >= 0 and (keys is None or key in keys):
            counts[_text(key)] = int(number)
    return counts


def parse(snapshot: object) -> Notice:
    """The bulletin's snapshot; what is missing or not of its type is left out, never guessed and never an error."""
    if not isinstance(snapshot, dict) or not snapshot:
        return Notice(problem="the supervisor has not posted its state yet")
    workers = {}
    entries = snapshot.get("workers")
    for entry in entries if isinstance(entries, list) else []:
        index = entry.get("index") if isinstance(entry, dict) else None
        if not isinstance(index, int) or isinstance(index, bool):
            continue
        pid = entry.get("pid")
        workers[index] = Worker(
            index,
            pid if isinstance(pid, int) and not isinstance(pid, bool) and pid > 0 else None,
            _text(entry.get("state")),
            _counts(entry.get("restarts_by_reason")),
            _counts(entry.get("memory"), ("rss", "uss", "pss")),
            max(0.0, _number(entry.get("cpu_before")) or 0.0),
            _counts(entry, ("failures",)).get("failures", 0),
        )
    groups = snapshot.get("groups")
    limits = snapshot.get("limits")
    limit = _number(limits.get("poll_timeout")) if isinstance(limits, dict) else None
    return Notice(
        _text(snapshot.get("name")),
        _text(snapshot.get("version")),
        _text(snapshot.get("state")),
        tuple(filter(None, map(_text, groups))) if isinstance(groups, list) else (),
        workers,
        limit if limit is not None and limit > 0 else POLL_TIMEOUT,
        unowned={place: len(found) for place, found in _by_topic(snapshot.get("unowned")).items()},
        suspects={
            place: (len(found), sum(1 for each in found if each.get("condemned") is True))
            for place, found in _by_topic(snapshot.get("suspects")).items()
        },
    )


def _by_topic(entries: object) -> dict[tuple[str, str], list[dict[str, object]]]:
    """(group, topic) -> its entries."""
    found: dict[tuple[str, str], list[dict[str, object]]] = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            place = _text(entry.get("group")), _text(entry.get("topic"))
            if all(place):
                found.setdefault(place, []).append(entry)
    return found


def is_current(board: Scoreboard, worker: Worker | None) -> bool:
    """Whether the board shows the worker's present process, not one that is gone or that the bulletin has not met."""
    return worker is not None and worker.pid is not None and board.ints[PID] in (0, worker.pid)


class View:
    """All facts the observer has. Any thread may read; nothing in it blocks."""

    def __init__(
        self, boards: Sequence[Scoreboard], bulletin: Bulletin, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.boards = boards
        self.bulletin = bulletin
        self.clock = clock
        self._last: dict[str, Any] = {}

    @property
    def posted(self) -> dict[str, Any]:
        """The latest snapshot as it is, as of the last `notice`."""
        return self._last

    def notice(self) -> Notice:
        """The latest notice. While the supervisor is in the middle of posting, the one before."""
        try:
            snapshot = self.bulletin.read()
        except Exception as error:  # whatever bytes are there
            return Notice(problem=f"the supervisor's bulletin cannot be read: {error}")
        if isinstance(snapshot, dict) and snapshot:
            self._last = snapshot
        return parse(self._last)


# -- the answers -----------------------------------------------------------------------------------------------------

Answer = tuple[int, dict[str, object]]


def health(loop_at: float, now: float) -> Answer:
    """/healthz: 200 while the supervisor's loop came round within HEALTHY_WITHIN, else 500."""
    if not math.isfinite(loop_at) or loop_at <= 0.0:
        return 500, {"ok": False, "why": "the supervisor's loop has not come round yet", "age": None}
    age = max(0.0, now - loop_at)
    ok = age <= HEALTHY_WITHIN
    why = f"the supervisor's loop came round {age:.1f} s ago"
    if not ok:
        why += f", the limit is {HEALTHY_WITHIN:g} s: it hangs or was stopped"
    return (200 if ok else 500), {"ok": ok, "why": why, "age": round(age, 3)}


def readiness(notice: Notice, boards: Sequence[Scoreboard], now: float) -> Answer:
    """/readyz: 200 while every consumer group has a member that polled within the poll timeout, else 503.

    `members` have joined; `polling` are those of them that polled in time.
    """
    groups = {group: {"members": 0, "polling": 0} for group in notice.groups}
    for board in boards:
        worker = notice.workers.get(board.index)
        if worker is None or worker.state not in _CONSUMING or not is_current(board, worker):
            continue
        for membership in board.groups():
            counts = groups.get(membership.group)
            if counts is not None and membership.joined_at > 0.0:
                counts["members"] += 1
                counts["polling"] += now - membership.poll_at <= notice.poll_timeout
    reasons = []
    if notice.problem:
        reasons.append(notice.problem)
    elif not groups:
        reasons.append("the supervisor has not said which consumer groups there are")
    if notice.state == "stopping":
        reasons.append("the swarm is stopping")
    for group, counts in groups.items():
        if not counts["members"]:
            reasons.append(f"group {group}: no worker has joined it")
        elif not counts["polling"]:
            reasons.append(f"group {group}: none of its members polled in the last {notice.poll_timeout:g} s")
    why = "; ".join(reasons) or "every consumer group has a member that is polling"
    waiting = [str(index) for index, worker in sorted(notice.workers.items()) if worker.state == "backoff"]
    if waiting and not reasons:
        why += f"; worker{'s' if len(waiting) > 1 else ''} {', '.join(waiting)} died and wait{'s' if len(waiting) == 1 else ''} for the next start"
    return (503 if reasons else 200), {"ok": not reasons, "why": why, "groups": groups}


# -- the process -----------------------------------------------------------------------------------------------------


def run(
    host: str,
    port: int,
    boards: Sequence[Scoreboard],
    bulletin: Bulletin,
    *,
    announce: Callable[[dict[str, object]], None],
    clock: Callable[[], float] = time.monotonic,
    metrics_dir: Path | None = None,
) -> int:
    """Serve until SIGTERM, which ends the process at once with code 0; 1 if it cannot listen. In the child's main thread.

    `announce` hears {"event": "listening", "port"} or {"event": "failed", "error"}. `metrics_dir` holds the files of
    prometheus-client's multiprocess mode, keyed by worker index.
    """
    # The collector would write into the header of every object that came with the fork, and so copy the pages it lies in.
    gc.freeze()
    signal.set_wakeup_fd(-1)  # the supervisor's: our signals are none of its business
    # Waited for, not handled: a handler that Python notes just before the main thread begins its long wait runs after that.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_leave_when_told, name="leave", daemon=True).start()
    try:
        server = _listen(host, port, View(boards, bulletin, clock), metrics_dir)
    except OSError as error:
        announce({"event": "failed", "error": _why_not(host, port, error)})
        return 1
    announce({"event": "listening", "port": port})
    server.serve_forever(poll_interval=3600.0)  # nobody calls shutdown(): an idle observer need not wake up
    return 0


def _leave_when_told() -> None:
    signal.sigwait({signal.SIGTERM})
    os._exit(0)  # nothing to save; a thread in the middle of an answer shall not delay it


def _listen(host: str, port: int, view: View, metrics_dir: Path | None) -> _Server:
    """Bind the first of the host's addresses that this machine has. Raises OSError, gaierror included."""
    try:
        name = host.encode("ascii")  # bytes: text would bring the tables of IDNA with it
    except UnicodeError:
        raise OSError(errno.EADDRNOTAVAIL, "a host's name is ASCII") from None
    addresses = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for number, (family, _, _, _, address) in enumerate(addresses, 1):
        try:
            return _Server(family, address, view, metrics_dir)
        except OSError as error:
            absent = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # localhost is ::1 too, IPv6 may be off
            if number == len(addresses) or not absent:
                raise
    raise OSError(errno.EADDRNOTAVAIL, "the name has no address")


def _why_not(host: str, port: int, error: OSError) -> str:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    what = f"observer: cannot listen on {where}: {error.strerror or error}."
    port_setting = "observer.port (environment: SWARM_OBSERVER__PORT)"
    if error.errno == errno.EADDRINUSE:
        why = "Another process has the port, perhaps another swarm's observer."
        fix = f"Set {port_setting} to a free port, or to 0 to go without."
    elif error.errno in (errno.EACCES, errno.EPERM):
        why = "This user may not have that port."
        fix = f"Set {port_setting} to a port above 1023, or to 0 to go without."
    else:
        why = "This machine has no such address."
        fix = (
            "Set observer.host (environment: SWARM_OBSERVER__HOST) to one that it has, such as 127.0.0.1 or 0.0.0.0, "
            f"or {port_setting} to 0 to go without."
        )
    return f"{what} {why} Consuming goes on without {', '.join(PATHS[1:])}. {fix}"


class Complaints:
    """Says on stderr what is wrong, once for each key."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, key: str, text: str) -> None:
        """Write `text` as one line unless there was one for `key`, or too many already."""
        if key in self._said or len(self._said) >= _MAX_COMPLAINTS:
            return
        self._said.add(key)
        with contextlib.suppress(OSError, ValueError):
            print("observer: " + " ".join(text.split()), file=sys.stderr, flush=True)


class _Server(ThreadingHTTPServer):
    """A thread for each connection, up to _MAX_CONNECTIONS; above that 503."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, family: int, address: Any, view: View, metrics_dir: Path | None) -> None:
        self.address_family = family
        self._view = view
        self._metrics_dir = metrics_dir
        self._complaints = Complaints()
        self._exposition: Exposition | None = None
        self._scrape = threading.Lock()
        self._open: dict[socket.socket, float] = {}  # connection -> when it came
        self._open_lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind; without HTTPServer's look-up of the host's name, which may wait for a name server."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)

    # -- connections, in the main thread

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the connection, or refuse it."""
        now = time.monotonic()
        with self._open_lock:
            full = len(self._open) >= _MAX_CONNECTIONS
            if not full:
                self._open[request] = now
            for connection, since in self._open.items() if full else ():
                if now - since > _CONNECTION_LIFE:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)  # its thread sees the end and goes
        if not full:
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """The connection is over; also called where no thread could be started."""
        with self._open_lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's business; anything else is ours, said once."""
        error = sys.exception() if sys.version_info >= (3, 12) else sys.exc_info()[1]
        if not isinstance(error, OSError):
            self._complaints.say(repr(error), f"a request failed: {error!r}")

    # -- answers, in the connections' threads

    def page(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a GET of `path`."""
        view = self._view
        try:
            match path.partition("?")[0]:
                case "/metrics":
                    return 200, *self._metrics(accept)
                case "/":
                    from swarm.supervisor import page  # which imports this module

                    return 200, _HTML, page.render(page.facts(view), time.time())
                case "/healthz":
                    status, body = health(view.bulletin.loop_at, view.clock())
                case "/readyz":
                    status, body = readiness(view.notice(), view.boards, view.clock())
                case unknown:
                    status, body = 404, {"error": f"nothing is served at {unknown}", "paths": PATHS}
        except Exception as error:  # facts that nobody thought of must not end the observer
            self._complaints.say(repr(error), f"{path} failed: {error!r}")
            status, body = 500, {"ok": False, "why": f"the observer failed: {error!r}"}
        return status, _JSON, _json(body)

    def _metrics(self, accept: str) -> tuple[str, bytes]:
        with self._scrape:  # one page in memory at a time
            if self._exposition is None:
                # Late: 130 ms and 3.5 MB that a swarm nobody scrapes does without.
                from swarm.supervisor.exposition import Exposition

                self._exposition = Exposition(self._view, self._metrics_dir, self._complaints.say)
            return self._exposition.page(accept)


def _json(body: dict[str, object]) -> bytes:
    return json.dumps(body).encode() + b"\n"


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "kafka-swarm"
    sys_version = ""
    timeout = _REQUEST_TIMEOUT
    wbufsize = -1  # headers and body in one write
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(*self.server.page(self.path, self.headers.get("Accept", "")))

    do_HEAD = do_GET

    def _refuse(self) -> None:
        body = _json({"error": f"{self.command} is not allowed: this only shows", "paths": PATHS})
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, _JSON, body, Allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse

    def _answer(self, status: int, content_type: str, body: bytes, **headers: str) -> None:
        self._discard_body()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if content_type == _HTML:
            from swarm.supervisor.page import HEADERS

            headers |= HEADERS
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _discard_body(self) -> None:
        """A body that nobody asked for must not be taken for the next request, nor reset the connection at its close."""
        length = self.headers.get("Content-Length", "0")
        if length == "0" and "Transfer-Encoding" not in self.headers:
            return
        self.close_connection = True
        if length.isdecimal():
            self.rfile.read(min(int(length), _MAX_BODY))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses (a malformed request, an unknown method), as JSON too."""
        body = _json({"error": message or HTTPStatus(code).phrase})
        self.send_response(code)
        self.send_header("Content-Type", _JSON)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: no log of requests."""
