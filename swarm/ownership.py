"""Partitions that nobody in the group has: what the broker's view of a group says, and when that is an alarm. Pure.

The broker knows all members, also those that are not of this swarm, and what each was assigned; so nothing has to be guessed from what
our own workers hold. While a group rebalances nothing is known. A partition is *unowned* from the second look in a row on: the first may
have met new partitions that the group's leader has not noticed yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from swarm.plan import Plan

LOOKS: Final = 2
"""Looks in a row that make an alarm."""
AGAIN: Final = 60.0
LONGEST: Final = 3600.0
"""Seconds between two mends of one group: the first, doubled each time, and the most."""
MOST: Final = 200
"""Partitions that one answer of a worker names at most, so that it fits the 64 KiB that the supervisor reads at once."""


class Census(NamedTuple):
    """A group as the broker sees it. stable: not in the middle of a rebalance; topics: all there are, with their partitions' number."""

    stable: bool
    topics: Mapping[str, int]
    held: frozenset[tuple[str, int]]
    members: int


def unowned(census: Census, plans: Iterable[Plan]) -> dict[str, list[int]] | None:
    """Partitions of subscribed topics that no member has, by topic, `MOST` at most; None: it cannot be known now.

    Where partitions are bound to workers (`partitions=`), those that are bound to none: the topic has more than was thought of.
    """
    plans = list(plans)
    held = census.held
    if any(plan.is_direct for plan in plans):
        held = frozenset(
            place for plan in plans for index in plan.partitions or () for place in plan.assigned_to(index)
        )
    elif not census.stable or not census.members:
        return None
    found: dict[str, list[int]] = {}
    left = MOST
    for topic, count in sorted(census.topics.items()):
        if any(plan.matches(topic) for plan in plans):
            missing = [number for number in range(count) if (topic, number) not in held][:left]
            left -= len(missing)
            if missing:
                found[topic] = missing
    return found


class Unowned:
    """What the supervisor keeps of it, and when it is to be mended: a group that is settled does not look again by itself, and its
    partitions would wait for the next rebalance, whoever causes it."""

    def __init__(self) -> None:
        self._mends: dict[str, tuple[int, float]] = {}
        """Of each group with an alarm: how often it was mended, and when the next time may be."""
        self._seen: dict[tuple[str, str, int], tuple[float, int]] = {}
        """Since when, and in how many looks."""
        self.error: str | None = None
        """Why the last look told nothing."""
        self.looked_at: float | None = None

    def told(self, group: str, found: Mapping[str, list[int]] | None, now: float) -> list[tuple[str, list[int], float]]:
        """A look at one group; None: it was rebalancing, and what is known stays. Returns what has become an alarm: (topic,
        partitions, for how many seconds at least)."""
        self.looked_at = now
        if found is None:
            return []
        before = self._seen
        self._seen = {place: seen for place, seen in before.items() if place[0] != group}
        alarms = []
        for topic, partitions in found.items():
            fresh = []
            for partition in partitions:
                since, looks = before.get((group, topic, partition), (now, 0))
                self._seen[(group, topic, partition)] = (since, looks + 1)
                if looks + 1 == LOOKS:
                    fresh.append((partition, since))
            if fresh:
                alarms.append((topic, [partition for partition, _ in fresh], now - max(since for _, since in fresh)))
        return alarms

    def in_doubt(self) -> bool:
        """Whether something was seen once, and is to be looked at again soon."""
        return any(looks < LOOKS for _, looks in self._seen.values())

    def to_mend(self, group: str, now: float) -> bool:
        """Whether somebody should leave this group and join again now, so that it is shared out anew. Asked after `told`; noted if so."""
        if not any(place[0] == group and looks >= LOOKS for place, (_, looks) in self._seen.items()):
            self._mends.pop(group, None)
            return False
        times, at = self._mends.get(group, (0, now))
        if now < at:
            return False
        self._mends[group] = (times + 1, now + min(LONGEST, AGAIN * 2.0**times))
        return True

    def facts(self, now: float) -> list[dict[str, Any]]:
        """What is an alarm now, for `status`."""
        return [
            {"group": group, "topic": topic, "partition": partition, "for": now - since}
            for (group, topic, partition), (since, looks) in sorted(self._seen.items())
            if looks >= LOOKS
        ]
