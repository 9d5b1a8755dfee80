"""USS and PSS of the workers, measured in rotation: as many as go into a few milliseconds at each scrape. In the observer; knows no HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from swarm.supervisor import memory
from swarm.supervisor.memory import Memory

BUDGET: Final = 0.01
"""Seconds of one scrape; one worker is measured in any case. The kernel walks a process's page tables: 1 ms where it is small, 10 for a GB."""
FRESH: Final = 5.0
"""Seconds for which a measurement serves without being made anew."""


class Rotation:
    """What was measured last, by worker index; who was measured longest ago is next. One thread at a time."""

    def __init__(
        self, measure: Callable[[int], Memory | None] = memory.full, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._measure = measure
        self._clock = clock
        self._found: dict[int, tuple[float, int, Memory | None]] = {}
        """Index -> when, of which process, what."""

    def look(self, pids: Mapping[int, int | None]) -> dict[int, Memory]:
        """The workers' memory as far as it was measured of the processes that there are now. Blocks for some BUDGET seconds."""
        self._found = {index: each for index, each in self._found.items() if pids.get(index) == each[1]}
        began = self._clock()
        never = float("-inf")
        for index in sorted(
            (index for index, pid in pids.items() if pid is not None),
            key=lambda index: self._found[index][0] if index in self._found else never,
        ):
            at = self._found[index][0] if index in self._found else never
            pid = pids[index]
            if pid is None or began - at < FRESH:
                continue
            self._found[index] = (began, pid, self._measure(pid))
            if self._clock() - began >= BUDGET:
                break
        return {index: found for index, (_, _, found) in self._found.items() if found is not None}
