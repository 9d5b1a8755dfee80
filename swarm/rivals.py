"""Whether somebody else has this member's seat, its `group.instance.id`, judged by what the broker says and how often. Pure.

Classic protocol: who joins under an id fences whoever has it (KIP-345). One fencing may be a latecomer's, who is gone by now; from the
second on somebody joins again and again, as we do: most likely two daemons of one name on one host, and a new process would not help
either of them. KIP-848: the newcomer is refused until the session of whoever has the id is over; who is refused for longer than that
has a rival who is alive.
"""

from __future__ import annotations

from typing import Final

FENCINGS: Final = 2
"""So many, each within `OVER` seconds of the one before, and there is a rival."""
OVER: Final = 150.0
"""Seconds without a fencing after which the rival is gone: more than twice the longest wait of ours and of its."""
LONGEST: Final = 60.0
"""Seconds that a fenced client waits at most: each return takes the seat, and with it the partitions, from the one who has it."""
PATIENCE: Final = 90.0
"""Seconds of refusals after which the seat is not a dead predecessor's: twice the broker's default session."""


class Rivals:
    """What one group's client has met with its seat. The poller's."""

    def __init__(self) -> None:
        self._fencings = self._refusals = 0
        self._fenced_at = self._refused_at = self._refused_since = 0.0

    def fenced(self, now: float) -> float:
        """Somebody took the seat; returns for how many seconds to wait before it is taken back: 0.5, 1, 2, … 60."""
        self._forget(now)
        self._fencings += 1
        self._fenced_at = now
        return _wait(self._fencings, LONGEST)

    def refused(self, now: float) -> float:
        """Somebody has the seat still; returns for how many seconds to wait: 0.5, 1, 2, … 30."""
        self._forget(now)
        self._refused_since = self._refused_since or now
        self._refusals += 1
        self._refused_at = now
        return _wait(self._refusals, LONGEST / 2)

    def times(self, now: float) -> int:
        """How often the rival was met; 0: there is none, as far as one can know."""
        self._forget(now)
        if self._fencings >= FENCINGS:
            return self._fencings
        return self._refusals if self._refusals and now - self._refused_since >= PATIENCE else 0

    def let_in(self) -> None:
        """We have joined: whoever had refused us is gone. Who fences us may come again."""
        self._refusals, self._refused_since = 0, 0.0

    def _forget(self, now: float) -> None:
        if now - self._fenced_at >= OVER:
            self._fencings = 0
        if now - self._refused_at >= OVER:
            self.let_in()


def _wait(times: int, longest: float) -> float:
    return min(longest, 0.5 * 2.0 ** min(times - 1, 16))
