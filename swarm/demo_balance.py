"""The balance of `swarmctl demo`: what was produced against what was processed. Pure: takes records, returns counts and text."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

from swarm.demo_app import Run
from swarm.display import UNKNOWN, WIDTH, count, ranges
from swarm.wording import counted, plural

Place = tuple[int, int]
"""Partition and offset: what an order is known by."""
Cause = Literal["crash", "retry", "rebalance", "commit", "unexplained"]

_BECAUSE: Final[Mapping[Cause, str]] = {
    "crash": "Crash: the killed worker had processed them, but had not yet committed their offsets, so whoever took over its "
    "partitions began at the last commit. That is what at-least-once means.",
    "retry": "Retry: the handler failed, so it ran again on the same messages.",
    "rebalance": "Rebalance: the group took the partition from a worker before it had committed (partitions_lost in its log).",
    "commit": "Commit: the broker refused a worker's commit (commit_failed in its log).",
    "unexplained": "Unexplained: neither the kill nor a retry nor the swarm's log accounts for them. Its warnings: ",
}

_MOST_RANGES: Final = 8


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker that was killed: `at` is CLOCK_MONOTONIC (s), `partitions` is what it held."""

    worker: int
    pid: int
    at: float
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the swarm's log says. `taken`: (pid, partition) that was lost; `refused`: (pid, partition) -> the highest next offset
    whose commit failed; `troubles`: warnings and errors by event."""

    taken: frozenset[tuple[int, int]] = frozenset()
    refused: Mapping[tuple[int, int], int] = field(default_factory=dict)
    troubles: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Repeat:
    """Offsets `first` to `last` of a partition, `orders` of them, that were processed again, and why."""

    cause: Cause
    partition: int
    first: int
    last: int
    orders: int
    worker: int
    again_by: int


@dataclass(frozen=True, slots=True)
class Balance:
    """What came out. `recovery`: per partition of the killed worker the seconds to the next message, None if there was none."""

    produced: int
    processed: int
    runs: int
    lost: tuple[Place, ...]
    unconfirmed: int
    repeats: tuple[Repeat, ...]
    troubles: Mapping[str, int]
    recovery: Mapping[int, float | None]

    @property
    def processed_twice(self) -> int:
        """Orders that were processed more than once."""
        return sum(repeat.orders for repeat in self.repeats)


def balance(produced: Iterable[Place], runs: Iterable[Run], kill: Kill | None, evidence: Evidence) -> Balance:
    """Compare what the broker confirmed with what workers wrote down."""
    confirmed = set(produced)
    by_place: dict[Place, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.at):
        by_place[run.partition, run.offset].append(run)
    return Balance(
        produced=len(confirmed),
        processed=len(by_place),
        runs=sum(map(len, by_place.values())),
        lost=tuple(sorted(confirmed - by_place.keys())),
        unconfirmed=len(by_place.keys() - confirmed),
        repeats=tuple(_repeats(by_place, kill, evidence)),
        troubles=evidence.troubles,
        recovery=recovery((run for several in by_place.values() for run in several), kill),
    )


def recovery(runs: Iterable[Run], kill: Kill | None) -> dict[int, float | None]:
    """For each partition that the killed worker held: seconds from the kill until another process processed a message of it."""
    if kill is None:
        return {}
    found: dict[int, float | None] = dict.fromkeys(kill.partitions)
    for run in runs:
        if run.partition in found and run.pid != kill.pid and run.at > kill.at:
            seconds, known = run.at - kill.at, found[run.partition]
            found[run.partition] = seconds if known is None else min(seconds, known)
    return found


def _repeats(by_place: Mapping[Place, Sequence[Run]], kill: Kill | None, evidence: Evidence) -> list[Repeat]:
    """Repeated orders, with neighbours of the same story drawn together."""
    repeats: list[Repeat] = []
    for (partition, offset), runs in sorted(by_place.items()):
        if len(runs) < 2:
            continue
        cause, worker, again_by = cause_of(runs, kill, evidence), runs[0].worker, runs[-1].worker
        last = repeats[-1] if repeats else None
        story = (cause, partition, worker, again_by)
        if (
            last is not None
            and (last.cause, last.partition, last.worker, last.again_by) == story
            and offset == last.last + 1
        ):
            repeats[-1] = Repeat(cause, partition, last.first, offset, last.orders + 1, worker, again_by)
        else:
            repeats.append(Repeat(cause, partition, offset, offset, 1, worker, again_by))
    return repeats


def cause_of(runs: Sequence[Run], kill: Kill | None, evidence: Evidence) -> Cause:
    """Why an order has several runs (given in the order of time). Where they do not all have one cause, it is unexplained."""
    causes = {_cause_of_two(before, after, kill, evidence) for before, after in pairwise(runs)}
    return causes.pop() if len(causes) == 1 else "unexplained"


def _cause_of_two(before: Run, after: Run, kill: Kill | None, evidence: Evidence) -> Cause:
    place = (before.pid, before.partition)
    if kill is not None and before.pid == kill.pid != after.pid and before.at <= kill.at <= after.at:
        return "crash"
    if before.pid == after.pid and after.attempt > before.attempt:
        return "retry"
    if place in evidence.taken:
        return "rebalance"
    if evidence.refused.get(place, 0) > before.offset:
        return "commit"
    return "unexplained"


# -- as text ---------------------------------------------------------------------------------------------------------


def render(
    result: Balance,
    kill: Kill | None,
    *,
    topic: str,
    restarts: int | None,
    session_timeout: float | None,
    gave_up_after: float | None = None,
) -> str:
    """The balance for people, in lines of at most 80 characters.

    session_timeout: of the embedded broker's group (s), None on a real Kafka. gave_up_after: how long missing orders were
    waited for (s), None if none was missing.
    """
    lines = [
        "Balance",
        _row("produced", count(result.produced), "orders, each confirmed by the broker"),
        _row("processed", count(result.processed), f"orders, in {count(result.runs)} {plural(result.runs, 'run')}"),
        _row("lost", count(len(result.lost)), _lost(result, topic, gave_up_after)),
    ]
    if result.unconfirmed:
        lines.append(_row("unconfirmed", count(result.unconfirmed), "processed, but the producer got no confirmation"))
    lines.append(_row("processed twice", count(result.processed_twice), _why_twice(result)))
    lines += _ranges(result, topic)
    killed = f"worker {kill.worker} (pid {kill.pid}) was killed with SIGKILL" if kill else "nothing was killed"
    lines.append(_row("restarts", count(restarts), killed))
    if kill is not None:
        lines.append(_recovery_row(result))
        lines += ["", *_explanation(session_timeout)]
    return "\n".join(lines)


def _row(name: str, value: str, remark: str) -> str:
    text = f"  {name:<22}{value:>8}"
    return "\n".join(
        textwrap.wrap(f"{text}   {remark}", WIDTH, subsequent_indent=" " * 35, drop_whitespace=True)
        if remark
        else [text]
    )


def _lost(result: Balance, topic: str, gave_up_after: float | None) -> str:
    if not result.lost:
        return ""
    waited = (
        f"not processed within {gave_up_after:g} s after the last was produced" if gave_up_after else "not processed"
    )
    places: dict[int, list[int]] = defaultdict(list)
    for partition, offset in result.lost:
        places[partition].append(offset)
    where = " ".join(f"{topic}/{partition}@{ranges(offsets)}" for partition, offsets in places.items())
    return f"{waited}: {where[:200]}"


def _why_twice(result: Balance) -> str:
    if not result.repeats:
        return ""
    causes: dict[Cause, int] = defaultdict(int)
    for repeat in result.repeats:
        causes[repeat.cause] += repeat.orders
    unexplained = causes.pop("unexplained", 0)
    known = ", ".join(f"{count(orders)} by {cause}" for cause, orders in sorted(causes.items()))
    if not unexplained:
        return f"all explained: {known}"
    return f"{count(unexplained)} UNEXPLAINED" + (f", {known}" if known else "")


def _ranges(result: Balance, topic: str) -> list[str]:
    lines = []
    for repeat in result.repeats[:_MOST_RANGES]:
        offsets = f"{repeat.first}" if repeat.first == repeat.last else f"{repeat.first} to {repeat.last}"
        lines.append(
            f"    {topic}/{repeat.partition}, offsets {offsets}: "
            f"by worker {repeat.worker}, again by worker {repeat.again_by}"
        )
    if len(result.repeats) > _MOST_RANGES:
        lines.append(f"    … and {counted(len(result.repeats) - _MOST_RANGES, 'more range')}")
    troubles = ", ".join(f"{name} {times}x" for name, times in sorted(result.troubles.items())) or "none."
    for cause, because in _BECAUSE.items():
        if any(repeat.cause == cause for repeat in result.repeats):
            lines += _paragraph(because + (troubles if cause == "unexplained" else ""), indent=4)
    return lines


def _recovery_row(result: Balance) -> str:
    known = [seconds for seconds in result.recovery.values() if seconds is not None]
    each = ", ".join(
        f"{partition}: {'never' if seconds is None else f'{seconds:.2f} s'}"
        for partition, seconds in sorted(result.recovery.items())
    )
    slowest = UNKNOWN if not known or len(known) < len(result.recovery) else f"{max(known):.2f} s"
    return _row("kill to next message", slowest, f"by partition: {each}" if each else "it held no partition")


def _explanation(session_timeout: float | None) -> list[str]:
    if session_timeout is None:
        return _paragraph(
            "The workers are static members of their group: a replacement takes its predecessor's seat at once, without a "
            "rebalance, so the others go on."
        )
    return _paragraph(
        "The embedded broker knows no static membership: the dead worker's partitions move only when its session has timed "
        f"out ({session_timeout:g} s here, 45 s by default), with a rebalance for all. On a real Kafka the replacement takes "
        "its predecessor's seat: 0.2 s (measured on Kafka 4.3), and the others notice nothing. See it with "
        "swarmctl demo --bootstrap HOST:PORT."
    )


def _paragraph(text: str, indent: int = 2) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False)
