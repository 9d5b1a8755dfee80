"""What clients are made with: the user's properties win, what the runtime does itself does not, protocols get what they take."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

from swarm.client import DEFAULTS, OWNED, consumer_properties, producer_properties

USER: dict[str, Any] = {
    "bootstrap.servers": "127.0.0.1:1",
    "queued.min.messages": 50,
    "linger.ms": 50,
    "max.poll.interval.ms": 60000,
    "client.id": "shop-0",
    "enable.auto.commit": True,
    "auto.offset.reset": "latest",
}


def test_the_user_wins_over_our_defaults_and_not_over_what_is_ours() -> None:
    """Committing and resetting offsets is the runtime's: a property that took it away would lose messages."""
    made = consumer_properties(USER, "shop", "shop.host.0")

    assert made["queued.min.messages"] == 50
    assert {name: made[name] for name in OWNED} == dict(OWNED)
    assert made["fetch.queue.backoff.ms"] == DEFAULTS["fetch.queue.backoff.ms"]
    assert (made["group.id"], made["group.instance.id"]) == ("shop", "shop.host.0")
    assert "group.instance.id" not in consumer_properties(USER, "shop", None)


@pytest.mark.parametrize("protocol", ["consumer", "CONSUMER"])
def test_what_the_new_protocol_refuses_is_left_out_where_it_is_ours(protocol: str) -> None:
    """And left in where it is the user's, who is then told by librdkafka."""
    made = consumer_properties({"group.protocol": protocol, "session.timeout.ms": 9000}, "shop", None)

    assert "partition.assignment.strategy" not in made
    assert "heartbeat.interval.ms" not in made
    assert made["session.timeout.ms"] == 9000


def test_each_client_gets_only_what_it_understands() -> None:
    """One `[kafka]` section serves consumers and producers."""
    consumer, producer = consumer_properties(USER, "shop", None), producer_properties(USER)

    assert "linger.ms" not in consumer
    assert producer["linger.ms"] == 50
    assert producer["enable.idempotence"] is True
    assert not {"max.poll.interval.ms", "queued.min.messages", "enable.auto.commit"} & set(producer)
    assert producer_properties({"enable.idempotence": False})["enable.idempotence"] is False


@pytest.mark.parametrize("protocol", [{}, {"group.protocol": "consumer"}], ids=["classic", "consumer"])
def test_librdkafka_takes_what_we_make(protocol: dict[str, str]) -> None:
    """Without a broker and without a word of complaint."""
    user = {"bootstrap.servers": "", "max.poll.interval.ms": 60000, "linger.ms": 50, **protocol}

    Consumer(consumer_properties(user, "shop", "shop.host.0")).close()
    assert Producer(producer_properties(user)).flush(0) == 0
