"""A Kafka of lists and dictionaries, and the clients by which a worker's inside sees it. Knows no thread and no clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Message

if TYPE_CHECKING:
    from swarm.client import Callbacks

Place = tuple[str, int]
Position = tuple[str, int, int]
Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Produced:
    """A message that a handler, or the runtime for it, has produced. `partition` is None where the key decides."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    partition: int | None
    timestamp: int

    def header(self, name: str) -> str | None:
        """A header's text, None where there is none of that name."""
        return next(((value or b"").decode() for key, value in self.headers if key == name), None)


class FakeKafka:
    """Logs, committed offsets, and what was produced. `refusing`: topics to which nothing can be delivered."""

    def __init__(self, refusing: Collection[str] = ()) -> None:
        self.logs: dict[Place, list[Message]] = {}
        self.committed: dict[tuple[str, str, int], int] = {}
        self.metadata: dict[tuple[str, str, int], str] = {}
        self.produced: list[Produced] = []
        self._refusing = frozenset(refusing)

    def deliver(self, produced: Produced) -> KafkaError | None:
        """Take a message; an error where its topic refuses."""
        if produced.topic in self._refusing:
            return KafkaError(KafkaError._MSG_TIMED_OUT, f"{produced.topic} takes nothing in this test")
        self.produced.append(produced)
        return None

    def commit(self, group: str, offsets: Iterable[Position], metadata: Mapping[Place, str] | None = None) -> None:
        """The group stands there now."""
        for topic, partition, offset in offsets:
            self.committed[(group, topic, partition)] = offset
            text = (metadata or {}).get((topic, partition))
            if text is not None:
                self.metadata[(group, topic, partition)] = text


def produced(
    topic: str, value: Any = None, key: Any = None, headers: Any = None, partition: int = -1, timestamp: int = 0
) -> Produced:
    """As `produce` was called, with texts as bytes."""
    given = headers.items() if isinstance(headers, Mapping) else headers or []
    return Produced(
        topic,
        _bytes(value),
        _bytes(key),
        tuple((name, _bytes(text)) for name, text in given),
        None if partition < 0 else partition,
        timestamp,
    )


def _bytes(text: str | bytes | None) -> bytes | None:
    return text.encode() if isinstance(text, str) else text


class FakeProducer:
    """What `swarm.producer.Producer` is to a worker; every report comes at once."""

    def __init__(self, kafka: FakeKafka) -> None:
        self._kafka = kafka

    def produce(
        self, topic: str, value: Any = None, key: Any = None, *, on_delivery: Any = None, **options: Any
    ) -> None:
        """Delivered, or refused, before it returns."""
        error = self._kafka.deliver(produced(topic, value, key, **options))
        if on_delivery is not None:
            on_delivery(error, None)

    def partitions(self, topic: str, timeout: float = 10.0) -> int:
        """So many that a dead letter keeps its partition's number."""
        return 1 << 20

    def flush(self, timeout: float = 30.0) -> int:
        """Nothing is ever under way."""
        return 0

    def close(self, timeout: float = 10.0) -> int:
        """Nothing to end."""
        return 0


class FakeTransactionalProducer:
    """What confluent-kafka's transactional producer is to `swarm.transactions`: all or nothing."""

    def __init__(self, kafka: FakeKafka, group_of: Mapping[Place, str]) -> None:
        self._kafka = kafka
        self._group_of = group_of
        self._open: list[tuple[Produced, Any]] = []
        self._offsets: list[Any] = []

    def init_transactions(self, timeout: float) -> None:
        """Nobody left anything open."""

    def begin_transaction(self) -> None:
        self._open, self._offsets = [], []

    def produce(
        self, topic: str, value: Any = None, key: Any = None, *, on_delivery: Any = None, **options: Any
    ) -> None:
        self._open.append((produced(topic, value, key, **options), on_delivery))

    def send_offsets_to_transaction(self, offsets: Sequence[Any], membership: object, timeout: float) -> None:
        self._offsets += offsets

    def commit_transaction(self, timeout: float) -> None:
        for each, on_delivery in self._open:
            error = self._kafka.deliver(each)
            if on_delivery is not None:
                on_delivery(error, None)
            if error is not None:
                raise KafkaException(_Refused(error))
        for each in self._offsets:
            group = self._group_of[(each.topic, each.partition)]
            self._kafka.commit(
                group, [(each.topic, each.partition, each.offset)], {(each.topic, each.partition): each.metadata}
            )

    def flush(self, timeout: float = -1) -> int:
        return 0

    def abort_transaction(self, timeout: float) -> None:
        self._open, self._offsets = [], []

    def poll(self, timeout: float) -> int:
        """Nothing is under way."""
        return 0


