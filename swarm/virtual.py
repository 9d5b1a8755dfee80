"""A batch in slices that run at once: how it is divided, and what of it is done afterwards. Rules only: no client, no thread, no clock.

Messages with the same key are in one slice, in their order. The lane has one collective frontier: the first message that is not
done. What is done beyond it is not repeated by this worker; after a crash it is, because only the frontier is committed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from itertools import accumulate
from operator import itemgetter, methodcaller
from typing import TYPE_CHECKING, Any

from swarm.message import Message, Record
from swarm.plan import VirtualPartitions, by_key

if TYPE_CHECKING:
    from swarm.lane import Lane

CURRENT: ContextVar[Slice | None] = ContextVar("swarm_slice", default=None)
"""The slice that this thread, or this task of the event loop, is running: whose marks its handler makes."""


def split(
    records: Sequence[Record],
    virtual: VirtualPartitions,
    most: int,
    deserializer: Callable[[bytes], Any] | None = None,
) -> list[list[Record]]:
    """At most `most` slices of about the same size. Raises what the application's `by` raises, or TypeError for an unhashable answer."""
    if most < 2 or len(records) < 2:
        return [list(records)]
    keys: list[Any]
    if virtual.by is by_key:
        keys = list(map(_key_of, records))
    else:
        by: Any = virtual.by
        keys = [by(Message(record, deserializer)) for record in records]
    counts = Counter(keys)
    if len(counts) == 1:
        return [list(records)]
    # The largest first, each to the slice that has least: the longest slice is what a batch waits for. Keys that are no more than an
    # eighth of a slice fill it up in runs, for there may be as many of them as messages, and a step of Python for each is too much.
    most = min(most, len(counts))
    small = len(records) // (8 * most)
    sizes = [0] * most
    slices: list[list[Record]] = [[] for _ in sizes]
    put: dict[Any, Callable[[Record], None]] = {}
    for key, count in sorted((each for each in counts.items() if each[1] > small), key=_count_of, reverse=True):
        least = sizes.index(min(sizes))
        put[key] = slices[least].append
        sizes[least] += count
    if len(put) < len(counts):
        rest = [key for key, count in counts.items() if count <= small]
        ends = list(accumulate(map(counts.__getitem__, rest)))
        level, begin, filled = _level(sizes, ends[-1]), 0, 0.0
        for number, size in enumerate(sizes):
            if size < level or number == most - 1:
                filled += level - size
                end = bisect_left(ends, filled) + 1 if number < most - 1 else len(rest)
                put.update(dict.fromkeys(rest[begin:end], slices[number].append))
                begin = max(begin, end)
    for record, key in zip(records, keys, strict=True):
        put[key](record)
    return [part for part in slices if part]


def _level(sizes: Sequence[int], more: int) -> float:
    """How full all are that are no fuller than that, when so many more have been dealt out."""
    total, level = more, 0.0
    for number, size in enumerate(sorted(sizes)):
        if number and level <= size:
            break
        total += size
        level = total / (number + 1)
    return level


_key_of = methodcaller("key")
_count_of = itemgetter(1)


