"""What the journal tells of batches and of partitions that changed hands. The only place of `doctor` that reads it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from swarm import journal_reader
from swarm.config import find_state_dir
from swarm.doctor.facts import Batches, Handovers
from swarm.journal_reader import History

if TYPE_CHECKING:
    from swarm.config import Loaded

SPAN: Final = 3600.0
"""Seconds of the past that are looked at: what was mended before should not be said for ever."""


def past(loaded: Loaded, status: Mapping[str, Any] | None) -> tuple[tuple[Batches, ...], tuple[Handovers, ...]]:
    """Batches by topic, and partitions that changed hands of late; nothing where there is no journal. Reads it whole."""
    directory = Path(status["state_dir"]) if status is not None else find_state_dir(loaded.settings)
    if directory is None or not directory.is_dir():
        return (), ()
    history = journal_reader.read([directory])
    since = time.time() - SPAN
    return tuple(batches(history, since)), tuple(handovers(history, since))


def batches(history: History, since: float) -> Iterable[Batches]:
    """What handlers ran since, by topic. Pure."""
    found: dict[str, list[float]] = {}
    for assignment in history.assignments():
        for run in assignment.runs:
            if run.ended_at < since or run.seconds is None or run.outcome not in ("done", "failed"):
                continue
            count, messages, seconds, longest = found.get(assignment.topic, [0.0, 0.0, 0.0, 0.0])
            found[assignment.topic] = [
                count + run.batches,
                messages + (run.messages if run.messages is not None else run.end - run.start),
                seconds + run.seconds,
                max(longest, run.longest if run.longest is not None else run.seconds),
            ]
    for topic, (count, messages, seconds, longest) in sorted(found.items()):
        yield Batches(int(count), int(messages), seconds, longest, "journal of the last hour", topic)


def handovers(history: History, since: float) -> Iterable[Handovers]:
    """How often partitions went from one worker (index and host) to another since. Pure."""
    held: dict[tuple[str, str, int], list[str]] = {}
    for assignment in history.assignments():
        if assignment.since >= since:
            process = assignment.process
            held.setdefault(assignment.key, []).append(f"{process.name}.{process.host}.{process.worker}")
    for seat, holders in sorted(held.items()):
        times = sum(before != after for before, after in pairwise(holders))
        if times:
            yield Handovers(seat, times, SPAN)
