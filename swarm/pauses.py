"""Partitions that nobody shall work on for a while, because an operator said so. Pure: words in, an answer per partition out.

`swarmctl pause` and `resume` are *words*, each about a partition or a whole topic, of one group or of all. The last word that speaks
of a partition counts, so `pause orders` and then `resume orders/3` leaves all of `orders` but partition 3 paused. The supervisor
keeps them and tells every worker, whoever holds the partition now or later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

MOST: Final = 250
"""Words that are kept at most, so that they fit one message to a worker, whose names have up to 249 characters each."""


@dataclass(frozen=True, slots=True)
class Word:
    """`paused`: pause or resume. partition None: the whole topic; group None: every group that consumes it."""

    paused: bool
    topic: str
    partition: int | None = None
    group: str | None = None

    def speaks_of(self, group: str, topic: str, partition: int) -> bool:
        """Whether that partition is meant."""
        return topic == self.topic and self.partition in (None, partition) and self.group in (None, group)

    def covers(self, other: Word) -> bool:
        """Whether all that `other` speaks of is meant here, too."""
        return (
            self.topic == other.topic
            and self.partition in (None, other.partition)
            and self.group in (None, other.group)
        )

    def meets(self, other: Word) -> bool:
        """Whether they speak of a partition in common."""
        return (
            self.topic == other.topic
            and (None in (self.partition, other.partition) or self.partition == other.partition)
            and (None in (self.group, other.group) or self.group == other.group)
        )

    def __str__(self) -> str:
        where = self.topic if self.partition is None else f"{self.topic}/{self.partition}"
        return where if self.group is None else f"{where} (group {self.group})"


class Pauses:
    """All words that count, the older first."""

    def __init__(self, facts: Iterable[Mapping[str, Any]] = ()) -> None:
        """facts: those of another one."""
        self._words = [Word(**each) for each in facts]
        self.version = 1 if self._words else 0
        """Grows whenever something changes; 0: nothing was ever said."""

    def __bool__(self) -> bool:
        return bool(self._words)

    def __len__(self) -> int:
        return len(self._words)

    def say(self, word: Word) -> None:
        """Pause or resume. Words that say nothing any more are forgotten: those that the new one covers, and a resume of what is not
        paused. Raises ValueError, with everything as before, where there are too many."""
        kept: list[Word] = []
        for other in [*(each for each in self._words if not word.covers(each)), word]:
            if other.paused or any(earlier.paused and earlier.meets(other) for earlier in kept):
                kept.append(other)
        if len(kept) > MOST:
            raise ValueError(f"there are {MOST} single pauses already: pause whole topics instead")
        if kept != self._words:
            self._words = kept
            self.version += 1

    def holds(self, group: str, topic: str, partition: int) -> bool:
        """Whether this partition is paused."""
        for word in reversed(self._words):
            if word.speaks_of(group, topic, partition):
                return word.paused
        return False

    def facts(self) -> list[dict[str, Any]]:
        """The words, as plain values."""
        return [asdict(word) for word in self._words]
