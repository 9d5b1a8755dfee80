"""Offsets as ranges, half open and merged. Arithmetic only: knows neither events nor Kafka."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""From the first offset to the one after the last."""


class Ranges:
    """A set of offsets that grows: neighbours are merged, so what is contiguous costs one entry however long it is."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, offsets: Iterable[int] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for offset in offsets:
            self.add(offset, offset + 1)

    def add(self, start: int, end: int) -> None:
        """Take in `start` to `end` - 1. Cheap at the end, where offsets usually arrive."""
        if end <= start:
            return
        starts, ends = self._starts, self._ends
        if not starts or start > ends[-1]:
            starts.append(start)
            ends.append(end)
            return
        if start >= starts[-1]:
            ends[-1] = max(end, ends[-1])
            return
        first = bisect_left(ends, start)
        last = bisect_right(starts, end)
        if first < last:
            start, end = min(start, starts[first]), max(end, ends[last - 1])
        starts[first:last] = [start]
        ends[first:last] = [end]

    def gaps(self, start: int, end: int) -> list[Range]:
        """What of `start` to `end` - 1 is not in the set."""
        found = []
        for begin, stop in self.within(start, end):
            if begin > start:
                found.append((start, begin))
            start = stop
        if start < end:
            found.append((start, end))
        return found

    def within(self, start: int, end: int) -> Iterator[Range]:
        """What of `start` to `end` - 1 is in the set."""
        number = bisect_right(self._ends, start)
        while number < len(self._starts) and self._starts[number] < end:
            yield max(start, self._starts[number]), min(end, self._ends[number])
            number += 1

    def count(self, start: int, end: int) -> int:
        """How many of `start` to `end` - 1 are in the set."""
        return sum(stop - begin for begin, stop in self.within(start, end))

    @property
    def end(self) -> int:
        """The offset after the last; 0 where there is none."""
        return self._ends[-1] if self._ends else 0

    @property
    def start(self) -> int:
        """The first offset; 0 where there is none."""
        return self._starts[0] if self._starts else 0

    def __bool__(self) -> bool:
        return bool(self._starts)

    def parts(self) -> list[Range]:
        """All of it, in order."""
        return list(zip(self._starts, self._ends, strict=True))

    def __repr__(self) -> str:
        return f"Ranges({shown(self.parts())})"


def shown(ranges: Iterable[Range], most: int = 5) -> str:
    """`0-9, 12, 14-20`, at most `most` of them."""
    texts = [str(start) if end == start + 1 else f"{start}-{end - 1}" for start, end in ranges]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
