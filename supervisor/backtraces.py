"""Taking a process's backtrace: SIGTTIN, then read what faulthandler wrote into its memfd until it has not grown for a while."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from swarm.supervisor.processes import Process, send

QUIET_FOR: Final = 0.2
"""Seconds without growth after which a dump is whole (a hundred threads of a hundred frames take some 50 ms)."""
PATIENCE: Final = 2.0
"""Seconds to wait for the first byte."""
KEEP: Final = 4 << 20
"""Bytes after which a dump file is emptied."""

_THREAD_LINE: Final = re.compile(r"^((?:Current t|T)hread 0x)([0-9a-f]+)", re.MULTILINE)


def make_dump_file(name: str) -> int:
    """A memfd that faulthandler appends to. Before the fork, in the supervisor."""
    import fcntl

    fd = os.memfd_create(f"swarm-dump-{name}", os.MFD_CLOEXEC)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return fd


@dataclass(slots=True)
class Backtrace:
    """One dump under way. `poll` it until it is done."""

    pid: int
    fd: int
    asked_at: float
    then: Callable[[str], None]
    names: Callable[[], Mapping[int, str]]
    start: int = 0
    size: int = 0
    grown_at: float = 0.0

    def __post_init__(self) -> None:
        self.start = self.size = os.fstat(self.fd).st_size
        self.grown_at = self.asked_at

    def done(self, now: float) -> bool:
        """Whether it is whole, or hopeless."""
        size = os.fstat(self.fd).st_size
        if size < self.start:  # another dump's reader has emptied the file
            self.start = 0
        if size != self.size:
            self.size, self.grown_at = size, now
        patience = PATIENCE if self.size == self.start else QUIET_FOR
        return now - self.grown_at >= patience

    def whole(self, since: int) -> str:
        """All that is in the file after `since` bytes: what faulthandler wrote when the process died of its own fault."""
        since = since if since <= self.size else 0  # it was emptied in the meantime
        data = os.pread(self.fd, min(self.size - since, KEEP), since).decode("utf-8", "replace")
        return name_threads(data, self.names())

    def text(self) -> str:
        """What was dumped, with the threads' names; or why nothing was."""
        data = os.pread(self.fd, max(0, self.size - self.start), self.start).decode("utf-8", "replace")
        if self.size > KEEP:
            os.ftruncate(self.fd, 0)
        if not data:
            state = process_state(self.pid)
            if state in ("T", "t"):
                return f"(no backtrace: process {self.pid} is stopped (SIGSTOP or a debugger) and cannot answer)"
            return f"(no backtrace: process {self.pid} did not answer within {PATIENCE:g} s; its state is {state or 'gone'})"
        return name_threads(data, self.names())


def process_state(pid: int) -> str:
    """The kernel's letter for a process (proc(5)); empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def name_threads(text: str, names: Mapping[int, str]) -> str:
    """Python 3.11 prints idents only: put the names beside them."""

    def named(match: re.Match[str]) -> str:
        name = names.get(int(match[2], 16))
        return f'{match[1]}{match[2]} "{name}"' if name else match[0]

    return _THREAD_LINE.sub(named, text)


Dumped = dict[str, Any]
"""`process` (supervisor, worker, observer), `worker` (index or None), `pid`, `text`."""
Asked = tuple[str, int | None, Process, int, Callable[[], Mapping[int, str]]]
"""A process to ask: kind, index, process, dump file, its threads' names."""


class Backtraces:
    """The dumps that are under way. Asking never waits; `collect` in each pass."""

    def __init__(self) -> None:
        self.pending: list[Backtrace] = []

    def ask(
        self, process: Process, fd: int, names: Callable[[], Mapping[int, str]], then: Callable[[str], None]
    ) -> None:
        """Ask one process; `then` hears its text, or why there is none."""
        self.pending.append(Backtrace(process.pid, fd, time.monotonic(), then, names))
        send(process, signal.SIGTTIN)

    def ask_all(self, asked: Sequence[Asked], then: Callable[[list[Dumped]], None]) -> None:
        """Ask several; `then` hears all of them together, in their order."""
        found: list[Dumped] = [
            {"process": kind, "worker": index, "pid": process.pid, "text": ""} for kind, index, process, _, _ in asked
        ]
        missing = set(range(len(asked)))

        def heard(number: int) -> Callable[[str], None]:
            def done(text: str) -> None:
                found[number]["text"] = text
                missing.discard(number)
                if not missing:
                    then(found)

            return done

        for number, (_, _, process, fd, names) in enumerate(asked):
            self.ask(process, fd, names, heard(number))
        if not asked:
            then(found)

    def collect(self, now: float) -> None:
        """Hand over those that are whole."""
        for dump in [dump for dump in self.pending if dump.done(now)]:
            self.pending.remove(dump)
            dump.then(dump.text())

    def reads(self, fd: int) -> bool:
        """Whether somebody still waits for what comes into this file."""
        return any(dump.fd == fd for dump in self.pending)

    def own(self, fd: int) -> str:
        """This process's own backtrace, at once."""
        start = os.fstat(fd).st_size
        faulthandler.dump_traceback(fd, all_threads=True)
        return os.pread(fd, 1 << 20, start).decode("utf-8", "replace")
