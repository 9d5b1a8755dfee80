"""Producing, over confluent-kafka's Producer. Made after the fork only; one client per process, shared by all threads."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka import Producer as RawProducer

from swarm.headers import Given, check

_QUEUE_PATIENCE: Final = 60.0
"""Seconds for which `produce` waits for room in librdkafka's queue before it raises BufferError."""

Headers = Given
Report = Callable[[KafkaError | None, Any], None]
Sending = Callable[[str, Headers], AbstractContextManager[Headers]]
"""Around a call of `produce` to a topic: gives the headers to be written (`swarm.tracing`)."""


def until_room(produce: Callable[[], None], poll: Callable[[], object]) -> None:
    """Call `produce`, again while librdkafka's queue is full, with `poll` in between; after 60 s its BufferError is raised. Blocks."""
    deadline = time.monotonic() + _QUEUE_PATIENCE
    while True:
        try:
            produce()
            return
        except BufferError:
            if time.monotonic() > deadline:
                raise
            poll()


class Producer:
    """A producer whose delivery reports are served by a thread of its own (`producer`).

    A fatal error (an idempotent producer may not write anywhere, say) ends librdkafka's client and not ours: what was under way is
    reported as failed with that error, and the next `produce` makes a new one.
    """

    def __init__(self, properties: Mapping[str, Any], sending: Sending | None = None) -> None:
        self._properties = dict(properties)
        self._sending = sending
        self._raw = self._make()
        self._lock = threading.Lock()
        self._fatal: KafkaError | None = None
        """Why the client of now is of no use any more."""
        self._why: KafkaError | None = None
        """The same of the last one that was not: what it had in hand may still be reported."""
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="producer", daemon=True)
        self._thread.start()

    def _make(self) -> RawProducer:
        # With a logger: librdkafka's own lines go to stderr, among what is JSON there.
        return RawProducer(self._properties, logger=logging.getLogger("librdkafka"))

    def _serve(self) -> None:
        while not self._closed:
            self._poll(self._raw, 0.1)

    def _poll(self, raw: RawProducer, timeout: float) -> None:
        try:
            raw.poll(timeout)
        except KafkaException as error:
            self._condemn(raw, error.args[0])
        except BaseException:  # an application's delivery report: without this thread no report would ever come again
            logging.getLogger(__name__).exception("a delivery report raised")

    def _condemn(self, raw: RawProducer, error: KafkaError) -> None:
        """The client has met a fatal error: librdkafka raises it once, from whatever serves it."""
        with self._lock:
            if raw is not self._raw or (self._fatal is not None and error.code() == KafkaError._FATAL):
                return
            self._fatal = self._why = error
        logging.getLogger(__name__).warning("the producer has failed and will be replaced: %s", error.str())

    def _client(self) -> RawProducer:
        with self._lock:
            if self._fatal is None:
                return self._raw
            old, self._raw, self._fatal = self._raw, self._make(), None
        old.purge()
        with contextlib.suppress(KafkaException):
            old.flush(1.0)  # the rest of its reports
        return self._raw

    def produce(
        self,
        topic: str,
        value: str | bytes | None = None,
        key: str | bytes | None = None,
        *,
        headers: Headers = None,
        partition: int = -1,
        timestamp: int = 0,
        on_delivery: Report | None = None,
    ) -> None:
        """Queue a message. Waits up to 60 s for room in the queue (then BufferError); the report comes in the thread `producer`.

        TypeError or UnicodeEncodeError for a header whose name is no text.
        """
        check(headers)
        if self._sending is None:
            self._produce(topic, value, key, headers, partition, timestamp, on_delivery)
            return
        with self._sending(topic, headers) as headers:  # noqa: PLR1704  # those and a context
            self._produce(topic, value, key, headers, partition, timestamp, on_delivery)

    def _produce(
        self,
        topic: str,
        value: str | bytes | None,
        key: str | bytes | None,
        headers: Headers,
        partition: int,
        timestamp: int,
        on_delivery: Report | None,
    ) -> None:
        def report(error: KafkaError | None, message: Any) -> None:
            if error is not None and error.code() == KafkaError._PURGE_QUEUE and self._why is not None:
                error = self._why  # it was purged because of that
            if on_delivery is not None:
                on_delivery(error, message)

        def produce() -> None:
            raw = self._client()
            try:
                raw.produce(
                    topic,
                    value=value,
                    key=key,
                    headers=headers,
                    partition=partition,
                    timestamp=timestamp,
                    on_delivery=report if on_delivery is not None else None,
                )
            except KafkaException as error:
                if error.args[0].code() != KafkaError._FATAL:
                    raise
                self._condemn(raw, error.args[0])
                raise KafkaException(self._why) from None

        until_room(produce, lambda: self._poll(self._raw, 0.05))

    def partitions(self, topic: str, timeout: float = 10.0) -> int:
        """How many partitions a topic has; 0 where it does not exist. Blocks; raises KafkaException."""
        found = self._client().list_topics(topic, timeout=timeout).topics.get(topic)
        if found is None or found.error is None:
            return len(found.partitions) if found is not None else 0
        if found.error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return 0
        raise KafkaException(found.error)

    def flush(self, timeout: float = 30.0) -> int:
        """Wait until all is delivered; returns how many messages are not."""
        raw = self._raw
        try:
            return raw.flush(timeout)
        except KafkaException as error:
            self._condemn(raw, error.args[0])
            return len(raw)

    def close(self, timeout: float = 10.0) -> int:
        """Flush and end; returns how many messages were not delivered."""
        left = self.flush(timeout)
        self._closed = True
        self._thread.join(1.0)
        return left


