from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import pytest

from swarm.client import Client, consumer_properties
from tests.support.kafka import Broker
from tests.support.proxy import Proxy

PARTITIONS = 4
START = 200
UNKNOWN = -1001


class Group:
    """What a group does whose broker could not say where it stands: takes the partitions up, and holds them."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.assigned: list[tuple[str, int]] = []

    def on_assigned(self, partitions: Sequence[tuple[str, int]]) -> None:
        assert self.client is not None
        self.assigned += partitions
        self.client.take_up((topic, partition, UNKNOWN) for topic, partition in partitions)

    def ignore(self, *_: object) -> None:
        """Revoked, lost, committed, error: not what this is about."""

    on_revoked = on_lost = on_committed = on_error = ignore


@pytest.mark.parametrize("delay", [0.0, 0.1])
@pytest.mark.parametrize("wait", [0.0, 1.0])
def test_a_partition_that_was_taken_up_without_a_start_is_read_from_the_start_that_it_gets_later(
    proxied: tuple[Broker, Proxy], group: str, delay: float, wait: float
) -> None:
    """However slow the broker is: what librdkafka was told to begin with has no say any more, and no message is passed over."""
    broker, proxy = proxied
    topic = f"orders-of-{group}"
    broker.create_topic(topic, PARTITIONS)
    for partition in range(PARTITIONS):
        broker.produce(topic, [(None, str(number)) for number in range(2 * START)], partition)
    proxy.slow(delay)
    member = Group()
    properties = consumer_properties({"bootstrap.servers": broker.bootstrap, "log_level": 0}, group, None)
    client = member.client = Client(properties, [topic], cast(Any, member))

    first: dict[int, int] = {}
    deadline = time.monotonic() + 30
    while len(member.assigned) < PARTITIONS and time.monotonic() < deadline:
        client.fetch(1, 0.01)
    until = time.monotonic() + wait
    while time.monotonic() < until:
        assert client.fetch(100, 0.02) == [], "nothing is fetched before the start is known"
    for key in member.assigned:
        client.seek(*key, START)
    client.resume(member.assigned)
    while len(first) < PARTITIONS and time.monotonic() < deadline:
        for message in client.fetch(1000, 0.1):
            first.setdefault(message.partition(), message.offset())
    client.close(leave=True, alive=lambda: None)

    assert first == dict.fromkeys(range(PARTITIONS), START)
