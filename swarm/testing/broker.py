"""A broker for tests: the embedded one, or a real one by its address; and what a test asks of it. Knows no swarm.

The embedded broker is librdkafka's mock (`swarm.embedded`): started in milliseconds, and good for most tests of an application. It
knows no static membership, no fencing and no `CreateTopics`, and keeps about the newest 5 MB of a partition. What is to be
proved about delivery, prove on a real Kafka.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # said in __all__ nowhere

from swarm.client import consumer_properties
from swarm.embedded import EmbeddedBroker
from swarm.testing.ranges import Ranges

PATIENCE: Final = 30.0
"""Seconds for one answer, or for one topic to be read to its end."""
SESSION: Final = 3.0
"""Seconds after which the embedded broker gives a dead member's partitions to others."""

Text = str | bytes | None
_AGAIN: Final = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._WAIT_COORD,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)


class SwarmBroker:
    """A cluster that a test writes to and reads from. Every method blocks until it is done, and raises KafkaException or AssertionError.

    bootstrap: its address, `host:port,…`. `SwarmBroker.embedded()` makes one that lives in this process.
    """

    def __init__(self, bootstrap: str, embedded: EmbeddedBroker | None = None) -> None:
        self.bootstrap = bootstrap
        self._embedded = embedded
        self._producer: Producer | None = None

    @classmethod
    def embedded(cls) -> Self:
        """The embedded broker; `close` ends it."""
        broker = EmbeddedBroker(join_delay=0.2, session_timeout=SESSION)
        return cls(broker.bootstrap, broker)

    @property
    def is_embedded(self) -> bool:
        """Whether it is this process's own, and so may be restarted."""
        return self._embedded is not None

    def answers(self, within: float = 5.0) -> bool:
        """Whether it can be reached. Blocks for at most so many seconds."""
        try:
            self._admin().list_topics(timeout=within)
        except KafkaException:
            return False
        return True

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The sections of `swarm.toml` by which a swarm gets on with it."""
        kafka = {"bootstrap.servers": self.bootstrap}
        if self._embedded is None:
            return {"kafka": kafka}
        # No static membership there; and it refuses commits during a classic group's rebalance, which a real broker would take.
        return {
            "kafka": {**kafka, "group.protocol": "consumer"},
            "supervision": {"static_membership": False},
        }

    def close(self) -> None:
        """End the embedded broker; nothing to do for a real one."""
        self._producer = None
        if self._embedded is not None:
            self._embedded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def restart(self, seconds: float = 1.0) -> None:
        """Take the embedded broker away for so long. Its data stay, as those of a broker that is restarted do."""
        assert self._embedded is not None, "only the embedded broker is ours to restart"
        self._embedded.down()
        time.sleep(seconds)
        self._embedded.up()

    # -- writing -----------------------------------------------------------------------------------------------------

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Make a topic. `config` is for a real broker; there it has as many replicas as the cluster's default says."""
        if self._embedded is not None:
            self._embedded.create_topic(name, partitions)
            return
        admin = self._admin()
        new = NewTopic(name, num_partitions=partitions, replication_factor=-1, config=dict(config or {}))
        admin.create_topics([new])[name].result(timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while len(self._partitions(name)) != partitions:  # the brokers' own metadata follow a moment later
            assert time.monotonic() < deadline, f"topic {name} was made and is not to be seen"
            time.sleep(0.05)

    def produce(
        self,
        topic: str,
        values: Iterable[Text | tuple[Text, Text]],
        partition: int | None = None,
        headers: list[tuple[str, str | bytes | None]] | None = None,
    ) -> None:
        """Write values, or (key, value) pairs, in their order; `partition`: None, as the key says."""
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failures.append(error)

        if self._producer is None:
            self._producer = Producer(
                {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 5, "log_level": 2}
            )
        number = -1 if partition is None else partition
        for each in values:
            key, value = each if isinstance(each, tuple) else (None, each)
            while True:
                try:
                    self._producer.produce(
                        topic, key=key, value=value, partition=number, headers=headers, on_delivery=delivered
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self._producer.poll(0)
        left = self._producer.flush(PATIENCE)
        assert left == 0, f"{left} messages for {topic} were not written within {PATIENCE:g} s"
        if failures:
            raise KafkaException(failures[0])

    # -- reading -----------------------------------------------------------------------------------------------------

    def read(self, topic: str, *, committed_only: bool = True) -> list[Message]:
        """All messages that are in a topic now, by partition and offset; `committed_only`: without those of aborted transactions."""
        messages: list[Message] = []
        for found in self._read([(topic, number) for number in self._partitions(topic)], committed_only):
            messages += found
        return sorted(messages, key=_place)

    def contents(self, topics: Iterable[str], *, committed_only: bool = True) -> dict[tuple[str, int], Ranges]:
        """The offsets that topics hold, as the invariants want them; a topic that does not exist is left out."""
        held = {place: Ranges() for place in self._places(topics)}
        for found in self._read(list(held), committed_only):
            for message in found:
                number, offset = _place(message)
                held[(str(message.topic()), number)].add(offset, offset + 1)
        return held

    def committed(self, group: str, topics: Iterable[str]) -> dict[tuple[str, int], int]:
        """(topic, partition) -> the group's next offset; partitions without one are left out."""
        wanted = [TopicPartition(topic, number) for topic, number in self._places(topics)]
        if not wanted:
            return {}
        consumer = self._consumer(group)
        deadline = time.monotonic() + PATIENCE
        try:
            while True:
                try:
                    answer = consumer.committed(wanted, timeout=5.0)
                    for each in answer:
                        if each.error is not None:
                            raise KafkaException(each.error)
                    return {(each.topic, each.partition): each.offset for each in answer if each.offset >= 0}
                except KafkaException as error:  # the coordinator's topic is made when the first group asks
                    if error.args[0].code() not in _AGAIN or time.monotonic() > deadline:
                        raise
                time.sleep(0.1)
        finally:
            consumer.close()

    # -- behind it ---------------------------------------------------------------------------------------------------

    def _read(self, places: Sequence[tuple[str, int]], committed_only: bool) -> Iterable[list[Message]]:
        if not places:
            return
        consumer = self._consumer("swarm-testing", committed_only)
        try:
            left = set(places)
            consumer.assign([TopicPartition(topic, number, _BEGINNING) for topic, number in places])
            deadline = time.monotonic() + PATIENCE
            while left:
                assert time.monotonic() < deadline, f"partitions {sorted(left)} were not read to their end"
                found = []
                for message in consumer.consume(5000, 0.02):
                    error = message.error()
                    if error is None:
                        found.append(message)
                        deadline = time.monotonic() + PATIENCE
                    elif error.code() == KafkaError._PARTITION_EOF:
                        left.discard((str(message.topic()), _place(message)[0]))
                    else:
                        raise KafkaException(error)
                yield found
        finally:
            consumer.close()

    def _consumer(self, group: str, committed_only: bool = True) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": group,  # never joined, and nothing is committed for it
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed" if committed_only else "read_uncommitted",
                "fetch.wait.max.ms": 10,  # the end of a partition is only told when a fetch comes back empty
                "fetch.queue.backoff.ms": 10,
                "log_level": 2,
            }
        )

    def _admin(self) -> AdminClient:
        # A new one each time: one that saw a broker go away stayed timed out after it came back.
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})

    def _partitions(self, topic: str) -> list[int]:
        return [number for _, number in self._places([topic])]

    def _places(self, topics: Iterable[str]) -> list[tuple[str, int]]:
        """The partitions of topics, in order; one that does not exist has none."""
        # All topics: to ask for one would make it, on the embedded broker and where topics are made by themselves.
        there = self._admin().list_topics(timeout=PATIENCE).topics
        return [
            (topic, number)
            for topic in topics
            if (found := there.get(topic)) is not None and found.error is None
            for number in sorted(found.partitions)
        ]


@contextlib.contextmanager
def guest_of(group: str, topics: Sequence[str], kafka: Mapping[str, Any]) -> Iterator[Callable[[], bool]]:
    """A further member of a group, which gets partitions and touches nothing; call what it yields until it is True. It leaves at the
    end. `kafka`: the properties that the other members have."""
    properties = consumer_properties(kafka, group, None)
    consumer = Consumer({**properties, "log_level": 2})
    try:
        consumer.subscribe(list(topics))

        def has_partitions() -> bool:
            consumer.poll(0.1)
            return bool(consumer.assignment())

        yield has_partitions
    finally:
        consumer.close()


_BEGINNING: Final = -2
"""librdkafka's OFFSET_BEGINNING: the first that there is."""


def _place(message: Message) -> tuple[int, int]:
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return partition, offset
