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
MANY: Final = 2000

Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Movement:
    """Of one partition. still_for: seconds since it was first seen where it is; rate: messages committed per second; lag_trend: messages
    per second by which its lag grows; both over `watched` seconds, None where that is too short to say."""

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
        seen: dict[Key, tuple[int, int | None]] = {}
        for view in views:
            seen[(view.group, view.topic, view.partition)] = (view.committed, view.lag)
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

    def movement(self, key: Key, committed: int, lag: int | None, now: float) -> Movement:
        """How a partition has moved up to now, where it is at `committed` and `lag`."""
        arrived = self._arrived.get(key)
        still = now - arrived[1] if arrived is not None and arrived[0] == committed else 0.0
        oldest = next(((at, seen[key]) for at, seen in self._looks if key in seen), None)
        if oldest is None or now - oldest[0] < 1.0:
            return Movement(still)
        at, (before, lag_before) = oldest
        watched = now - at
        rate = (committed - before) / watched if committed >= 0 and before >= 0 else None
        trend = (lag - lag_before) / watched if lag is not None and lag_before is not None else None
        return Movement(still, rate, trend, watched)

    def memory_trend(self, pid: int) -> float | None:
        """Bytes per second by which a process has grown; None where it was watched for less than half a minute."""
        looks = self._memory.get(pid)
        if not looks or looks[-1][0] - looks[0][0] < 30.0:
            return None
        return (looks[-1][1] - looks[0][1]) / (looks[-1][0] - looks[0][0])
