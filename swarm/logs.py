"""Events and the standard library's log records as lines on stderr, for people or as JSON. Knows no process and no policy.

A log line must never hold up a worker or the supervisor: where stderr cannot take it (a pipe that nobody reads, a full disk),
the line is dropped, counted, and the count is said with the next line that gets through.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from swarm.events import Event

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PRIORITIES: Final = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}
"""As journald reads them at the beginning of a line (sd-daemon(3)): it takes them off, and `journalctl -p warning` finds the line."""
_ATOMIC: Final = 4096
"""PIPE_BUF: poll(2) says a pipe is writable when this much fits, and a write of this much is not interleaved."""


class Output:
    """Writes whole lines to a descriptor without waiting longer than `patience` seconds."""

    def __init__(self, fd: int = 2, patience: float = 0.05) -> None:
        self._journal = is_journal(fd)
        self._fd, self._socket = _without_waiting(fd)
        # A file takes a line at once, whatever its length, and no other process's between its halves.
        self._most = sys.maxsize if _is_file(fd) else _ATOMIC
        self._patience = patience
        self._dropped = 0
        self._lock = threading.Lock()
        self.notice: Callable[[int], str] = "({} log lines were dropped: stderr could not take them)".format
        """The line that says how many were dropped."""
        self.keep: Callable[[str], None] | None = None
        """Gets each line too, also one that is dropped; one thread at a time."""

    def forked(self) -> None:
        """Call in a child: a lock does not survive a fork."""
        self._lock = threading.Lock()

    def write(self, line: str, level: str = "info") -> None:
        """Write one line (or several that belong together); drop it where it cannot be written."""
        data = self._encoded(line, level)
        with self._lock:
            if self.keep is not None:
                self.keep(line)
            if self._dropped:
                data = self._encoded(self.notice(self._dropped), "warning") + data
            if self._write(data):
                self._dropped = 0
            else:
                self._dropped += 1

    def _encoded(self, line: str, level: str) -> bytes:
        if self._journal:  # which reads each line for itself
            line = "\n".join(_PRIORITIES[level] + each for each in line.split("\n"))
        return (line + "\n").encode("utf-8", "replace")

    def _write(self, data: bytes) -> bool:
        view = memoryview(data)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        try:
            while view:
                if not poll.poll(self._patience * 1000):
                    return False
                if self._socket is not None:
                    sent = self._socket.send(view[: self._most], socket.MSG_DONTWAIT)
                else:
                    sent = os.write(self._fd, view[: self._most])
                view = view[sent:]
        except (OSError, ValueError):
            return False
        return True


def is_journal(fd: int) -> bool:
    """Whether this descriptor leads to journald itself: systemd says in the environment which device and inode do."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _without_waiting(fd: int) -> tuple[int, socket.socket | None]:
    """A way to write to `fd` that cannot wait, although other processes may fill it between our look and our write.

    O_NONBLOCK on the descriptor itself would hold for all who share it, a terminal's shell included. A pipe can be opened anew
    with a mode of its own; a socket (journald's) takes the wish with each message.
    """
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), None
        if stat.S_ISSOCK(mode):
            return fd, socket.socket(fileno=os.dup(fd))
    except OSError:
        pass
    return fd, None


def _is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


