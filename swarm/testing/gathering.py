"""Facts from what is there: the logs of daemons, and what a broker holds at the end. Judges nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from swarm.testing.broker import SwarmBroker
from swarm.testing.checker import Event
from swarm.testing.invariants import Facts, merged


def gather(
    logs: Mapping[str, Iterable[Event]],
    broker: SwarmBroker | None,
    *,
    complete: bool = False,
    committed_only: bool = True,
) -> Facts:
    """The facts of one or more daemons on one cluster, once they have ended.

    logs: name -> events, of each daemon. broker: where their topics are; None, or one that does not answer: judged by the events
    alone. complete: see `Facts`. committed_only: False where the groups read with `isolation.level=read_uncommitted`. Blocks.
    """
    events: Sequence[Event] = list(merged(logs))
    groups = _groups(events)
    if not groups or broker is None or not broker.answers():
        return Facts(events)
    topics = sorted({topic for names in groups.values() for topic in names})
    contents = broker.contents(topics, committed_only=committed_only)
    committed = {
        (group, *place): offset
        for group, names in groups.items()
        for place, offset in broker.committed(group, sorted(names)).items()
    }
    return Facts(events, contents, committed, complete=complete, hasty_broker=broker.is_embedded)


def _groups(events: Iterable[Event]) -> dict[str, set[str]]:
    """The topics of each group: those that it names, and those that it was assigned."""
    found: dict[str, set[str]] = {}
    for event in events:
        if event["event"] == "subscribed":
            found.setdefault(event["group"], set()).update(event["topics"])
        elif event["event"] == "partitions_assigned":
            found.setdefault(event["group"], set()).update(topic for topic, _, _ in event["partitions"])
    return found
