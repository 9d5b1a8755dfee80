"""What journals say about times, owners and troubles: for `doctor` and `why`. Pure functions over `journal_reader.History`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from swarm import journal_format as form
from swarm.journal_reader import Assignment, Happened, History, Key, Process, Run


@dataclass(slots=True)
class Durations:
    """How long batches took (s). `p99` is an upper bound: the next of `journal_format.BOUNDS`, or the longest."""

    batches: int = 0
    messages: int = 0
    failed: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    histogram: list[int] = field(default_factory=lambda: [0] * form.BUCKETS)

    @property
    def p99(self) -> float:
        return self.quantile(0.99)

    @property
    def mean(self) -> float:
        return self.seconds / self.batches if self.batches else 0.0

    def quantile(self, share: float) -> float:
        """Seconds that this share of the batches did not exceed; 0.0 where there was none."""
        left = share * sum(self.histogram)
        for bound, count in zip((*form.BOUNDS, self.longest), self.histogram, strict=True):
            left -= count
            if left <= 0:
                return min(bound, self.longest)
        return self.longest

    def _take(self, run: Run) -> None:
        self.batches += run.batches
        self.messages += run.messages if run.messages is not None else run.end - run.start
        self.failed += run.outcome in ("failed", "aborted") and run.batches > 0
        self.seconds += run.seconds or 0.0
        self.longest = max(self.longest, run.longest or 0.0)
        if run.histogram:
            self.histogram = [a + b for a, b in zip(self.histogram, run.histogram, strict=True)]
        elif run.batches and run.seconds is not None:
            self.histogram[form.bucket(run.seconds)] += 1


def durations(history: History, since: float = 0.0) -> dict[tuple[str, str], Durations]:
    """How long batches took, by (group, topic), of runs that ended since (s since the epoch). What is still in hand does not count."""
    found: dict[tuple[str, str], Durations] = {}
    for lane in history.assignments():
        for run in lane.runs:
            if run.outcome != "in_hand" and run.ended_at >= since:
                found.setdefault((lane.group, lane.topic), Durations())._take(run)
    return found


@dataclass(frozen=True, slots=True)
class Handover:
    """A partition went from one owner to another."""

    at: float
    key: Key
    before: Process
    after: Process
    how: str
    """How the former assignment ended: revoked, lost, shutdown; `exit`: with its process; `""`: not at all, as far as is recorded."""


def handovers(history: History, since: float = 0.0) -> Iterator[Handover]:
    """Changes of owners to another worker, host or daemon, in their order. A successor in the same seat is none."""
    former: dict[Key, Assignment] = {}
    for lane in history.assignments():
        before = former.get(lane.key)
        former[lane.key] = lane
        if before is None or lane.since < since or _seat(before.process) == _seat(lane.process):
            continue
        released = before.released
        how = str(released.data.get("how")) if released is not None else "exit" if before.process.exit else ""
        yield Handover(lane.since, lane.key, before.process, lane.process, how)


def ping_pong(history: History, since: float = 0.0, least: int = 6) -> dict[Key, list[Handover]]:
    """Partitions that changed their owner `least` times or more since, and came back to one that had had them before."""
    found: dict[Key, list[Handover]] = {}
    for handover in handovers(history, since):
        found.setdefault(handover.key, []).append(handover)
    return {
        key: changes
        for key, changes in found.items()
        if len(changes) >= least and len({_seat(each.after) for each in changes}) < len(changes)
    }


def _seat(process: Process) -> tuple[str, str, int | None]:
    return process.host, process.name, process.worker


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that went wrong or was decided about one partition. `what`: failed, aborted, or the name of a fact of its assignment
    (commit_failed, message_dead_lettered, message_dropped, moved, partition_paused, released, …). `first`, `last`: offsets, None: of none."""

    at: float
    what: str
    worker: int | None
    pid: int
    key: Key
    first: int | None = None
    last: int | None = None
    attempt: int | None = None
    error: str = ""


def troubles(
    history: History,
    *,
    worker: int | None = None,
    topic: str | None = None,
    partition: int | None = None,
    limit: int = 20,
) -> list[Trouble]:
    """The newest failures, retries, commits that were refused, dead letters and moves; the newest last. None: of all."""
    found: list[Trouble] = []
    for lane in history.assignments(topic=topic, partition=partition):
        if worker in (None, lane.process.worker):
            found += [_of_run(lane, run) for run in lane.runs if run.outcome in ("failed", "aborted")]
            found += [_of_fact(lane, fact) for fact in lane.facts if fact.what != "begun"]
    return sorted(found, key=lambda each: each.at)[-limit:]


def _of_run(lane: Assignment, run: Run) -> Trouble:
    process = lane.process
    return Trouble(
        run.ended_at,
        run.outcome,
        process.worker,
        process.pid,
        lane.key,
        run.start,
        run.end - 1,
        run.attempt,
        run.error,
    )


def _of_fact(lane: Assignment, fact: Happened) -> Trouble:
    data = fact.data
    first = data.get("offset", data.get("first_offset", data.get("to")))
    error = str(data.get("error") or data.get("how") or data.get("why") or "")
    process = lane.process
    last = data.get("last_offset", first)
    return Trouble(fact.at, fact.what, process.worker, process.pid, lane.key, first, last, data.get("attempts"), error)


def exits(history: History, worker: int | None = None, limit: int = 20) -> list[Process]:
    """Workers' processes that have ended, with their `exit` and `killed`; the newest last."""
    ended = [
        process
        for process in history.processes
        if process.exit is not None and process.worker is not None and worker in (None, process.worker)
    ]
    return sorted(ended, key=lambda process: process.exit.at if process.exit is not None else 0.0)[-limit:]