class Log:
    """Turns events and log records into lines. One per process; `worker` is None in the supervisor."""

    def __init__(self, level: str, style: str, output: Output, worker: int | None = None) -> None:
        self.threshold = _LEVELS[level]
        self._json = style == "json"
        self._output = output
        self._worker = worker
        self._pid = os.getpid()
        self.hide: Callable[[str], str] = str
        """Takes secrets out of every text that is written: an error may quote what a client was configured with."""
        if self._json:
            output.notice = lambda count: self._record("warning", "log_lines_dropped", {"count": count})

    def set_level(self, level: str) -> None:
        """Write from this level on, the standard library's records too."""
        self.threshold = _LEVELS[level]
        logging.getLogger().setLevel(self.threshold)

    def keep(self, keep: Callable[[str], None]) -> None:
        """Hand each line to `keep` too, also where stderr does not take it."""
        self._output.keep = keep

    def event(self, event: Event) -> None:
        """The sink for the bus."""
        if _LEVELS[event.LEVEL] >= self.threshold:
            self.line(event.LEVEL, event.event_name(), event.facts())

    def line(self, level: str, name: str, facts: dict[str, Any]) -> None:
        """Write one line; facts may bring their own `worker` and `pid`."""
        facts = {key: self.hide(fact) if isinstance(fact, str) else fact for key, fact in facts.items()}
        if self._json:
            self._output.write(self._record(level, name, facts), level)
            return
        now = datetime.datetime.now(datetime.UTC)
        who = "supervisor" if self._worker is None else f"worker {self._worker}"
        facts = dict(facts)
        blocks = [facts.pop(key) for key in ("text", "traceback") if facts.get(key)]
        said = " ".join(f"{key}={_plain(value)}" for key, value in facts.items() if value is not None)
        line = f"{now:%H:%M:%S}.{now.microsecond // 1000:03d} {level:<7} {who:<10} {name.replace('_', ' ')}  {said}".rstrip()
        shown = [line, *(f"    {text}" for block in blocks for text in str(block).splitlines())]
        self._output.write("\n".join(shown), level)

    def _record(self, level: str, name: str, facts: dict[str, Any]) -> str:
        now = datetime.datetime.now(datetime.UTC)
        record: dict[str, Any] = {
            "timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "event": name,
            "worker": self._worker,
            "pid": self._pid,
        }
        record.update(facts)
        return json.dumps(record, default=str, ensure_ascii=False)


def _text_of(record: logging.LogRecord) -> str:
    """A record's text, also where its arguments do not fit: to log must never raise in the code that logs."""
    try:
        return record.getMessage()
    except Exception:
        return f"{record.msg!r} with arguments that do not fit: {record.args!r}"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple):
        return ",".join(
            "/".join(str(part) for part in item) if isinstance(item, tuple) else str(item) for item in value
        )
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or not text else text


class _Bridge(logging.Handler):
    """The standard library's records, an application's and librdkafka's, in the same form."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = (
            "debug"
            if record.levelno < 20
            else "info"
            if record.levelno < 30
            else "warning"
            if record.levelno < 40
            else "error"
        )
        facts: dict[str, Any] = {"logger": record.name, "message": _text_of(record)}
        if record.exc_info:
            facts["traceback"] = logging.Formatter().formatException(record.exc_info)
        self._log.line(level, "log", facts)


class _Fold(logging.Filter):
    """librdkafka's own log: one line per facility (FAIL, METADATAUPDATE, …) and interval, with the number that were left out.

    While its only broker is away it writes some 20 lines a second and client; what matters of them is a ClientError event too.
    """

    INTERVAL: Final = 30.0

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        facility = text.partition(" ")[0]
        now = time.monotonic()
        at, left_out = self._seen.get(facility, (float("-inf"), 0))
        if now - at < self.INTERVAL:
            self._seen[facility] = (at, left_out + 1)
            return False
        self._seen[facility] = (now, 0)
        if left_out:
            record.msg, record.args = f"{text} ({left_out} more since the last such line)", None
        if record.levelno > logging.WARNING:
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def bridge(log: Log) -> logging.Handler:
    """A handler that brings the standard library's records into this log."""
    return _Bridge(log)


def install(log: Log) -> None:
    """Send the standard library's logging through `log`, in place of what was installed before."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if (
            isinstance(handler, (_Bridge, logging.StreamHandler))
            and getattr(handler, "stream", sys.stderr) is sys.stderr
        ):
            root.removeHandler(handler)
    root.addHandler(_Bridge(log))
    root.setLevel(log.threshold)
    client = logging.getLogger("librdkafka")
    if not client.filters:
        client.addFilter(_Fold())
