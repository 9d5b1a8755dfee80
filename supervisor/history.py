"""How a worker's memory went, in a bounded number of samples: its whole life coarsely, the last minutes finely. Knows no process."""

from __future__ import annotations

from array import array
from typing import Final

MOST: Final = 240
"""Samples of the whole life: when there are more, every second one is forgotten and the next ones are taken half as often."""
RECENT: Final = 120
RECENT_INTERVAL: Final = 5.0
"""Seconds between two of the recent samples: ten minutes of them."""


class History:
    """Samples (age of the process in s, RSS in bytes, messages it has handled), some 9 KB at most for each worker.

    The life of a process of T seconds has at least `MOST / 2` samples, T / 120 apart, as soon as there were so many.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Another process holds the index."""
        self._life = (array("d"), array("d"), array("d"))
        self._recent = (array("d"), array("d"), array("d"))
        self._interval = 0.0

    def add(self, age: float, rss: int, messages: int) -> None:
        """One more look, as often as you like. A microsecond, but for the rare thinning."""
        sample = (age, float(rss), float(messages))
        ages = self._life[0]
        if not ages or age - ages[-1] >= self._interval:
            for column, value in zip(self._life, sample, strict=True):
                column.append(value)
            if len(ages) > MOST:
                self._life = tuple(column[::2] for column in self._life)  # type: ignore[assignment]
                # From what they turned out to be apart: nobody says how often we are called.
                self._interval = (age - self._life[0][0]) / (len(self._life[0]) - 1)
        ages = self._recent[0]
        if not ages or age - ages[-1] >= RECENT_INTERVAL:
            for column, value in zip(self._recent, sample, strict=True):
                column.append(value)
                if len(column) > RECENT:
                    del column[0]

    def samples(self) -> list[tuple[float, int, int]]:
        """All of them, oldest first."""
        every = {*zip(*self._life, strict=True), *zip(*self._recent, strict=True)}
        return [(round(age, 1), int(rss), int(messages)) for age, rss, messages in sorted(every)]
