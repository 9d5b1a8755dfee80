"""Which messages of a batch may run now, which are skipped, which wait. Rules as values; the one function is told the time.

The four options (`expires_after`, `not_before`, `filter`, `rate_limit`) are asked in this order for each message, and the first
message that has to wait holds all behind it: a partition's order stays.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from swarm.message import Message, Record
from swarm.plan import Plan, RateLimit

LONGEST_WAIT: Final = 60.0
"""Seconds after which a message that is to wait is looked at again: a clock that was wrong may have been set meanwhile."""

FUTURE: Final = 3600.0
"""Seconds by which a timestamp may lie ahead of this machine's clock; one further away is taken for none, or a producer whose
clock is wrong would hold a partition with `not_before` for years."""


@dataclass(slots=True)
class Admission:
    """The first `considered` messages of a batch were judged: `run` may run, the others of them are skipped. Then something stops:
    the end of the batch, `wait` (seconds, 0.0: none), the rate (`limited`), or a filter that raised (`failure`)."""

    considered: int = 0
    run: list[Record] = field(default_factory=list)
    expired: list[Record] = field(default_factory=list)
    filtered: list[Record] = field(default_factory=list)
    wait: float = 0.0
    limited: bool = False
    failure: BaseException | None = None


def admit(plan: Plan, batch: Sequence[Record], now: float, allowed: int | None, attempt: int = 1) -> Admission:
    """Judge a batch at `now` (seconds since the epoch: timestamps are the broker's or producer's); at most `allowed` may run (None: all)."""
    result = Admission()
    for record in batch:
        kind, milliseconds = record.timestamp()
        # A record without a timestamp, or with an absurd one, neither expires nor waits.
        age = now - milliseconds / 1000 if kind and 0 <= milliseconds <= (now + FUTURE) * 1000 else None
        if plan.expires_after is not None and age is not None and age > plan.expires_after:
            result.expired.append(record)
            result.considered += 1
            continue
        if plan.not_before is not None and age is not None and age < plan.not_before:
            result.wait = min(plan.not_before - age, LONGEST_WAIT)
            return result
        if plan.filter is not None:
            try:
                wanted = bool(plan.filter(Message(record, plan.deserializer, attempt)))
            except BaseException as error:
                result.failure = error
                return result
            if not wanted:
                result.filtered.append(record)
                result.considered += 1
                continue
        if allowed is not None and len(result.run) >= allowed:
            result.limited = True
            return result
        result.run.append(record)
        result.considered += 1
    return result


class Bucket:
    """What is left of one subscription's rate in this worker. Any processing thread; the clock is monotonic."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._pace = limit.messages / limit.seconds
        self._lock = threading.Lock()
        self._left = float(limit.messages)
        self._at: float | None = None

    def take(self, most: int, now: float) -> int:
        """How many of `most` messages may run now; they count as run."""
        with self._lock:
            self._refill(now)
            granted = min(most, int(self._left + 1e-9))
            self._left -= granted
            return granted

    def give_back(self, count: int) -> None:
        """Of what `take` granted, so many did not run."""
        with self._lock:
            self._left = min(self._left + count, float(self._limit.messages))

    def wait(self, now: float) -> float:
        """Seconds until the next message may run."""
        with self._lock:
            self._refill(now)
            return max(0.0, 1.0 - self._left) / self._pace

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._left = min(self._left + (now - self._at) * self._pace, float(self._limit.messages))
        self._at = now
