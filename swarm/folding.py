"""Repeated client errors, folded: the first is said at once, the rest counted and said at growing intervals. Pure but for its state.

While its only broker is away, librdkafka reports some 20 errors a second and client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError

from swarm import remedies
from swarm.events import ClientError

_FIRST: Final = 2.0
_LONGEST: Final = 30.0
_FORGET: Final = 60.0


@dataclass(slots=True)
class _Kind:
    interval: float
    next_at: float
    last_at: float
    count: int
    event: ClientError


class Folder:
    """What was said about which kind of error, and when."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def say(self, group: str, error: KafkaError, now: float, topic: str = "") -> ClientError | None:
        """The event to publish now, or None where it waits for `due`. An error that a person has to mend is told of each topic."""
        text = error.str()
        mend = remedies.for_consuming(error.code(), group, topic)
        if mend:
            text = f"{text if topic in text else f'{topic}: {text}'}".rstrip(".") + f". {mend}"
        event = ClientError(group, error.name(), text, error.fatal(), 1)
        key = (event.code, topic if mend else "")
        kind = self._kinds.get(key)
        if kind is None or now - kind.last_at > _FORGET or event.fatal:
            self._kinds[key] = _Kind(_FIRST, now + _FIRST, now, 0, event)
            return event
        kind.last_at = now
        kind.count += 1
        kind.event = event
        return None

    def due(self, now: float) -> list[ClientError]:
        """Counts that have waited long enough."""
        result = []
        for kind in self._kinds.values():
            if kind.count and now >= kind.next_at:
                event = kind.event
                result.append(ClientError(event.group, event.code, event.error, event.fatal, kind.count))
                kind.count = 0
                kind.interval = min(kind.interval * 2, _LONGEST)
                kind.next_at = now + kind.interval
        return result
