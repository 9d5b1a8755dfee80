"""Producing, over confluent-kafka's Producer. Made after the fork only; one client per process, shared by all threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as RawProducer

_QUEUE_PATIENCE: Final = 60.0
"""Seconds for which `produce` waits for room in librdkafka's queue before it raises BufferError."""

Headers = list[tuple[str, str | bytes | None]] | dict[str, str | bytes | None] | None
Report = Callable[[KafkaError | None, Any], None]


class Producer:
    """A producer whose delivery reports are served by a thread of its own (`producer`)."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._raw = RawProducer(dict(properties))
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="producer", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closed:
            try:
                self._raw.poll(0.1)
            except (
                BaseException
            ):  # an application's delivery report: without this thread no report would ever come again
                logging.getLogger(__name__).exception("a delivery report raised")

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
        """Queue a message. Waits up to 60 s for room in the queue (then BufferError); the report comes in the thread `producer`."""
        deadline = time.monotonic() + _QUEUE_PATIENCE
        while True:
            try:
                self._raw.produce(
                    topic,
                    value=value,
                    key=key,
                    headers=headers,
                    partition=partition,
                    timestamp=timestamp,
                    on_delivery=on_delivery,
                )
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise
                self._raw.poll(0.05)

    def partitions(self, topic: str, timeout: float = 10.0) -> int:
        """How many partitions a topic has; 0 where it does not exist. Blocks; raises KafkaException."""
        found = self._raw.list_topics(topic, timeout=timeout).topics.get(topic)
        return len(found.partitions) if found is not None and found.error is None else 0

    def flush(self, timeout: float = 30.0) -> int:
        """Wait until all is delivered; returns how many messages are not."""
        return self._raw.flush(timeout)

    def close(self, timeout: float = 10.0) -> int:
        """Flush and end; returns how many messages were not delivered."""
        left = self.flush(timeout)
        self._closed = True
        self._thread.join(1.0)
        return left


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
