"""Transactional producing: what a run produces and the offsets of what it consumed happen together, or not at all (KIP-98, KIP-447).

Each processing thread that needs one has a producer of its own with a `transactional.id` that its successor in a replaced worker
takes over: the broker then ends what the predecessor left open, and fences a predecessor that still lives. A transaction belongs
to one thread from its beginning to its end, and to one lane, or to several of one subscription (`transaction_partitions=`).

The group's metadata (member, generation) are the poller's, who alone may ask the client for them; a commit with those of an
earlier generation is refused by the broker, and so is one for a partition that has been given away.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka import Producer as RawProducer

from swarm import events
from swarm.bus import Bus
from swarm.client import positions
from swarm.errors import ConfigurationError, describe
from swarm.headers import check
from swarm.plan import transaction_timeout
from swarm.producer import Headers, Report, Sending, until_room

if TYPE_CHECKING:
    from swarm.lane import Lane

INIT_TIMEOUT: Final = 10.0
"""Seconds for one try to register with the transaction coordinator: ending a predecessor's open transaction takes some 20 ms."""
CALL_TIMEOUT: Final = 1.0
"""Seconds for one call to commit or abort; it is taken up again while the broker is away, and between two it is seen that the lane
closes."""
OFFSETS_TIMEOUT: Final = 5.0
"""Seconds for one call to send offsets."""
HANGS_AFTER: Final = 6.0
"""Seconds after which sending offsets is given up: librdkafka 2.16 does not come back from that call, whatever timeout it was given,
where the coordinator has left the cluster's metadata (its issues 5456 and 5511; measured at the restart of a broker)."""
BRIEF: Final = 10_000
"""Milliseconds after which the broker undoes a commit aside that was left open."""
ASIDE_TIMEOUT: Final = 3.0
"""Seconds for a commit aside: some 100 ms where the broker is there."""
FLUSH_TIMEOUT: Final = 0.5
"""Seconds that an abort waits for what was produced to be on the broker."""
UNKNOWN_AFTER: Final = 3.0
"""Seconds for which a commit is tried on once the worker stops: then its outcome is left to the successor, who asks the broker."""
LOOK: Final = 0.1
"""Seconds between two looks whether a call that has not come back is waited for any longer."""
_REPLACE_PAUSE: Final = 1.0

DEFAULTS: Final[Mapping[str, Any]] = {
    # Measured (docs/design.md): nearly all of a transaction's 100 ms is one retry while the broker still ends the one before. Not
    # linger.ms: a commit waits for no company, and without it 500 messages go out in hundreds of requests (half the pace).
    "retry.backoff.ms": 5,
    "retry.backoff.max.ms": 20,
}


OF_THE_MESSAGE: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.POLICY_VIOLATION,
    }
)
"""Why a message was not delivered, where it would not be the next time either: a failure of the handler that produced it."""
_ENDED: Final = frozenset({KafkaError._STATE, KafkaError._FATAL, KafkaError._FENCED, KafkaError._PURGE_QUEUE})
"""What `produce` raises once something else has gone wrong with the transaction."""
_FENCED: Final = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
"""A successor is registered, which has ended what this producer had left open."""
_LONGEST_PAUSE: Final = 10.0
"""Seconds at most between two tries to end what a replaced producer has left open."""


class Aborted(Exception):
    """Nothing of the transaction happened, for a reason that is not the handler's. The run is repeated."""


class Undecided(Exception):
    """Whether the transaction happened is not known: the broker has to be asked where the group stands."""


def transactional_properties(user: Mapping[str, Any], producer: Mapping[str, Any], limit: float) -> dict[str, Any]:
    """What a transactional producer is made with, without its id. Pure.

    user: `[kafka]` as set; producer: what a plain producer of this worker is made with; limit: as for `transaction_timeout`.
    """
    result = {**producer, **{name: value for name, value in DEFAULTS.items() if name not in user}}
    result.pop("enable.idempotence", None)  # implied; an explicit False would be refused
    result.setdefault("transaction.timeout.ms", int(transaction_timeout(limit) * 1000))
    return result