class Slice:
    """A part of a batch that one thread runs. To a handler's runner, and to the handler's marks, it stands for the lane."""

    def __init__(self, lane: Lane, records: list[Record], attempt: int) -> None:
        self.lane = lane
        self.records = records
        self.attempt = attempt
        start = records[0].offset()
        self.frontier = start
        """Messages of this slice below it are done."""
        self.retry_from = start
        """Messages of this slice from here on run again."""
        self.unmarked_end = start
        self.marked_to = start
        """Messages of this slice below it were marked by the handler."""
        self.repeat_end = start
        self.handled = 0
        self.suppress = False
        self.done = 0
        self.seconds = 0.0
        """How long it ran."""
        self.failure: BaseException | None = None

    @property
    def blamed(self) -> dict[int, int]:
        """Messages that have failed before, and how often."""
        return self.lane.blamed

    halt = False
    """`each` ends a slice that it began, also while its partition is taken: only the frontier can be committed, so what other slices
    have done beyond a message that was left out would be repeated."""

    def run(self) -> None:
        """Run the handler over this slice; keeps what it raises. Processing thread."""
        token = CURRENT.set(self)
        try:
            assert self.lane.runner is not None
            self.done = self.lane.runner(self, self.records, self.attempt)
        except BaseException as error:
            self.failure = error
        finally:
            CURRENT.reset(token)
        # At-most-once: what ran never runs again, whatever it asked for.
        if self.failure is None and (not self.suppress or self.lane.plan.delivery == "at_most_once"):
            records, done = self.records, self.done
            end = records[done].offset() if done < len(records) else records[-1].offset() + 1
            self.retry_from = end
            if self.lane.plan.offsets == "automatic":
                self.frontier = max(self.frontier, end)

    def mark(self, offset: int) -> bool:
        """Every message of this slice up to and including `offset` is done."""
        lane = self.lane
        if lane.lost or lane.phase == "closed" or offset >= lane.taken_end:
            return False
        self.retry_from = self.marked_to = offset + 1
        self.frontier = max(self.frontier, offset + 1)
        return True

    def undone(self) -> list[Record]:
        """What runs again."""
        start = self.retry_from
        if self.records[-1].offset() < start:
            return []
        return [record for record in self.records if record.offset() >= start]

    def first_unmarked(self, end: int) -> int:
        """Offset of the first message of this slice that is not done; `end` where all are."""
        frontier = self.frontier
        if self.records[-1].offset() < frontier:
            return end
        return next((record.offset() for record in self.records if record.offset() >= frontier), end)


class Division:
    """A batch that is being run in slices: which of them wait for a thread, and how many have not ended. Under the worker's lock."""

    def __init__(self, slices: Iterable[Slice]) -> None:
        self.slices = list(slices)
        self.waiting = deque(self.slices)
        self.running = 0
        self._homes: dict[int, Slice] | None = None

    def frontier(self, end: int) -> int:
        """The collective frontier: the first message that is not done, `end` where all are."""
        return min(part.first_unmarked(end) for part in self.slices)

    def likely_seconds(self) -> float:
        """How long a slice takes by itself: by the one that was fastest, for threads that run at once hold each other up."""
        fastest = min(part.seconds / len(part.records) for part in self.slices)
        return fastest * sum(len(part.records) for part in self.slices) / len(self.slices)

    def fail(self, error: BaseException, *, whole: bool) -> None:
        """Outputs were not delivered, and nobody knows whose: each slice has failed; `whole`: all that it did not mark is undone."""
        for part in self.slices:
            if part.failure is None:
                part.failure = error
                if whole:
                    part.retry_from = part.marked_to

    def slice_of(self, offset: int) -> Slice | None:
        """The slice that holds the message with this offset. Any thread."""
        homes = self._homes
        if homes is None:
            homes = self._homes = {record.offset(): part for part in self.slices for record in part.records}
        return homes.get(offset)

    def unmarked(self) -> set[int]:
        """Offsets of messages that were run, are not marked, and do not run again."""
        return {
            offset
            for part in self.slices
            for record in part.records
            if part.frontier <= (offset := record.offset()) < part.retry_from
        }

    def undone(self) -> list[Record]:
        """What runs again, in the order of the partition."""
        return sorted((record for part in self.slices for record in part.undone()), key=lambda record: record.offset())


def ranges(records: Sequence[Record]) -> list[Sequence[Record]]:
    """Records in the order of their offsets, cut wherever an offset is missing between two."""
    if not records:
        return []
    if records[-1].offset() - records[0].offset() + 1 == len(records):
        return [records]
    found: list[Sequence[Record]] = []
    begin = 0
    for number in range(1, len(records)):
        if records[number].offset() != records[number - 1].offset() + 1:
            found.append(records[begin:number])
            begin = number
    found.append(records[begin:])
    return found