class _Refused:
    """A refusal after which a transaction has to be aborted."""

    def __init__(self, error: KafkaError) -> None:
        self._error = error

    def retriable(self) -> bool:
        return False

    def txn_requires_abort(self) -> bool:
        return True

    def fatal(self) -> bool:
        return False

    def code(self) -> int:
        return self._error.code()

    def name(self) -> str:
        return self._error.name()

    def str(self) -> str:
        return self._error.str()


class FakeClient:
    """What `swarm.client.Client` is to a group."""

    is_member = True
    new_protocol = False
    leaderless: frozenset[Place] = frozenset()
    withheld: frozenset[Place] = frozenset()

    def __init__(self, kafka: FakeKafka, group: str, callbacks: Callbacks) -> None:
        self._kafka = kafka
        self._group = group
        self._callbacks = callbacks
        self._paused: set[Place] = set()
        self._answers: list[list[Position]] = []
        self.position: dict[Place, int] = {}
        self.uncommitted: set[Place] = set()
        self.metadata: dict[Place, str] = {}

    def fetch(self, most: int, timeout: float) -> list[Message]:
        answers, self._answers = self._answers, []
        for offsets in answers:
            self._callbacks.on_committed(None, offsets, {})
        found: list[Message] = []
        for place, position in self.position.items():
            if place not in self._paused:
                fresh = [each for each in self._kafka.logs[place] if _offset(each) >= position][:most]
                if fresh:
                    self.position[place] = _offset(fresh[-1]) + 1
                    found += fresh
        return found

    def tell_errors(self) -> None:
        """It meets none."""

    def take_up(self, starts: Iterable[Position]) -> None:
        for topic, partition, offset in starts:
            self.position[(topic, partition)] = offset
            self._paused.discard((topic, partition))

    def resolve(self, partitions: Sequence[Place], edges: Mapping[str, str], timeout: float) -> dict[Place, int]:
        for place in partitions:
            if text := self._kafka.metadata.get((self._group, *place)):
                self.metadata[place] = text
        return {place: self._kafka.committed.get((self._group, *place), self._low(place)) for place in partitions}

    def _low(self, place: Place) -> int:
        # What is fed is what there is to read, whatever `initial_offset` says of messages from before.
        log = self._kafka.logs[place]
        return _offset(log[0]) if log else 0

    def membership(self) -> object:
        return "member"

    def forgotten(self, keys: Iterable[Place], timeout: float) -> list[Place]:
        """Nothing: no topic is deleted here."""
        return []

    def commit_soon(self, offsets: Sequence[Position], metadata: Mapping[Place, str] | None = None) -> None:
        self._kafka.commit(self._group, offsets, metadata)
        self._answers.append(list(offsets))

    def commit_now(self, offsets: Sequence[Position], metadata: Mapping[Place, str] | None = None) -> None:
        self._kafka.commit(self._group, offsets, metadata)

    def pause(self, partitions: Sequence[Place]) -> None:
        self._paused |= set(partitions)

    def resume(self, starts: Sequence[Place]) -> None:
        self._paused -= set(starts)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self.position[(topic, partition)] = offset

    def topics(self, timeout: float) -> set[str]:
        return {topic for topic, _ in self._kafka.logs}

    def high_watermark(self, topic: str, partition: int) -> int:
        log = self._kafka.logs[(topic, partition)]
        return _offset(log[-1]) + 1 if log else 0

    def close(self, *, leave: bool, alive: Callable[[], None], patience: float) -> bool:
        self.position.clear()
        return True


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None
    return offset
