"""The record that goes to a dead letter topic, and its delivery. The mark waits for the delivery report, never the other way round."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException

from swarm import remedies
from swarm.flow import FUTURE
from swarm.headers import headers_of
from swarm.producer import Producer

if TYPE_CHECKING:
    from swarm.transactions import Transaction

DELIVERY_PATIENCE: Final = 30.0
"""Seconds to wait for a delivery report before the attempt counts as failed (it is repeated; the letter may then arrive twice)."""

ERROR_LENGTH: Final = 4096
"""Characters of the error's text that go along: a huge one would make the letter too large to be delivered, for ever."""


def letter_headers(raw: Any, group: str, error: str, attempts: int) -> list[tuple[str, bytes | None]]:
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
    own = [(name, value) for name, value in headers_of(raw) if name not in added]
    return own + [(name, text.encode("utf-8", "replace")) for name, text in added.items()]


def place(topic: str, count: int, raw: Any) -> int:
    """The partition of a letter: the source's number, modulo the count of the dead letter topic's partitions (0: no such topic)."""
    if not count:
        raise KafkaException(KafkaError(KafkaError._UNKNOWN_TOPIC, f"the dead letter topic {topic} does not exist"))
    partition: int = raw.partition() % count
    return partition


def send_within(
    transaction: Transaction,
    partitions_of: Callable[[str], int],
    topic: str,
    raw: Any,
    group: str,
    error: str,
    attempts: int,
) -> None:
    """Produce one dead letter as part of a transaction, whose commit confirms it. Raises KafkaException. Processing thread."""
    kind, timestamp = raw.timestamp()
    if timestamp > (time.time() + FUTURE) * 1000:
        timestamp = 0  # the topic would refuse it, and with it the transaction
    transaction.produce(
        topic,
        raw.value(),
        raw.key(),
        headers=letter_headers(raw, group, error, attempts),  # type: ignore[arg-type]
        partition=place(topic, partitions_of(topic), raw),
        timestamp=timestamp if kind else 0,
    )


def send(producer: Producer, topic: str, raw: Any, group: str, error: str, attempts: int) -> None:
    """Produce one dead letter and wait for its report; raises KafkaException, whose text names the mend where there is one. Blocks
    for up to 30 s. Processing thread.

    A topic that refuses the original's timestamp (by default one of more than an hour ahead) gets the letter with today's:
    `swarm.source.timestamp` keeps it, and a partition that waits for ever would be no better.
    """
    try:
        partition = place(topic, producer.partitions(topic), raw)
        headers = letter_headers(raw, group, error, attempts)
        kind, timestamp = raw.timestamp()
        try:
            _deliver(producer, topic, raw, headers, partition, timestamp if kind else 0)
        except KafkaException as failure:
            if failure.args[0].code() != KafkaError.INVALID_TIMESTAMP:
                raise
            _deliver(producer, topic, raw, headers, partition, 0)
    except KafkaException as failure:
        reason = failure.args[0]
        mend = remedies.for_producing(reason.code(), topic)
        raise (
            KafkaException(KafkaError(reason.code(), f"{reason.str().rstrip('.')}. {mend}")) if mend else failure
        ) from None


def _deliver(
    producer: Producer, topic: str, raw: Any, headers: list[tuple[str, bytes | None]], partition: int, timestamp: int
) -> None:
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
        headers=headers,  # type: ignore[arg-type]
        partition=partition,
        timestamp=timestamp,
        on_delivery=report,
    )
    if not reported.wait(DELIVERY_PATIENCE):
        raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT, f"no delivery report from {topic} within 30 s"))
    if failures:
        raise KafkaException(failures[0])
