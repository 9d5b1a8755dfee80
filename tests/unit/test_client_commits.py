"""What a client commits with waiting, and what it asks before it does. Its librdkafka is a stand-in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from swarm import client as port
from swarm.client import PROBE, Client, Onlooker


class Raw:
    """A consumer whose broker holds these offsets of the group's."""

    def __init__(self, held: dict[tuple[str, int], int]) -> None:
        self.held = held
        self.is_silent = False
        self.refuses = False
        self.patience: list[float] = []
        self.commits: list[list[tuple[str, int, int]]] = []

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self.patience.append(timeout)
        if self.is_silent:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return [TopicPartition(p.topic, p.partition, self.held.get((p.topic, p.partition), -1001)) for p in partitions]

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        return 0, 50

    def commit(self, offsets: list[TopicPartition], *, asynchronous: bool) -> list[TopicPartition]:
        assert not asynchronous
        if self.refuses:
            raise KafkaException(KafkaError(KafkaError.REBALANCE_IN_PROGRESS))
        self.commits.append([(p.topic, p.partition, p.offset) for p in offsets])
        self.held |= {(p.topic, p.partition): p.offset for p in offsets}
        return offsets


@pytest.fixture
def raw() -> Raw:
    return Raw({("orders", 0): 7})


@pytest.fixture
def client(raw: Raw) -> Client:
    """One that has partition 0 of two topics; in the second the group had no offset."""
    made = Client({"bootstrap.servers": "", "group.id": "shop"}, ["orders"], cast(Any, SimpleNamespace()))
    made._raw.close()
    made._raw = cast(Any, raw)
    starts = made.resolve([("orders", 0), ("clicks", 0)], {"clicks": "earliest"}, timeout=1.0)
    assert starts == {("orders", 0): 7, ("clicks", 0): 0}
    assert raw.commits == [[("clicks", 0, 0)]]
    raw.commits.clear()
    return made


def test_what_was_done_of_a_deleted_topic_is_not_committed_to_its_namesake(client: Client, raw: Raw) -> None:
    """The broker deletes a topic's offsets with it: where ours is gone, the log is another one, which nobody has read."""
    del raw.held["orders", 0]

    refused = client.commit_now([("orders", 0, 9), ("clicks", 0, 3)])

    assert raw.commits == [[("clicks", 0, 3)]]
    assert {key: error.code() for key, error in refused.items()} == {("orders", 0): KafkaError.UNKNOWN_TOPIC_OR_PART}


@pytest.mark.parametrize("refuses", [False, True])
def test_what_was_done_of_a_topic_that_was_made_again_is_committed(client: Client, raw: Raw, refuses: bool) -> None:
    """Also where its start could not be committed, in the middle of a rebalance: there was no offset of this one that could go."""
    del raw.held["orders", 0]
    raw.refuses = refuses
    assert client.resolve([("orders", 0)], {"orders": "earliest"}, timeout=1.0) == {("orders", 0): 0}
    raw.refuses = False

    assert client.commit_now([("orders", 0, 3)]) == {}

    assert raw.held["orders", 0] == 3
    del raw.held["orders", 0]
    assert set(client.commit_now([("orders", 0, 9)])) == {("orders", 0)}  # gone once more


def test_nothing_is_committed_with_waiting_while_nobody_answers(client: Client, raw: Raw) -> None:
    """librdkafka would hold it for a whole session, 45 s, in which the poller would look dead."""
    raw.is_silent = True

    with pytest.raises(KafkaException):
        client.commit_now([("orders", 0, 9)])

    assert raw.commits == []
    assert raw.patience[-1] == PROBE


def test_with_the_new_protocol_a_member_is_one_whose_coordinator_answers(raw: Raw) -> None:
    """Its client makes the member id by itself, so that the id alone would call a worker ready whose broker is away."""
    member = Client(
        {"bootstrap.servers": "", "group.id": "shop", "group.protocol": "consumer"},
        ["orders"],
        cast(Any, SimpleNamespace()),
    )
    assert member._raw.memberid()
    member._raw.close()
    member._raw = cast(Any, raw)
    raw.is_silent = True

    assert not member.is_member
    raw.is_silent = False
    assert member.is_member


class Moving:
    """A consumer whose group's coordinator is found at the last of so many questions."""

    def __init__(self, code: int, times: int) -> None:
        self.code, self.left = code, times

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self.left -= 1
        if self.left >= 0:
            raise KafkaException(KafkaError(self.code))
        return [TopicPartition(p.topic, p.partition, 7) for p in partitions]


def onlooker(raw: Moving) -> Onlooker:
    made = Onlooker.__new__(Onlooker)
    made._raw = cast(Any, raw)
    return made


def test_who_looks_on_asks_a_coordinator_that_is_only_being_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first group of a cluster has none yet. What no waiting mends is said at once, and no one waits for ever."""
    monkeypatch.setattr(port, "_ASK_AGAIN", 0.001)
    for code in (
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    ):
        assert onlooker(Moving(code, 2)).committed([("orders", 0)], 30.0) == {("orders", 0): 7}

    forbidden = Moving(KafkaError.GROUP_AUTHORIZATION_FAILED, 5)
    with pytest.raises(KafkaException):
        onlooker(forbidden).committed([("orders", 0)], 30.0)
    assert forbidden.left == 4
    with pytest.raises(KafkaException):
        onlooker(Moving(KafkaError.NOT_COORDINATOR, 10**9)).committed([("orders", 0)], 0.02)