def try_producer(properties: Mapping[str, Any]) -> None:
    """Make a producer: raises KafkaException for what librdkafka refuses. In a short-lived child only, and without the brokers'
    addresses, so that nothing is connected to and nothing is logged about it."""
    alone = {
        name: value for name, value in properties.items() if name not in ("bootstrap.servers", "metadata.broker.list")
    }
    RawProducer(alone, logger=logging.Logger("swarm.preflight", level=logging.CRITICAL + 1))


class JobProducer:
    """The producer of one lane: what a run produced belongs to it, and the run succeeds only when all of it is delivered."""

    def __init__(self, producer: Callable[[], Producer]) -> None:
        self._producer = producer
        self._changed = threading.Condition()
        self._outstanding = 0
        self._error: KafkaError | None = None

    def produce(
        self,
        topic: str,
        value: str | bytes | None = None,
        key: str | bytes | None = None,
        *,
        headers: Headers = None,
        partition: int = -1,
        timestamp: int = 0,
        on_delivery: Report | None = None,
    ) -> None:
        """As Producer.produce; a delivery that fails makes this run a failed attempt."""

        def report(error: KafkaError | None, message: Any) -> None:
            with self._changed:
                self._outstanding -= 1
                if error is not None and self._error is None:
                    self._error = error
                self._changed.notify_all()
            if on_delivery is not None:
                on_delivery(error, message)  # last: what it raises is logged by the producer's thread

        with self._changed:
            self._outstanding += 1
        try:
            self._producer().produce(
                topic,
                value,
                key,
                headers=headers,
                partition=partition,
                timestamp=timestamp,
                on_delivery=report,
            )
        except BaseException:
            with self._changed:
                self._outstanding -= 1
            raise

    @property
    def pending(self) -> bool:
        """Whether something produced is not delivered: what belongs to it must not be committed yet. Any thread."""
        return self._outstanding > 0 or self._error is not None

    def settle(self) -> None:
        """Wait until all of this run's messages are delivered; raises KafkaException with the first error, until `forgive`.

        Blocks for at most `delivery.timeout.ms` (librdkafka's default: 5 minutes). Processing thread.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._outstanding == 0)
            error = self._error
        if error is not None:
            raise KafkaException(error)

    def forgive(self) -> None:
        """Forget the failed delivery: what belonged to it has been taken back, and runs again."""
        with self._changed:
            self._error = None

    def flush(self, timeout: float | None = None) -> int:
        """Wait for this run's deliveries; returns how many are still under way after `timeout` seconds (None: no limit)."""
        with self._changed:
            self._changed.wait_for(lambda: self._outstanding == 0, timeout)
            return self._outstanding


