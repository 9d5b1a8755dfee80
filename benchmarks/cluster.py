"""The Kafka that is measured on: one that runs, or the tests' real one; its topics, and messages to fill them. Knows no contestant."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its re-exports are not marked as such

PARTITIONS = 6
SIZE = 200
"""Bytes of a message's value."""


@contextmanager
def cluster(bootstrap: str | None) -> Iterator[str]:
    """The address of a broker: `bootstrap`, or that of a real Kafka which runs as long as the context."""
    if bootstrap is not None:
        yield bootstrap
        return
    from tests.support.kafka import Broker

    with Broker() as broker:
        yield broker.bootstrap


@contextmanager
def topic(bootstrap: str, purpose: str, partitions: int = PARTITIONS) -> Iterator[str]:
    """A topic of its own, removed at the end."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})
    name = f"benchmark-{purpose}-{uuid.uuid4().hex[:8]}"
    admin.create_topics([NewTopic(name, partitions)])[name].result(timeout=30)
    try:
        yield name
    finally:
        admin.delete_topics([name])[name].result(timeout=30)


def fill(bootstrap: str, name: str, messages: int, partitions: int = PARTITIONS) -> None:
    """As many messages, spread evenly, with keys; blocks until the broker has them. Random bytes, not compressed."""
    refused: list[object] = []
    keys = [b"key-%04d" % number for number in range(997)]
    values = [os.urandom(SIZE) for _ in range(256)]
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
            "log_level": 3,
            "on_delivery": lambda error, _: refused.append(error) if error is not None else None,
        }
    )
    for number in range(messages):
        producer.produce(name, value=values[number % 256], key=keys[number % 997], partition=number % partitions)
        if number % 1000 == 0:
            producer.poll(0)
    left = producer.flush(120)
    if left or refused:
        raise RuntimeError(f"{left + len(refused)} of {messages} messages were not written: {refused[:1]}")
