"""What journals say: segments read back, and put together into who had what, and what became of it. Starts nothing and changes nothing.

    read([dir, …]) -> History
        .processes    each with its `assignments`; each of those with its `runs`, `commits`, `moves` and `facts`
        .deeds        what supervisors said of their workers: started, killed, exited
        .troubles     files that were passed over, and why: for people
        .holes        parts of a writer's journal that are not there, although there is something before and behind them, or that cannot be read

All instants are seconds since the epoch, by the clock of the host that wrote them. Offsets named `first`, `last` are those of messages;
`start`, `end`, `offset` are next offsets: ranges are half open, [start, end).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from swarm import journal_format as form
from swarm.journal_store import journal_dir, name_of
from swarm.wording import counted

Outcome = Literal["done", "failed", "aborted", "in_hand"]
"""Of a run: `in_hand` was begun, and nobody heard how it ended: it runs now, or its process ended with it."""

Key = tuple[str, str, int]
"""Group, topic, partition."""


@dataclass(frozen=True, slots=True)
class Run:
    """Messages [start, end) that a handler saw. First attempts that succeeded one after the other are one run: `batches` of them."""

    start: int
    end: int
    began_at: float
    ended_at: float
    attempt: int
    outcome: Outcome
    order: int
    """Of its record in its process: what happened before has a lower one."""
    error: str = ""
    batches: int = 1
    messages: int | None = None
    """None: not known, or as many as there are offsets."""
    seconds: float | None = None
    """Of all batches together; None: not known."""
    longest: float | None = None
    """Seconds of the longest batch."""
    histogram: tuple[int, ...] = ()
    """Batches by seconds, in the buckets of `journal_format.BOUNDS`."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The broker held `offset` at `at`; `since` is when the first of the commits was answered that this stands for."""

    offset: int
    at: float
    since: float
    order: int


@dataclass(frozen=True, slots=True)
class Ahead:
    """At-most-once: messages [start, end) were to run as soon as the broker would hold `offset`, which was sent at `at`."""

    start: int
    end: int
    offset: int
    at: float


@dataclass(frozen=True, slots=True)
class Happened:
    """A fact, in its place among the others of its process. `what`: begun, moved, released, commit_failed, partition_paused,
    message_dead_lettered, message_dropped, topic_recreated, client_error, client_rebuilt, seat_contested, revocation_given_up, …"""

    at: float
    what: str
    data: dict[str, Any]
    order: int


@dataclass(slots=True)
class Assignment:
    """One assignment of one partition: who had it, since when, from where."""

    process: Process
    number: int
    group: str
    topic: str
    partition: int
    start: int
    since: float
    traits: dict[str, Any]
    """`delivery`, `each`, `offsets`, `long_running`, `virtual`."""
    runs: list[Run] = field(default_factory=list)
    commits: list[Committed] = field(default_factory=list)
    facts: list[Happened] = field(default_factory=list)
    ahead: Ahead | None = None
    """What it committed last before the run."""

    @property
    def key(self) -> Key:
        return self.group, self.topic, self.partition

    @property
    def released(self) -> Happened | None:
        """How it ended: `data["how"]` is revoked, lost or shutdown; None: it goes on, or its process ended with it."""
        return next((fact for fact in self.facts if fact.what == "released"), None)

    def named(self, *what: str) -> list[Happened]:
        """Its facts of these kinds."""
        return [fact for fact in self.facts if fact.what in what]