class TransactionalSender:
    """Messages and the offsets they stand for, all or nothing, one transaction after the other: for commands. One thread.

    Whoever uses the same `transactional_id` next ends what this one left open, and fences it. Raises KafkaException throughout.
    """

    def __init__(self, properties: Mapping[str, Any], transactional_id: str) -> None:
        taken = {"enable.idempotence", "acks", "request.required.acks"}  # implied; anything else would be refused
        self._raw = RawProducer(
            {
                # Nearly all of a transaction's time is one retry while the broker still ends the one before (docs/design.md).
                "retry.backoff.ms": 5,
                "retry.backoff.max.ms": 20,
                **{name: value for name, value in properties.items() if name not in taken},
                "transactional.id": transactional_id,
            },
            logger=logging.Logger("swarm.sender", level=logging.CRITICAL + 1),
        )
        self._failed: KafkaError | None = None
        self.refused = ""
        """The label of the first message of this transaction that could not be delivered."""
        self.is_open = False

    def take_over(self, timeout: float) -> None:
        """End what an earlier sender of this id left open; from now on that one can do nothing more. Blocks."""
        self._raw.init_transactions(timeout)

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        *,
        headers: list[tuple[str, str | bytes | None]],
        partition: int,
        timestamp: int,
        label: str,
    ) -> None:
        """Queue a message as part of the transaction, which it begins where none is open. Waits for room in the queue."""

        def report(error: KafkaError | None, _: Any) -> None:
            if error is not None and self._failed is None:
                self._failed, self.refused = error, label

        if not self.is_open:
            self._raw.begin_transaction()
            self._failed, self.refused = None, ""
            self.is_open = True
        message: dict[str, Any] = {
            "value": value,
            "key": key,
            "headers": headers,
            "partition": partition,
            "timestamp": timestamp,
        }
        until_room(
            lambda: self._raw.produce(topic, **message, on_delivery=report),
            lambda: self._raw.poll(0.05),
        )

    def commit(self, topic: str, positions: Mapping[int, tuple[int, str]], membership: Any, timeout: float) -> None:
        """Commit the transaction with offsets and metadata by partition of `topic`. Returns when the broker has confirmed it.

        Where it raises, call `abort`; after a timeout only who takes over learns whether it was committed.
        """
        if not self.is_open:
            self._raw.begin_transaction()
            self.is_open = True
        offsets = [TopicPartition(topic, partition, *position) for partition, position in positions.items()]
        deadline = time.monotonic() + timeout
        if offsets:
            self._insist(lambda: self._raw.send_offsets_to_transaction(offsets, membership, timeout), deadline)
        try:
            self._insist(lambda: self._raw.commit_transaction(timeout), deadline)
        except KafkaException as error:
            if self._failed is not None:  # what was refused says more than what failed with it
                raise KafkaException(self._failed) from error
            raise
        self.is_open = False

    def abort(self, timeout: float) -> None:
        """Undo what is open. Where the broker cannot be told, it does so itself after `transaction.timeout.ms`. Never raises."""
        if self.is_open:
            self.is_open = False
            with contextlib.suppress(KafkaException):
                self._raw.abort_transaction(timeout)

    def _insist(self, call: Callable[[], Any], deadline: float) -> None:
        while True:
            try:
                call()
                return
            except KafkaException as error:
                failure = error.args[0]
                if not failure.retriable() or failure.fatal() or time.monotonic() > deadline:
                    raise
