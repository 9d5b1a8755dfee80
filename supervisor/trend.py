"""How partitions and memory have moved during the last minute: a short history, looked at every few seconds. Pure but for its state.

Lag alone does not say whether it grows; two looks some seconds apart do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from swarm.scoreboard import AssignedView

INTERVAL: Final = 5.0
"""Seconds between two looks; with more than MANY partitions five times as many."""
LOOKS: Final = 13
"""Looks that are kept: one minute."""
EDGE: Final = 2
"""Looks, and now, of which the one counts in which least waits: what comes and goes in steps grows only if that does."""
MANY: Final = 2000

Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Movement:
    """Of one partition. still_for: seconds since it was first seen where it is; rate: messages committed per second; lag_trend: messages
    per second by which its lag grows, without what is only not committed yet; both over `watched` seconds, None where that is too short
    to say."""

    still_for: float | None = None
    rate: float | None = None
    lag_trend: float | None = None
    watched: float = 0.0


class History:
    """The last minute of one swarm."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, dict[Key, tuple[int, int | None]]]] = deque(maxlen=LOOKS)
        self._arrived: dict[Key, tuple[int, float]] = {}
        """Where each partition's committed offset is, and since when it is seen there."""
        self._memory: dict[int, deque[tuple[float, int]]] = {}
        self._next = 0.0

    def due(self, now: float) -> bool:
        """Whether it is time for the next look."""
        return now >= self._next

    def look(self, now: float, views: Iterable[AssignedView], memory: Iterable[tuple[int, int]]) -> None:
        """Take in what there is; memory: (pid, bytes) of each worker."""
        seen: dict[Key, tuple[int, int | None]] = {}  # committed, waiting
        for view in views:
            seen[(view.group, view.topic, view.partition)] = (view.committed, view.waiting)
        for key, (committed, _) in seen.items():
            if self._arrived.get(key, (None, 0.0))[0] != committed:
                self._arrived[key] = (committed, now)
        for key in self._arrived.keys() - seen.keys():
            del self._arrived[key]
        self._looks.append((now, seen))
        self._next = now + (INTERVAL if len(seen) <= MANY else 5 * INTERVAL)
        sizes = dict(memory)
        self._memory = {pid: self._memory.get(pid, deque(maxlen=LOOKS)) for pid in sizes}
        for pid, size in sizes.items():
            self._memory[pid].append((now, size))

    def movement(self, view: AssignedView, now: float) -> Movement:
        """How a partition has moved up to now, where it is as `view` says."""
        key = (view.group, view.topic, view.partition)
        arrived = self._arrived.get(key)
        still = now - arrived[1] if arrived is not None and arrived[0] == view.committed else 0.0
        looks = [(at, *seen[key]) for at, seen in self._looks if key in seen]
        if not looks or now - looks[0][0] < 1.0:
            return Movement(still)
        at, before, _ = looks[0]
        rate = (view.committed - before) / (now - at) if view.committed >= 0 and before >= 0 else None
        waiting = [(moment, count) for moment, _, count in looks] + [(now, view.waiting)]
        known = [(moment, count) for moment, count in waiting if count is not None]
        return Movement(still, rate, _growth(known), now - at)

    def memory_trend(self, pid: int) -> float | None:
        """Bytes per second by which a process has grown; None where it was watched for less than half a minute."""
        looks = self._memory.get(pid)
        if not looks or looks[-1][0] - looks[0][0] < 30.0:
            return None
        return (looks[-1][1] - looks[0][1]) / (looks[-1][0] - looks[0][0])


def _growth(waiting: list[tuple[float, int]]) -> float | None:
    """Messages per second by which what waits has grown, by (moment, count), the oldest first; negative where it shrinks of late."""
    if len(waiting) < 2:
        return None
    recent = waiting[-EDGE - 1 :]
    (begin, first), (before, high), (now, last) = waiting[0], recent[0], recent[-1]
    if last < high:
        return (last - high) / (now - before)
    edge, least = min(recent, key=lambda each: (each[1], -each[0]))
    return (least - first) / (edge - begin) if edge > begin else None