@dataclass(slots=True)
class Process:
    """A process that kept a journal: a worker, or (`worker` None) a supervisor."""

    source: str
    """The journal's directory."""
    pid: int
    worker: int | None
    name: str
    """Of the daemon."""
    host: str
    version: str
    """Of this product."""
    app_version: str
    began_at: float
    assignments: list[Assignment] = field(default_factory=list)
    facts: list[Happened] = field(default_factory=list)
    """Of no single assignment; `ended`: the process came to its end in good order."""
    seen_at: float = 0.0
    """The newest instant that it wrote."""
    exit: Happened | None = None
    """What its supervisor said of its end: `data` has code, signal, reason, detail and graceful."""
    killed: Happened | None = None
    """That it was ended by force: `data` has reason and by."""

    @property
    def ended(self) -> Happened | None:
        """Its own word that it came to its end in good order."""
        return next((fact for fact in self.facts if fact.what == "ended"), None)

    def __str__(self) -> str:
        who = "supervisor" if self.worker is None else f"worker {self.worker}"
        return f"{who} of {self.name} on {self.host} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class Hole:
    """Segments that are missing in the middle of a writer's journal, or cannot be read: nobody knows what it did from `since` until `until`."""

    source: str
    """The journal's directory."""
    worker: int | None
    """None: a supervisor's."""
    since: float
    until: float

    def meets(self, since: float, until: float) -> bool:
        """Whether anything of it lies between these instants."""
        return self.since <= until and since <= self.until

    def is_of(self, process: Process) -> bool:
        """Whether this process may have written it."""
        return (self.source, self.worker) == (process.source, process.worker)

    def __str__(self) -> str:
        return "the supervisor" if self.worker is None else f"worker {self.worker}"


@dataclass(slots=True)
class History:
    """All that the journals say."""

    processes: list[Process] = field(default_factory=list)
    deeds: list[tuple[str, Happened]] = field(default_factory=list)
    """Of supervisors: the journal's directory, and what happened."""
    troubles: list[str] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    horizons: dict[str, float] = field(default_factory=dict)
    """By directory: before this instant, records of some worker were dropped for size or age, or could not be written."""

    def assignments(
        self, group: str | None = None, topic: str | None = None, partition: int | None = None
    ) -> Iterator[Assignment]:
        """All of them, of a partition in the order of their beginning; None: any."""
        found = [each for process in self.processes for each in process.assignments]
        for each in sorted(found, key=lambda each: each.since):
            if group in (None, each.group) and topic in (None, each.topic) and partition in (None, each.partition):
                yield each


def read(directories: Sequence[Path]) -> History:
    """Read journals. Each directory is a journal's own, or a state directory that has one. What cannot be read is among `troubles`."""
    history = History()
    writers = []
    for directory in directories:
        inner = journal_dir(directory)
        writers += _read_directory(inner if inner.is_dir() else directory, history)
    if history.processes:
        oldest = min(process.began_at for process in history.processes)
        newest = max(process.seen_at for process in history.processes)
        for writer in writers:
            writer.end(oldest, newest)
    _match_exits(history)
    return history


def _read_directory(directory: Path, history: History) -> list[_Writer]:
    try:
        paths = sorted(path for path in directory.iterdir() if name_of(path) is not None)
    except OSError as error:
        history.troubles.append(f"{directory}: {(error.strerror or str(error)).lower()}")
        return []
    writers: dict[str, list[Path]] = {}
    for path in paths:
        name = name_of(path)
        assert name is not None
        writers.setdefault(name[0], []).append(path)
    found = []
    for writer, segments in sorted(writers.items()):
        segments.sort(key=lambda path: (name_of(path) or ("", 0))[1])
        found.append(_Writer(str(directory), writer, history))
        found[-1].take(segments)
    return found


