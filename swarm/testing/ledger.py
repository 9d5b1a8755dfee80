"""What the events say of processes, assignments, runs and partitions: the state that the invariants are judged on. Judges nothing itself."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from swarm.testing.ranges import Range, Ranges
from swarm.testing.semantics import Semantics
from swarm.testing.violations import Violation

Key = tuple[str, str, int]
"""Group, topic, partition."""

EVERYTHING: Final = 1 << 62
"""The end of a range without an end."""
_SEGMENTS: Final = 8192
"""Runs that are remembered one by one; older neighbours of one assignment are then remembered as one."""


@dataclass(slots=True, eq=False)
class Process:
    """A worker from its fork to its end; a pid that comes again is another one."""

    pid: int
    worker: int | None
    source: str
    started: bool = False
    """Whether the supervisor said that it started it."""
    ended: bool = False
    trouble: str = ""
    """Why what it had not committed may be repeated by others: how it was killed, that it is orphaned, …"""
    holds: dict[Key, Assignment] = field(default_factory=dict)
    former: dict[Key, Assignment] = field(default_factory=dict)
    """Of each partition that it held, the last assignment that has ended."""

    def __str__(self) -> str:
        return f"pid {self.pid}" if self.worker is None else f"worker {self.worker} (pid {self.pid})"


@dataclass(slots=True, eq=False)
class Run:
    """One run of a handler over the offsets from `first` to `end` - 1."""

    number: int
    """Of the line that said that it began."""
    at: str
    assignment: Assignment
    first: int
    end: int
    count: int
    attempt: int
    closed: bool = False
    """Whether it is said how it ended."""
    failed: bool = False
    """Whether it raised, or its transaction was aborted."""
    committed: int = 0
    """The highest next offset that was committed while it ran."""
    reach: int = 0
    """The next offset behind all that it was said to have done."""
    ended_at: str = ""
    """When that was said last."""

    def __str__(self) -> str:
        return f"line {self.number}, {self.at}: run of {self.first}-{self.end - 1}, attempt {self.attempt}, in {self.assignment.process}"


@dataclass(slots=True, eq=False)
class Assignment:
    """A partition in the hands of one process."""

    process: Process
    number: int
    at: str
    start: int
    position: int | None
    """The next offset that a run is expected to begin with; None: anywhere, as was asked."""
    leaped: bool = False
    """The handler asked for another place, or the offset was out of range: what lies between was passed over as asked."""
    run: Run | None = None
    """The latest one; it still goes on while it is not closed."""
    end: str = ""
    """revoked, lost, or process; empty while it lasts."""
    ended_at: str = ""
    cause: str = ""
    """Why what was not committed in it may be repeated."""
    given_up: bool = False
    answered: str = ""
    """When its process first heard from the coordinator after it began: a commit was confirmed."""
    given_away: bool = False
    """Whether it was somebody else's before it could be acknowledged (`hand_over`)."""
    undecided: bool = False
    """Whether the outcome of its last transaction is not known: the broker was asked where to go on."""
    refused: bool = False
    """A commit of it failed."""
    top: int = 0
    """At its end: the next offset behind all that may have been done, and so committed, in it."""
    late: list[tuple[int, Violation]] = field(default_factory=list)
    """At-most-once: what was committed after its end, and is a violation unless it is said to be dropped."""
    deferred: list[tuple[Run, Run, list[Range]]] = field(default_factory=list)
    """Repetitions by its runs of what others have given up in good order: violations unless it is told of a loss soon."""
    doubt: Violation | None = None
    """It began below what the broker had confirmed: a violation unless it is lost before its first run."""
    overlaps: list[Assignment] = field(default_factory=list)
    """Assignments of the same partition that began before this one ended."""
    pending: list[tuple[Run, Run, int, int]] = field(default_factory=list)
    """Repetitions of its runs that began before it ended: judged when it does."""

    @property
    def in_vain(self) -> bool:
        """Whether it ended by a loss, or with its process: nothing of it counts."""
        return self.end == "lost" or (bool(self.end) and bool(self.process.trouble))

    def __str__(self) -> str:
        return f"line {self.number}, {self.at}: assigned to {self.process} at {self.start}"


