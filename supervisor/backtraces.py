"""Taking a process's backtrace: ask it, or send SIGTTIN, then read what it wrote into its memfd until that has not grown for a while.

A process that is asked writes while it holds the interpreter's lock. At SIGTTIN it does so without: it reads the frames of threads that
run meanwhile, and has died of that (docs/design.md). So the signal is for those that do not answer, in which nothing runs Python.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from swarm.scoreboard import Scoreboard
from swarm.stacks import cut, sections
from swarm.supervisor.processes import Process, send

POLL: Final = 0.05
"""Seconds between two looks at dumps under way."""
QUIET_FOR: Final = 0.2
"""Seconds without growth after which a dump is whole (a hundred threads of a hundred frames take some 50 ms)."""
ANSWER_WITHIN: Final = 1.5
"""Seconds in which a process that is asked begins to write; else SIGTTIN makes it. With 30 threads that compute and two cores for two
such processes it takes some 0.4 s: each of them gets its 5 ms first, and the main thread comes back for the lock three times."""
PATIENCE: Final = 2.0
"""Seconds to wait for the first byte after SIGTTIN."""
KEEP: Final = 4 << 20
"""Bytes after which a dump file is emptied."""

SAMPLE_EVERY: Final = 0.1
"""Seconds between two samples of a profile: each stops all threads of the process for some 50 µs and more, as many as there are."""

Tell = Callable[[], bool]
"""Ask a process to write its backtrace by itself; whether the question went through."""

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
    unsent: Callable[[], object] | None = None
    """Sends the signal, if it was only asked so far."""
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
        if self.unsent is not None and self.size == self.start and now - self.asked_at >= ANSWER_WITHIN:
            self.unsent()
            self.unsent, self.grown_at = None, now
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
        label = names.get(int(match[2], 16))
        if not label:
            return match[0]
        name, _, hand = label.partition("\n")
        return f'{match[1]}{match[2]} "{name}"{hand}'

    return _THREAD_LINE.sub(named, text)


def labels(board: Scoreboard) -> dict[int, str]:
    """What stands beside the threads of a worker: the name, and on a line of its own the batch that it has in hand."""
    now = time.monotonic()
    found = board.threads()
    for job in board.jobs():
        if job.thread in found:
            what = f"{job.topic}/{job.partition} offsets {job.first_offset}-{job.last_offset}"
            more = f"group {job.group}, attempt {job.attempt}, for {now - job.started_at:.1f} s"
            found[job.thread] += f"\n [in hand: {what}, {more}]"
    return found


Dumped = dict[str, Any]
"""`process` (supervisor, worker, observer), `worker` (index or None), `pid`, `text`."""


class Asked(NamedTuple):
    """A process to ask."""

    kind: str
    worker: int | None
    process: Process
    fd: int
    names: Callable[[], Mapping[int, str]]
    tell: Tell | None
    """None: it understands nothing but the signal."""


@dataclass(slots=True)
class Sampling:
    """A profile under way: a dump each SAMPLE_EVERY. What they are is counted as it comes, so it takes no room."""

    of: Asked
    until: float
    then: Callable[[Counter[str], int], None]
    next_at: float
    read_to: int
    asked: int = 0
    counted: Counter[str] = field(default_factory=Counter)
    _unanswered_since: float | None = None
    _signalled_at: float = 0.0
    _rest: str = ""

    def step(self, now: float) -> bool:
        """Ask for the next dump if it is time, and read what came; whether it is over."""
        if self._read():
            self._unanswered_since = None
        since = self._unanswered_since
        if since is not None and now - since >= ANSWER_WITHIN:
            self._signal(now)
        elif since is None and now < self.until and now >= self.next_at:
            self._ask(now)
        unasked = self._unanswered_since is not None and self._signalled_at < self._unanswered_since
        over = now >= max(self.until, self._signalled_at) + QUIET_FOR and not unasked
        if over:
            self._read(last=True)
        return over

    def _ask(self, now: float) -> None:
        self.next_at = now + SAMPLE_EVERY
        self.asked += 1
        self._unanswered_since = now
        if self.of.tell is None or not self.of.tell():
            self._signal(now)

    def _signal(self, now: float) -> None:
        self._signalled_at = self._unanswered_since = now
        if not send(self.of.process, signal.SIGTTIN):
            self.until = now

    def _read(self, *, last: bool = False) -> bool:
        """Count what has come; whether anything has."""
        size = os.fstat(self.of.fd).st_size
        if size < self.read_to:  # another reader has emptied the file
            self.read_to = 0
        came = size > self.read_to
        text = self._rest + os.pread(self.of.fd, size - self.read_to, self.read_to).decode("utf-8", "replace")
        self.read_to = size
        whole, self._rest = (text, "") if last else cut(text)  # the last thread may be half written
        found = list(sections(whole))
        names = {ident: label.partition("\n")[0] for ident, label in self.of.names().items()} if found else {}
        self.counted.update(name_threads(section, names) for section in found)
        if size > KEEP:
            os.ftruncate(self.of.fd, 0)
            self.read_to = 0
        return came


class Backtraces:
    """The dumps that are under way. Asking never waits; `collect` in each pass."""

    def __init__(self) -> None:
        self.pending: list[Backtrace] = []
        self.sampling: list[Sampling] = []

    @property
    def look_in(self) -> float | None:
        """Seconds until something has to be done for a dump or a profile; None: there is none."""
        return min((SAMPLE_EVERY / 2 if each else POLL for each in (self.sampling, self.pending) if each), default=None)

    def sample(self, asked: Asked, seconds: float, then: Callable[[Counter[str], int], None]) -> None:
        """Take dumps of one process for so many seconds; `then` hears the text of each thread with how often it was seen, and the number of
        dumps that were asked for."""
        now = time.monotonic()
        self.sampling.append(Sampling(asked, now + seconds, then, now, os.fstat(asked.fd).st_size))

    def ask(self, asked: Asked, then: Callable[[str], None]) -> None:
        """Ask one process; `then` hears its text, or why there is none."""
        dump = Backtrace(asked.process.pid, asked.fd, time.monotonic(), then, asked.names)
        self.pending.append(dump)
        signalled = partial(send, asked.process, signal.SIGTTIN)
        if asked.tell is not None and asked.tell():
            dump.unsent = signalled
        else:
            signalled()

    def ask_all(self, asked: Sequence[Asked], then: Callable[[list[Dumped]], None]) -> None:
        """Ask several; `then` hears all of them together, in their order."""
        found: list[Dumped] = [
            {"process": each.kind, "worker": each.worker, "pid": each.process.pid, "text": ""} for each in asked
        ]
        missing = set(range(len(asked)))

        def heard(number: int) -> Callable[[str], None]:
            def done(text: str) -> None:
                found[number]["text"] = text
                missing.discard(number)
                if not missing:
                    then(found)

            return done

        for number, each in enumerate(asked):
            self.ask(each, heard(number))
        if not asked:
            then(found)

    def collect(self, now: float) -> None:
        """Hand over those that are whole."""
        for dump in [dump for dump in self.pending if dump.done(now)]:
            self.pending.remove(dump)
            dump.then(dump.text())
        for sampling in [each for each in self.sampling if each.step(now)]:
            self.sampling.remove(sampling)
            sampling.then(sampling.counted, sampling.asked)

    def reads(self, fd: int) -> bool:
        """Whether somebody still waits for what comes into this file."""
        return any(dump.fd == fd for dump in self.pending) or any(each.of.fd == fd for each in self.sampling)

    def own(self, fd: int) -> str:
        """This process's own backtrace, at once."""
        start = os.fstat(fd).st_size
        faulthandler.dump_traceback(fd, all_threads=True)
        return os.pread(fd, 1 << 20, start).decode("utf-8", "replace")