def _within(seconds: float, call: Callable[[], None], hurry: Callable[[], bool] = lambda: False) -> None:
    """Make a call in a thread of its own, which is left behind where it does not come back, or as soon as `hurry()`: TimeoutError. Blocks;
    raises what it raises."""
    outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            call()
        except BaseException as error:
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=run, name="offsets", daemon=True).start()
    deadline = time.monotonic() + seconds
    while True:
        try:
            error = outcome.get(timeout=min(LOOK, max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            if time.monotonic() < deadline and not hurry():
                continue
            raise TimeoutError(f"the client did not come back from sending offsets within {seconds:g} s") from None
        if error is not None:
            raise error
        return


def brief(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a transaction that withholds the group's offsets for as short as can be where it is left open. Pure.

    librdkafka refuses a `transaction.timeout.ms` below `message.timeout.ms` or `socket.timeout.ms`, where those are set.
    """
    least = max(
        int(properties.get(name, 0)) for name in ("message.timeout.ms", "delivery.timeout.ms", "socket.timeout.ms")
    )
    return {**properties, "transaction.timeout.ms": max(BRIEF, least)}


def commit_aside(
    properties: Mapping[str, Any],
    offsets: Sequence[tuple[str, int, int]],
    metadata: Mapping[tuple[str, int], str],
    membership: Any,
) -> None:
    """Commit offsets, with the metadata of some, as a transaction of a producer made for that, so on a connection of its own. Blocks for up to `ASIDE_TIMEOUT`.

    A broker answers a connection's requests one after the other, and a join when all members have come: a commit that was sent behind it
    is answered after that, which may be minutes (`max.poll.interval.ms` of the slowest). The group takes a transaction's offsets meanwhile.
    Raises KafkaException (also where the right to the transactional id is missing), TimeoutError.
    """
    raw: Any = RawProducer(brief(properties), logger=logging.getLogger("librdkafka"))

    def call() -> None:
        raw.init_transactions(ASIDE_TIMEOUT)
        raw.begin_transaction()
        raw.send_offsets_to_transaction(positions(offsets, metadata), membership, ASIDE_TIMEOUT)
        raw.commit_transaction(ASIDE_TIMEOUT)

    _within(ASIDE_TIMEOUT, call)


class Seat:
    """One processing thread's transactional producer, made when it is first needed. Only its thread uses it; others may end what a
    predecessor left open, be that an earlier process's or a producer of this one that was replaced: until somebody registers
    under its id, its transaction hides what stands behind it from all readers, up to `transaction.timeout.ms`."""

    def __init__(
        self,
        properties: Callable[[], Mapping[str, Any]],
        transactional_id: str,
        bus: Bus,
        make: Callable[[dict[str, Any]], Any] | None = None,
        sending: Sending | None = None,
    ) -> None:
        self.sending = sending
        self._properties = properties
        self._id = transactional_id
        self._bus = bus
        self._make = make or (lambda p: RawProducer(p, logger=logging.getLogger("librdkafka")))
        self._raw: Any = None
        self._ready = False
        self._not_before = 0.0
        self._entry = threading.Lock()
        self._ending: threading.Thread | None = None
        """Ends what a replaced producer has left open."""
        self.undelivered: KafkaError | None = None
        """Why the first message that was not delivered was not."""
        self.thread = 0
        """The identity of the thread that uses it."""

    def producer(self) -> Any:
        """The producer, registered with its coordinator. Blocks for some 10 s at most; raises KafkaException where that is not to be had now."""
        with self._entry:
            if self._ready:
                return self._raw
            if self._raw is None:
                pause = self._not_before - time.monotonic()
                if pause > 0:
                    time.sleep(pause)
                self._raw = self._make_raw()
            try:
                self._raw.init_transactions(INIT_TIMEOUT)
            except KafkaException as error:
                if not error.args[0].retriable():
                    self.replace(error.args[0])
                raise
            self._ready = True
            return self._raw

    def end_predecessor(self) -> None:
        """Undo the transaction that somebody with this id left open, unless the thread has come and done so. Blocks for up to 10 s;
        where the broker cannot be told, an event says so. Any thread."""
        with self._entry:
            if self._raw is not None:
                return
            try:
                self._make_raw().init_transactions(INIT_TIMEOUT)
            except KafkaException as error:
                self._bus.publish(events.ClientError("", error.args[0].name(), describe(error), False, 1))

    def _make_raw(self) -> Any:
        return self._make({**self._properties(), "transactional.id": self._id, "on_delivery": self.report})

    def report(self, error: KafkaError | None, _: Any) -> None:
        """A delivery report; called from within the calls to the producer."""
        if error is not None and self.undelivered is None:
            self.undelivered = error

    def send_offsets(self, offsets: list[TopicPartition], membership: Any, hurry: Callable[[], bool]) -> None:
        """Make offsets part of the transaction. In a thread of its own, which is left behind where the call does not come back, or as soon
        as `hurry()` (TimeoutError): it holds a producer that is to be replaced, and can do nothing more once that has happened.
        KafkaException.
        """
        raw: Any = self._raw
        _within(HANGS_AFTER, lambda: raw.send_offsets_to_transaction(offsets, membership, OFFSETS_TIMEOUT), hurry)

    def say_committed(self, lane: Lane, offset: int | None, seconds: float) -> None:
        """A transaction of this producer happened, for a lane."""
        if self._bus.wants(events.TransactionCommitted):
            said = events.TransactionCommitted(lane.group.name, lane.topic, lane.partition, offset, seconds)
            self._bus.publish(said)

    def renew(self) -> None:
        """Let the next transaction begin under a higher epoch, which only a new producer gets (some 65 ms): the markers of an abort go to each
        partition by themselves, and one that comes late, where leaders and the coordinator are moving, would undo what the next
        transaction has written there under the same epoch (KIP-890; chaos met it: outputs of one partition were missing)."""
        self._raw, self._ready = None, False

    def replace(self, error: KafkaError) -> None:
        """Give up this producer and make a new one, which ends what this one has left open: now and in the background, for its
        thread may find nothing to do for long. At most one a second: two that live at once fence each other in turn, and so
        one that was fenced makes a new one only when that is needed."""
        self._bus.publish(events.TransactionalProducerReplaced(self._id, error.str()))
        self._raw, self._ready = None, False
        self._not_before = time.monotonic() + _REPLACE_PAUSE
        if error.code() not in _FENCED:
            self._begin_ending()

    def _begin_ending(self) -> None:
        if self._ending is None or not self._ending.is_alive():
            self._ending = threading.Thread(target=self._end_left_open, name="transactions", daemon=True)
            self._ending.start()

    def _end_left_open(self) -> None:
        pause = _REPLACE_PAUSE
        # After that the broker has ended it by itself.
        deadline = time.monotonic() + int(self._properties().get("transaction.timeout.ms", 60_000)) / 1000
        while not self._ready and time.monotonic() < deadline:
            try:
                self.producer()
            except KafkaException:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def until_ended(self, patience: float) -> bool:
        """Wait until nothing is left open by a producer that was replaced: before the process ends, for what if nobody comes
        after it? Blocks for up to `patience` seconds; False: it may still be open."""
        if self._ending is not None:
            self._ending.join(patience)
            return not self._ending.is_alive()
        return True


class Transaction:
    """One transaction of one lane, or of several of a group: begun, then committed or aborted, in one processing thread. What
    `self.transaction()` hands out."""

    def __init__(self, seat: Seat, lane: Lane) -> None:
        self._seat = seat
        self._lanes = [lane]
        seat.undelivered = None
        try:
            self._raw = seat.producer()
        except KafkaException as error:
            raise Aborted(describe(error)) from error
        try:
            self._raw.begin_transaction()
        except KafkaException as error:  # something is left of an earlier one
            seat.replace(error.args[0])
            raise Aborted(describe(error)) from error
        self.open = True
        self._produced = self._told_of = False
        """Whether there are outputs; whether brokers know of the transaction."""
        self._closing_since: float | None = None
        self.frontier = lane.frontier
        """What was marked inside it: the next offset that is committed with it."""
        self.retry_from = lane.retry_from

    def join(self, lane: Lane) -> None:
        """What this lane's run produces from now on belongs to it, too, and so does its offset."""
        self._lanes.append(lane)

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
        """Produce as part of this transaction. Waits up to 60 s for room in the queue (then BufferError).

        A message that cannot be delivered makes the commit fail, and the run is repeated. `on_delivery` is called at the commit.
        """
        if not self.open:
            raise RuntimeError(
                "this transaction has ended: produce inside its `with` block, in the handler's own thread."
            )
        self._produced = self._told_of = True
        check(headers)
        if self._seat.sending is None:
            self._produce(topic, value, key, headers, partition, timestamp, on_delivery)
            return
        with self._seat.sending(topic, headers) as headers:  # noqa: PLR1704  # those and a context
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
        message: dict[str, Any] = {"value": value, "key": key, "headers": headers}
        if on_delivery is not None:
            message["on_delivery"] = self._both(on_delivery)

        def produce() -> None:
            try:
                self._raw.produce(topic, **message, partition=partition, timestamp=timestamp)
            except KafkaException as error:
                if error.args[0].code() in _ENDED:
                    raise Aborted(describe(error)) from error
                raise

        until_room(produce, self._poll)

    def _poll(self) -> None:
        with contextlib.suppress(KafkaException, SystemError):  # what is fatal, the next try is told
            self._raw.poll(0.05)

    def _both(self, on_delivery: Report) -> Report:
        def report(error: KafkaError | None, message: Any) -> None:
            self._seat.report(error, message)
            on_delivery(error, message)

        return report

    def flush(self, timeout: float | None = None) -> int:
        """Nothing is visible before the commit, so there is nothing to wait for; for the sake of those used to producers."""
        return 0

    def mark(self, offset: int) -> None:
        """Everything up to and including `offset` is done if this transaction is committed."""
        self.retry_from = offset + 1
        self.frontier = max(self.frontier, offset + 1)

    def commit(self, *ends: int) -> None:
        """Commit, with the next offset of each lane, in the order in which they joined, where any is new. Blocks, also for as long as the
        broker is away.

        Raises Aborted (nothing happened) or Undecided; KafkaException (nothing happened, either) where a message can never be
        delivered. Sets `committed` of each lane before it returns.
        """
        group = self._lanes[0].group
        reached = list(zip(self._lanes, ends, strict=True))
        self.open = False
        began = time.monotonic()
        carried = False
        try:
            with group.lock:
                # Under the lock together: a generation that the poller learns of after a revocation must never
                # cover a partition that went with it.
                for lane in self._lanes:
                    if lane.lost or lane.phase == "closed":
                        raise Aborted(f"{lane.topic}/{lane.partition} is no longer ours")
                metadata = group.member
            # Also where no offset is new: with them the broker checks that the partitions are still this member's to speak for.
            if self._produced or any(
                end != lane.committed or lane.metadata != lane.metadata_committed for lane, end in reached
            ):
                if metadata is None:
                    raise Aborted("the group's membership is not known yet")
                offsets = [
                    TopicPartition(lane.topic, lane.partition, end, lane.metadata or "") for lane, end in reached
                ]
                self._told_of = True
                self._insist(lambda: self._seat.send_offsets(offsets, metadata, self._is_overdue))
                carried = True
        except Aborted:
            self.abort()
            raise
        except TimeoutError as error:
            self._seat.replace(KafkaError(KafkaError._TIMED_OUT, str(error)))
            raise Aborted(str(error)) from error
        except KafkaException as error:
            self.abort()
            raise self._reason(error) from error
        try:
            self._insist(lambda: self._raw.commit_transaction(CALL_TIMEOUT))
        except KafkaException as error:
            failure = error.args[0]
            if failure.txn_requires_abort():
                self.abort()
                raise self._reason(error) from error
            # Fenced, or given up while it was on its way: the successor asks the broker.
            self._seat.replace(failure)
            raise Undecided(describe(error)) from error
        with group.lock:
            for lane, end in reached:
                lane.committed = lane.sent = end
                lane.frontier = max(lane.frontier, end)  # together: else the poller would see something to commit
                lane.metadata_committed = lane.metadata
        seconds = time.monotonic() - began
        for lane, end in reached:
            self._seat.say_committed(lane, end if carried else None, seconds)
            if lane.log is not None:
                lane.log.committed(end)

    def _reason(self, error: KafkaException) -> Exception:
        undelivered = self._seat.undelivered
        if undelivered is not None and undelivered.code() in OF_THE_MESSAGE:
            return KafkaException(undelivered)
        return Aborted(describe(error))

    def abort(self) -> None:
        """Undo all of it. Never raises: where the broker cannot be told, the producer is replaced, which ends it too. Blocks."""
        self.open = False
        if self._produced:
            # While the broker still ends the transaction before, this one's first messages wait to become part of it; to end it then
            # is refused for good (INVALID_TXN_STATE, measured), and would cost the producer.
            with contextlib.suppress(KafkaException, SystemError):  # see `_told`
                self._raw.flush(FLUSH_TIMEOUT)
        try:
            self._insist(lambda: self._raw.abort_transaction(CALL_TIMEOUT))
        except KafkaException as error:
            self._seat.replace(error.args[0])
        else:
            if self._told_of:
                self._seat.renew()

    def _insist(self, call: Callable[[], Any]) -> None:
        """Call until it is done or refused; while the broker is away that lasts, but not for long once the lane closes: `UNKNOWN_AFTER`
        for all the calls of this transaction together."""
        while True:
            try:
                _told(call)
                return
            except KafkaException as error:
                failure = error.args[0]
                if not failure.retriable() or failure.txn_requires_abort() or failure.fatal():
                    raise
                if self._is_overdue():
                    raise
            with contextlib.suppress(Exception):
                self._raw.poll(0.1)

    def _is_overdue(self) -> bool:
        """Whether a lane has been closing for so long that this transaction is given up."""
        if not any(lane.closing for lane in self._lanes):
            return False
        now = time.monotonic()
        self._closing_since = self._closing_since or now
        return now - self._closing_since > UNKNOWN_AFTER


def _told(call: Callable[[], Any]) -> None:
    """Call; a fatal error of the client's that meets a delivery report on its way is a SystemError, whose cause is meant (measured
    with confluent-kafka 2.16.1)."""
    try:
        call()
    except SystemError as error:
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None
        raise


@contextmanager
def own_transaction(lane: Lane) -> Iterator[Transaction]:
    """A handler's own transaction, where its runs are not transactions themselves. Processing thread."""
    if lane.transaction is not None:
        raise ConfigurationError(
            "transaction() inside another transaction: end that one first, or use the one there is."
        )
    if lane.plan.virtual_partitions is not None or lane.seat is None or threading.get_ident() != lane.seat.thread:
        raise ConfigurationError(
            "transaction() belongs to one processing thread: it is not to be had in an async handler, in a thread of the handler's own, "
            "nor in a virtual partition. Use a plain def handler without virtual_partitions=."
        )
    group = lane.group
    group.need_membership()
    if lane.job_producer is not None:
        lane.job_producer.settle()
    # What was marked before must not be on its way while this transaction commits: it might arrive later, and take it back.
    if lane.uncommitted and not group.commit_now(lane):
        raise Aborted("what was marked before could not be committed")
    metadata = lane.metadata
    lane.transaction = transaction = Transaction(lane.seat, lane)
    try:
        yield transaction
        transaction.commit(transaction.frontier)
        with group.lock:
            lane.frontier = max(lane.frontier, transaction.frontier)
            lane.retry_from = transaction.retry_from
            lane.transaction = None
    except BaseException:
        lane.metadata = metadata  # it was given with marks that are none
        raise
    finally:
        if transaction.open:
            transaction.abort()
        lane.transaction = None