def _load(path: Path) -> bytes | str:
    """A segment's bytes, or why it is passed over. It may be written meanwhile."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return "not a regular file"
        if found.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
            return f"it belongs to another user (uid {found.st_uid})"
        if found.st_size > LARGEST:
            return f"too large ({found.st_size} bytes)"
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    finally:
        os.close(fd)


LARGEST: Final = 1 << 30
"""Bytes of a file that is still taken for a segment."""


class _Writer:
    """Puts one writer's records together, segment after segment."""

    def __init__(self, source: str, writer: str, history: History) -> None:
        self._source = source
        self._writer = writer
        self._history = history
        self._process: Process | None = None
        self._lanes: dict[int, Assignment] = {}
        self._pending: dict[int, tuple[Happened, list[tuple[int, int]]]] = {}
        self._order = 0
        self._newest = 0.0
        """When the newest record so far was begun."""
        self._cut_short = False
        """Whether the newest segment so far could not be read."""

    def take(self, segments: list[Path]) -> None:
        expected = 0
        for path in segments:
            data = _load(path)
            self._cut_short = True
            if isinstance(data, str):
                self._trouble(path, data)
                continue
            try:
                header = form.read_header(data)
            except form.Unreadable as error:
                self._trouble(path, str(error))
                continue
            self._cut_short = False
            if header.serial > expected:
                self._missed(header.created, at_first=not expected)
            expected = header.serial + 1
            damaged = 0
            for record in form.read_records(data, header):
                if record is None:
                    damaged += 1
                    continue
                try:
                    self._feed(record)
                except (KeyError, TypeError, ValueError, AttributeError):
                    damaged += 1
            if damaged:
                self._trouble(path, f"damaged in {counted(damaged, 'place')}: what stood there is passed over")
        self._leave()

    def _missed(self, until: float, *, at_first: bool) -> None:
        """There are segments before this one that nobody can read any more. What was dropped for its size is the oldest."""
        if at_first:
            self._blind_before(until)
            return
        self._hole(min(self._newest, until), until)

    def end(self, oldest: float, newest: float) -> None:
        """All journals are read, which tell of this time: what could not be read at the end of this one may reach until then."""
        if self._cut_short:
            self._hole(self._newest or oldest, newest)

    def _hole(self, since: float, until: float) -> None:
        number = self._writer.rpartition("-")[2]
        worker = int(number) if number.isdigit() else None
        self._history.holes.append(Hole(self._source, worker, since, max(since, until)))

    def _trouble(self, path: Path, why: str) -> None:
        self._history.troubles.append(f"{path}: {why}")

    def _blind_before(self, at: float) -> None:
        horizons = self._history.horizons
        horizons[self._source] = max(at, horizons.get(self._source, 0.0))

    def _feed(self, record: form.Record) -> None:
        self._order += 1
        self._newest = max(self._newest, record.at)
        if isinstance(record, form.Fact):
            self._fact(record)
            return
        lane = self._lanes.get(record.lane)
        if lane is None:
            return  # its introduction was damaged, or dropped with an older segment
        if isinstance(record, form.Commit):
            lane.commits.append(Committed(record.offset, record.latest_at, record.at, self._order))
            self._saw(record.latest_at)
            return
        if isinstance(record, form.Ahead):
            lane.ahead = Ahead(record.first, record.end, record.offset, record.latest_at)
            self._saw(record.latest_at)
            return
        self._span(lane, record)

    def _saw(self, at: float) -> None:
        if self._process is not None:
            self._process.seen_at = max(self._process.seen_at, at)

    def _span(self, lane: Assignment, span: form.Span) -> None:
        done, begun = max(span.first, span.done), max(span.first, span.begun)
        if done > span.first or span.batches:
            lane.runs.append(
                Run(
                    span.first,
                    done,
                    span.at,
                    span.done_at,
                    1,
                    "done",
                    self._order,
                    batches=span.batches,
                    messages=span.messages,
                    seconds=span.seconds,
                    longest=span.longest,
                    histogram=span.histogram,
                )
            )
        if begun > done:
            lane.runs.append(Run(done, begun, span.begun_at, span.begun_at, 1, "in_hand", self._order))
        self._saw(max(span.done_at, span.begun_at))

    def _fact(self, fact: form.Fact) -> None:
        data = fact.data
        if fact.what == "process":
            self._enter(fact)
            return
        self._saw(fact.at)
        happened = Happened(fact.at, fact.what, data, self._order)
        if self._process is None:
            return
        if self._process.worker is None:
            self._history.deeds.append((self._source, happened))
            return
        number = data.get("lane")
        if fact.what == "assigned":
            self._assigned(data)
        elif number is None:
            self._process.facts.append(happened)
        elif number in self._lanes:
            self._of_lane(self._lanes[number], happened)

    def _enter(self, fact: form.Fact) -> None:
        data = fact.data
        if data.get("missing_since"):
            self._blind_before(fact.at)
        process = self._process
        if process is not None and (process.pid, process.began_at) == (data["pid"], data["began_at"]):
            return
        self._leave()
        self._process = Process(
            self._source,
            int(data["pid"]),
            data.get("worker"),
            str(data.get("name", "")),
            str(data.get("host", "")),
            str(data.get("version", "")),
            str(data.get("app_version") or ""),
            float(data["began_at"]),
            seen_at=fact.at,
        )
        self._history.processes.append(self._process)

    def _leave(self) -> None:
        """The records of a process have come to an end: what was begun and not ended was in hand."""
        for number in list(self._pending):
            self._end_run(self._lanes[number], None)
        self._process = None
        self._lanes = {}

    def _assigned(self, data: dict[str, Any]) -> None:
        number = int(data["lane"])
        if number in self._lanes:
            return
        known = ("lane", "group", "topic", "partition", "start", "since")
        traits = {key: value for key, value in data.items() if key not in known}
        assert self._process is not None
        lane = Assignment(
            self._process,
            number,
            str(data["group"]),
            str(data["topic"]),
            int(data["partition"]),
            int(data["start"]),
            float(data["since"]),
            traits,
        )
        self._lanes[number] = lane
        self._process.assignments.append(lane)

    def _of_lane(self, lane: Assignment, happened: Happened) -> None:
        if happened.what == "run":
            self._end_run(lane, None)
            pieces = [(int(first), int(last) + 1) for first, last in happened.data["ranges"]]
            self._pending[lane.number] = happened, pieces
        elif happened.what == "ran":
            self._end_run(lane, happened)
        else:
            lane.facts.append(happened)

    def _end_run(self, lane: Assignment, ended: Happened | None) -> None:
        """A run that was recorded by itself has ended; or one of a span has failed."""
        begun = self._pending.pop(lane.number, None)
        if begun is None and ended is None:
            return
        pieces = begun[1] if begun is not None else []
        data = {} if ended is None else ended.data
        if "seen" in data:
            pieces = [(int(first), int(last) + 1) for first, last in data["seen"]]
        elif "end" in data:
            pieces = [(start, min(end, int(data["end"]))) for start, end in pieces if start < int(data["end"])]
        outcome: Outcome = "in_hand" if ended is None else data.get("outcome", "failed")
        seconds = data.get("seconds")
        until = ended.at if ended is not None else begun[0].at if begun is not None else 0.0
        began = begun[0].at if begun is not None else until - float(seconds or 0.0)
        attempt = int(data.get("attempt") or (begun[0].data.get("attempt") if begun is not None else 1) or 1)
        order = begun[0].order if begun is not None else ended.order if ended is not None else self._order
        for number, (start, end) in enumerate(pieces):
            lane.runs.append(
                Run(
                    start,
                    end,
                    began,
                    until,
                    attempt,
                    outcome,
                    order,
                    str(data.get("error") or ""),
                    batches=0 if number else 1,  # a batch with holes is one batch
                    seconds=0.0 if number else seconds,
                    longest=seconds,
                )
            )


def _match_exits(history: History) -> None:
    """Give each process what its supervisor said of its end: pids come again, so the instants decide, too."""
    for source, deed in history.deeds:
        if deed.what not in ("worker_exited", "worker_killed"):
            continue
        candidates = [
            process
            for process in history.processes
            if process.source == source
            and process.pid == deed.data.get("pid")
            and process.worker == deed.data.get("worker")
            and process.began_at <= deed.at + 1.0
        ]
        if not candidates:
            continue
        process = max(candidates, key=lambda process: process.began_at)
        if deed.what == "worker_killed":
            process.killed = deed
        elif process.exit is None:
            process.exit = deed


def directories_of(paths: Iterable[Path]) -> list[Path]:
    """Without repetitions, in their order."""
    return list(dict.fromkeys(path.resolve() for path in paths))
