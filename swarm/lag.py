"""How far groups are behind, by what the broker knows: whichever daemon runs, or none. Pure, but for `gather`.

The lag of a partition is the end of its log (of what is committed, if the group reads only that) minus the group's committed offset. In seconds
it is the age of the oldest message that the group has not committed: now minus the timestamp of the first one at or after the committed
offset. So 0 s is "nothing is waiting", and a group that stands still ages by a second each second. The timestamp is the producer's clock, or
the broker's where the topic has `message.timestamp.type=LogAppendTime`. What cannot be known is None, never 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from swarm.wording import plural

if TYPE_CHECKING:
    from swarm.admin import Cluster
    from swarm.client import Onlooker, TopicReader

Place = tuple[str, int]
PATIENCE: Final = 15.0
"""Seconds for a group's offsets: a coordinator that has just moved, or is only being made, is asked again by the client."""
FIRST_PATIENCE: Final = 5.0
"""Seconds in which the oldest waiting messages are looked for; of those that do not come by then the age is unknown."""


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What the cluster says of one group. Offsets by (topic, partition); a place that is missing is not known."""

    group: str
    state: str
    """Kafka's word: `stable`, `empty`, `dead` (there is none) and the like."""
    committed: Mapping[Place, int]
    holders: Mapping[Place, str]
    """Who holds it; a place that is missing: nobody."""
    missing: tuple[str, ...] = ()
    """Topics that are subscribed to and do not exist."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The same of several groups, and of all their partitions."""

    groups: tuple[GroupFacts, ...]
    places: Mapping[str, tuple[Place, ...]]
    """Group -> its partitions."""
    first: Mapping[Place, int]
    end: Mapping[Place, int]
    """As far as the groups read: of what is committed, or all."""
    oldest: Mapping[tuple[str, Place], int | None] = field(default_factory=dict)
    """(group, place) -> the timestamp (ms) of its first message that is not committed; None: there is none, or nobody said."""
    hidden: Mapping[Place, int] = field(default_factory=dict)
    """So many more stand behind `end`, from an open transaction on."""


def rows(facts: Facts, now: float) -> list[dict[str, Any]]:
    """A row for each partition of each group. `now`: seconds since the epoch."""
    return [_row(group, place, facts, now) for group in facts.groups for place in facts.places[group.group]]


def _row(group: GroupFacts, place: Place, facts: Facts, now: float) -> dict[str, Any]:
    committed, end, first = group.committed.get(place), facts.end.get(place), facts.first.get(place)
    lag = max(0, end - committed) if committed is not None and end is not None else None
    oldest = facts.oldest.get((group.group, place))
    seconds: float | None = None
    if lag == 0:
        seconds = 0.0
    elif lag and oldest is not None:
        seconds = max(0.0, round(now - oldest / 1000, 3))
    return {
        "group": group.group,
        "topic": place[0],
        "partition": place[1],
        "committed": committed,
        "first": first,
        "end": end,
        "lag": lag,
        "seconds": seconds,
        "withheld": facts.hidden.get(place, 0),
        "holder": group.holders.get(place),
        "note": _note(committed, first, end, facts.hidden.get(place, 0)),
    }


def _note(committed: int | None, first: int | None, end: int | None, hidden: int) -> str | None:
    if end is None:
        return "its leader does not answer"
    if committed is None:
        return "nothing was committed"
    if committed > end:
        return f"{committed - end} beyond the end: the topic was made anew, or has lost its end"
    if first is not None and committed < first:
        return f"{first - committed} of it {plural(first - committed, 'is', 'are')} gone (retention)"
    if hidden:
        return f"{hidden} more behind an open transaction"
    return None


def total(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of rows together: the lag of those that are known, how many are not, and the longest age."""
    every = list(found)
    known = [row["lag"] for row in every if row["lag"] is not None]
    ages = [row["seconds"] for row in every if row["seconds"] is not None]
    return {
        "lag": sum(known) if known else None,
        "unknown": len(every) - len(known),
        "seconds": max(ages, default=None),
        "withheld": sum(row["withheld"] for row in every),
        "partitions": len(every),
        "unheld": sum(1 for row in every if row["holder"] is None),
    }


def wanted(topics: Iterable[str], names: Iterable[str], patterns: Iterable[str], committed: Iterable[str]) -> set[str]:
    """The topics that a group is about: those it subscribes to, by name or pattern, and those it has offsets for; as far as they exist."""
    existing = set(topics)
    matched = {topic for topic in existing for pattern in patterns if re.match(pattern, topic)}
    return existing & ({*names, *committed} | matched)


# -- asking the cluster ----------------------------------------------------------------------------------------------


def gather(
    cluster: Cluster,
    reader: TopicReader,
    onlooker: Callable[[str], Onlooker],
    groups: Mapping[str, Mapping[str, Iterable[str]]],
    *,
    stable: bool,
) -> Facts:
    """All of it as of now. onlooker: of a group. groups: group -> {"topics": names, "patterns": regular expressions}, both perhaps empty.
    Blocks for some seconds; raises KafkaException."""
    existing = cluster.topics()
    every = [(topic, number) for topic, numbers in existing.items() for number in numbers]
    found, places = [], {}
    for group, subscribed in groups.items():
        committed = onlooker(group).committed(every, PATIENCE)
        state, holders = cluster.holders(group)
        names = set(subscribed.get("topics", ()))
        topics = wanted(existing, names, subscribed.get("patterns", ()), {topic for topic, _ in committed})
        places[group] = tuple((topic, number) for topic in sorted(topics) for number in sorted(existing[topic]))
        found.append(GroupFacts(group, state, committed, holders, tuple(sorted(names - set(existing)))))
    every = sorted({place for each in places.values() for place in each})
    first = {place: offset for place, (offset, _) in cluster.offsets(every, "first").items()}
    last = cluster.offsets(every, "end") if stable else {}  # first: what is committed meanwhile is not hidden
    end = {place: offset for place, (offset, _) in cluster.offsets(every, "end", stable=stable).items()}
    hidden = {place: high - end[place] for place, (high, _) in last.items() if place in end and high > end[place]}
    oldest: dict[tuple[str, Place], int | None] = {}
    for facts in found:
        behind = {
            place: max(facts.committed[place], first.get(place, 0))
            for place in places[facts.group]
            if place in facts.committed and facts.committed[place] < end.get(place, -1)
        }
        for place, record in reader.first(behind, FIRST_PATIENCE).items() if behind else ():
            kind, milliseconds = record.timestamp()
            oldest[(facts.group, place)] = milliseconds if kind else None
    return Facts(tuple(found), places, first, end, oldest, hidden)
