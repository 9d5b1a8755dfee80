"""Partitions that stand still although their log grows: since when, and what to do. Pure: told what a poller sees, asks no broker.

A client that is well hears of each of its partitions in every answer to a fetch, also where there is nothing new. A partition *stands*
while the broker, asked beside the fetches, says that its log has grown beyond all that the fetches told of, and nothing else explains
that: the lane is idle, nobody paused it, nothing holds fetching back, and the broker does answer. So a slow handler, a retry, a limited
rate, an open transaction, a quiet swarm and a broker that is away never count; nor do messages that are passed over (aborted, compacted
away), for the fetches tell of the end of the log meanwhile.

First the partition is sought anew, which makes the client fetch it afresh. If it stands on, the supervisor replaces the worker
(`partition_stands`), which is as much again later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

Key = tuple[str, int]

PARTS: Final = 4
"""The broker is asked this often within the timeout: a partition that moves meanwhile is never thought to stand."""
LATE: Final = 5.0
"""Seconds between two looks after which all that was seen before is forgotten: the poller, or the whole machine, stood still itself."""


class Sight(NamedTuple):
    """What the poller sees of one partition. position: the next offset that it will read; heard: the end of the log by the fetches.

    idle: it is being fetched, nothing of it is in hand, and nothing holds it back.
    """

    key: Key
    idle: bool
    position: int
    heard: int


class Stood(NamedTuple):
    """A partition that stands, and shall be sought. end: of its log, by the broker's word; seconds: for how long, at least."""

    key: Key
    position: int
    end: int
    seconds: float


@dataclass(slots=True)
class _Watch:
    position: int
    heard: int
    still_since: float
    asked_at: float
    end: int = -1
    since: float = 0.0
    sought: bool = False


class Standing:
    """The partitions of one group in one worker. Instants are monotonic seconds."""

    def __init__(self, timeout: float) -> None:
        """timeout: seconds until something is done; 0: nothing is looked at."""
        self.timeout = timeout
        self._watches: dict[Key, _Watch] = {}
        self._looked_at = 0.0
        self._ask_at = 0.0

    def look(self, sights: Iterable[Sight], now: float) -> list[Key]:
        """Take in what is seen; returns the partitions whose end the broker has to be asked for now (`told`), often none."""
        late = now - self._looked_at > LATE
        self._looked_at = now
        watches: dict[Key, _Watch] = {}
        for key, idle, position, heard in sights:
            watch = None if late else self._watches.get(key)
            if not idle:
                continue
            if watch is None or (watch.position, watch.heard) != (position, heard):
                watch = _Watch(position, heard, now, now)
            watches[key] = watch
        self._watches = watches
        part = self.timeout / PARTS
        still = {key: watch for key, watch in watches.items() if now - watch.still_since >= part}
        if now < self._ask_at or not any(now - watch.asked_at >= part for watch in still.values()):
            return []
        return list(still)

    def told(self, ends: Mapping[Key, int] | None, now: float) -> None:
        """The broker's answer; one that is missing, or None for all, says that nothing is known: then nothing stands."""
        if ends is None:
            self._ask_at = now + self.timeout  # each question may hold up the poller
        for key, watch in self._watches.items():
            watch.asked_at = now
            watch.end = ends.get(key, -1) if ends is not None else -1
            if watch.end <= max(watch.position, watch.heard):
                watch.since, watch.sought = 0.0, False
            elif not watch.since:
                watch.since = now

    def due(self, now: float) -> list[Stood]:
        """Partitions that have stood for the whole timeout, each once."""
        found = []
        for key, watch in self._watches.items():
            if watch.since and now - watch.since >= self.timeout and not watch.sought:
                watch.sought = True
                found.append(Stood(key, watch.position, watch.end, now - watch.since))
        return found

    def since(self, key: Key) -> float:
        """Since when a partition stands, at least; 0.0: it does not."""
        watch = self._watches.get(key)
        return watch.since if watch is not None else 0.0
