"""Topics at a glance: partitions, replicas, messages, retention, who of the app reads them. Pure, but for `gather`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.admin import Cluster

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the cluster says. partitions: topic -> partition -> (leader, replicas, those in sync)."""

    partitions: Mapping[str, Mapping[int, tuple[int, int, int]]]
    settings: Mapping[str, Mapping[str, str]]
    first: Mapping[Place, int]
    end: Mapping[Place, int]
    newest: Mapping[Place, int]
    """The largest timestamp (ms) of each partition that has one."""
    readers: Mapping[str, Sequence[str]]
    """Topic -> the app's groups that read it."""
    letters: frozenset[str] = frozenset()
    """The app's dead letter topics."""
    missing: tuple[str, ...] = ()
    """Wanted, and not there."""


def rows(facts: Facts) -> list[dict[str, Any]]:
    """A row for each topic. None is not known."""
    return [_row(name, facts) for name in sorted(facts.partitions)]


def _row(name: str, facts: Facts) -> dict[str, Any]:
    partitions, settings = facts.partitions[name], facts.settings.get(name, {})
    places = [(name, number) for number in partitions]
    known = all(place in facts.first and place in facts.end for place in places)
    newest = [facts.newest[place] for place in places if place in facts.newest]
    return {
        "topic": name,
        "partitions": len(partitions),
        "replicas": max((replicas for _, replicas, _ in partitions.values()), default=None),
        "in_sync": min((in_sync for _, _, in_sync in partitions.values()), default=None),
        "under_replicated": sum(1 for _, replicas, in_sync in partitions.values() if in_sync < replicas),
        "leaderless": sum(1 for leader, _, _ in partitions.values() if leader < 0),
        "min_in_sync": _number(settings.get("min.insync.replicas")),
        "messages": sum(facts.end[place] - facts.first[place] for place in places) if known else None,
        "retention_ms": _number(settings.get("retention.ms")),
        "retention_bytes": _number(settings.get("retention.bytes")),
        "cleanup": settings.get("cleanup.policy"),
        "timestamps": settings.get("message.timestamp.type"),
        "newest": max(newest, default=None),
        "read_by": list(facts.readers.get(name, ())),
        "dead_letters": name in facts.letters,
    }


def _number(text: str | None) -> int | None:
    """-1 is without a limit, in Kafka's words."""
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def readers(topics: Iterable[str], subscribed: Mapping[str, Mapping[str, Iterable[str]]]) -> dict[str, list[str]]:
    """Topic -> the groups whose names or patterns mean it."""
    return {
        topic: [
            group
            for group, means in subscribed.items()
            if topic in means.get("topics", ()) or any(re.match(each, topic) for each in means.get("patterns", ()))
        ]
        for topic in topics
    }


def gather(
    cluster: Cluster,
    subscribed: Mapping[str, Mapping[str, Iterable[str]]],
    letters: Sequence[str],
    names: Sequence[str],
    *,
    everything: bool,
) -> Facts:
    """All of it as of now. Without `names`: what is subscribed to and the dead letter topics; `everything`: all topics but Kafka's own.
    Blocks for some seconds; raises KafkaException."""
    existing = cluster.topics()
    reading = readers(existing, subscribed)
    if names:
        wanted = set(names)
    elif everything:
        wanted = {name for name in existing if not name.startswith("__")}
    else:
        wanted = {name for name, groups in reading.items() if groups} | set(letters)
        wanted |= {topic for means in subscribed.values() for topic in means.get("topics", ())}
    chosen = {name: existing[name] for name in wanted if name in existing}
    places = [(name, number) for name, partitions in chosen.items() for number in partitions]
    return Facts(
        chosen,
        cluster.settings(chosen) if chosen else {},
        {place: offset for place, (offset, _) in cluster.offsets(places, "first").items()},
        {place: offset for place, (offset, _) in cluster.offsets(places, "end").items()},
        {place: stamp for place, (_, stamp) in cluster.offsets(places, "newest").items() if stamp >= 0},
        reading,
        frozenset(letters),
        tuple(sorted(wanted - set(existing))),
    )
