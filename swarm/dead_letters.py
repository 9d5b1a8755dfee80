"""The record that goes to a dead letter topic, and its delivery. The mark waits for the delivery report, never the other way round."""

from __future__ import annotations

import threading
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from swarm.producer import Producer

DELIVERY_PATIENCE: Final = 30.0
"""Seconds to wait for a delivery report before the attempt counts as failed (it is repeated; the letter may then arrive twice)."""

ERROR_LENGTH: Final = 4096
"""Characters of the error's text that go along: a huge one would make the letter too large to be delivered, for ever."""


def headers_of(raw: Any, group: str, error: str, attempts: int) -> list[tuple[str, bytes | None]]:
    """The original's headers and where it came from and why."""
    kind, timestamp = raw.timestamp()
    added = {
        "swarm.source.topic": raw.topic(),
        "swarm.source.partition": str(raw.partition()),
        "swarm.source.offset": str(raw.offset()),
        "swarm.source.timestamp": str(timestamp if kind else -1),
        "swarm.source.group": group,
        "swarm.attempts": str(attempts),
        "swarm.error": error[:ERROR_LENGTH],
    }
    own = [(name, value) for name, value in raw.headers() or [] if name not in added]
    return own + [(name, text.encode("utf-8", "replace")) for name, text in added.items()]


def send(producer: Producer, topic: str, raw: Any, group: str, error: str, attempts: int) -> None:
    """Produce one dead letter and wait for its report; raises KafkaException. Blocks for up to 30 s. Processing thread."""
    count = producer.partitions(topic)
    if not count:
        raise KafkaException(
            KafkaError(KafkaError._UNKNOWN_TOPIC, f"the dead letter topic {topic} does not exist: create it")
        )
    kind, timestamp = raw.timestamp()
    reported = threading.Event()
    failures: list[KafkaError] = []

    def report(failure: KafkaError | None, _: Any) -> None:
        if failure is not None:
            failures.append(failure)
        reported.set()

    producer.produce(
        topic,
        raw.value(),
        raw.key(),
        headers=headers_of(raw, group, error, attempts),  # type: ignore[arg-type]
        partition=raw.partition() % count,
        timestamp=timestamp if kind else 0,
        on_delivery=report,
    )
    if not reported.wait(DELIVERY_PATIENCE):
        raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT, f"no delivery report from {topic} within 30 s"))
    if failures:
        raise KafkaException(failures[0])