@dataclass(slots=True, eq=False)
class Cause:
    """Something said that lets offsets from `start` to `end` - 1 be handled again."""

    number: int
    process: Process | None
    """None: it holds for all."""
    kind: str
    start: int
    end: int
    within: bool
    """Whether it explains a repetition within one assignment too."""
    asked: bool
    """Whether the application or an operator wanted it: then it also excuses at-most-once."""


@dataclass(slots=True, eq=False)
class Suspicion:
    """Offsets that were passed over; a violation if messages with these offsets exist."""

    invariant: str
    start: int
    end: int
    text: str
    evidence: str


class Handled:
    """Which run handled an offset last."""

    __slots__ = ("_ends", "_most", "_runs", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._runs: list[Run] = []
        self._most = 2 * _SEGMENTS

    def overlapping(self, start: int, end: int) -> Iterator[tuple[int, int, Run]]:
        """Earlier runs of offsets from `start` to `end` - 1, with the offsets they share."""
        number = bisect_right(self._ends, start)
        while number < len(self._starts) and self._starts[number] < end:
            yield max(start, self._starts[number]), min(end, self._ends[number]), self._runs[number]
            number += 1

    def put(self, start: int, end: int, run: Run) -> None:
        """`run` handles these now."""
        self.cut(start, end)
        number = bisect_right(self._starts, start)
        self._starts.insert(number, start)
        self._ends.insert(number, end)
        self._runs.insert(number, run)
        if len(self._runs) > self._most:
            self._compact()
            self._most = max(2 * _SEGMENTS, 2 * len(self._runs))

    def cut(self, start: int, end: int) -> None:
        """Nobody handled these after all."""
        if end <= start or not self._ends or start >= self._ends[-1]:
            return
        first = bisect_right(self._ends, start)
        last = first
        left: list[tuple[int, int, Run]] = []
        while last < len(self._starts) and self._starts[last] < end:
            begin, stop, run = self._starts[last], self._ends[last], self._runs[last]
            if begin < start:
                left.append((begin, start, run))
            if stop > end:
                left.append((end, stop, run))
            last += 1
        self._starts[first:last] = [each[0] for each in left]
        self._ends[first:last] = [each[1] for each in left]
        self._runs[first:last] = [each[2] for each in left]

    def _compact(self) -> None:
        # Old neighbours of one assignment stand for one another: the earliest run keeps its place, and so finds every later cause.
        old = len(self._runs) - _SEGMENTS
        starts: list[int] = []
        ends: list[int] = []
        runs: list[Run] = []
        for start, end, run in zip(self._starts[:old], self._ends[:old], self._runs[:old], strict=True):
            if runs and runs[-1].assignment is run.assignment and runs[-1].closed and run.closed and ends[-1] == start:
                ends[-1] = end
            else:
                starts.append(start)
                ends.append(end)
                runs.append(run)
        self._starts[:old], self._ends[:old], self._runs[:old] = starts, ends, runs


@dataclass(slots=True, eq=False)
class Partition:
    """Everything known of one partition in one group."""

    key: Key
    semantics: Semantics
    start: int
    """Where the group began."""
    judged: int
    """Below it, commits were compared with what was done."""
    acknowledged: int = 0
    """The highest next offset that the broker confirmed."""
    done: Ranges = field(default_factory=Ranges)
    skipped: Ranges = field(default_factory=Ranges)
    """By the flow options: no handler saw them."""
    aside: Ranges = field(default_factory=Ranges)
    """Skipped, dead-lettered or dropped."""
    handled: Handled = field(default_factory=Handled)
    holders: list[Assignment] = field(default_factory=list)
    torn: list[Run] = field(default_factory=list)
    """Runs whose end nobody heard of."""
    causes: list[Cause] = field(default_factory=list)
    suspicions: list[Suspicion] = field(default_factory=list)
    holes: list[Run] = field(default_factory=list)
    """Runs of fewer messages than offsets."""

    def __str__(self) -> str:
        return f"{self.key[1]}/{self.key[2]} in group {self.key[0]}"
