"""A worker's inside on a stage: real group, lanes, dispatcher and processor; a fake client and producer; one thread, no clock.

What would wait, jumps ahead in time; what would run in another thread, runs when the test says so, also in the middle of a
handler (`meanwhile`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

from confluent_kafka import KafkaError, KafkaException, Message

from swarm.app import App
from swarm.bus import Bus
from swarm.dispatch import Dispatcher
from swarm.events import Event
from swarm.flow import Bucket
from swarm.group import Group
from swarm.lane import Lane
from swarm.pauses import Pauses
from swarm.plan import Plan
from swarm.processing import Processor
from swarm.scoreboard import MESSAGES, Scoreboard
from swarm.suspicion import Suspicion
from swarm.transactions import Seat
from swarm.worker import Runtime

TOPIC = "orders"
Offsets = Sequence[tuple[str, int, int]]


WALL: float = 1_700_000_000.0
"""What the clock on the wall shows when a stage begins (s since the epoch)."""


def record(
    offset: int,
    partition: int = 0,
    topic: str = TOPIC,
    value: bytes | None = None,
    key: bytes | None = b"",
    timestamp: tuple[int, int] | None = None,
) -> Any:
    """A record as the client hands it out; a key of its own unless one is given."""
    return Message(
        topic=topic,
        partition=partition,
        offset=offset,
        key=b"key-%d" % offset if key == b"" else key,
        value=b"value-%d" % offset if value is None else value,
        headers=[("trace", b"abc")],
        timestamp=timestamp or (1, int(WALL * 1000) + offset),
    )


class Idle(Exception):
    """There is nothing to do, now or later."""


class Broker:
    """The group's side of Kafka: a log per partition, the committed offsets, a check on every commit."""

    def __init__(self) -> None:
        self.logs: dict[tuple[str, int], list[int]] = {}
        self.deleted: set[tuple[str, int]] = set()
        """Partitions of topics that were deleted and made again."""
        self.make: Callable[[int, int, str], Any] = record
        """What stands in a log at an offset."""
        self.committed: dict[tuple[str, int], int] = {}
        self.metadata: dict[tuple[str, int], str] = {}
        """The texts that stand beside the committed offsets."""
        self.on_commit: Callable[[tuple[str, int], int], None] = lambda key, offset: None
        self.on_seek: Callable[[tuple[str, int], int], None] = lambda key, offset: None
        self.refuse: KafkaError | None = None
        """What the next commit is answered with."""
        self.letters: list[tuple[int, dict[str, bytes | None]]] = []
        """Dead letters that were delivered: the source's offset, the headers."""
        self.letters_from: list[tuple[int, int]] = []
        """The same: the source's partition and offset."""
        self.outputs: list[tuple[str, Any]] = []
        """What was produced and delivered; what transactions produced, once they are committed."""
        self.abort_next = 0
        """So many transactions are refused."""
        self.undecided_next: list[bool] = []
        """The next transactions end without an answer: each was committed all the same, or was not."""
        self.absent_next = 0
        """So many calls of transactional producers are answered with: try again."""
        self.letter_failures = 0
        self.output_failures = 0
        """So many messages of plain producers are not delivered."""
        self.on_undelivered: Callable[[Any], None] = lambda value: None
        self.on_letter: Callable[[], None] = lambda: None

    def commit(self, offsets: Offsets, metadata: Mapping[tuple[str, int], str] | None = None) -> KafkaError | None:
        refused, self.refuse = self.refuse, None
        if refused is None:
            for topic, partition, offset in offsets:
                self.hold((topic, partition), offset, (metadata or {}).get((topic, partition), ""))
        return refused

    def hold(self, key: tuple[str, int], offset: int, metadata: str) -> None:
        self.metadata[key] = metadata
        self.on_commit(key, offset)
        self.committed[key] = offset

    # As the worker's producer, for dead letters.

    def partitions(self, topic: str) -> int:
        return 4

    def produce(
        self, topic: str, value: Any, key: Any = None, *, headers: Any = None, on_delivery: Any, **_: Any
    ) -> None:
        is_letter = "swarm.source.offset" in dict(headers or [])
        if is_letter:
            self.on_letter()
            failing, self.letter_failures = self.letter_failures > 0, max(0, self.letter_failures - 1)
        else:
            failing, self.output_failures = self.output_failures > 0, max(0, self.output_failures - 1)
        if failing:
            if not is_letter:
                self.on_undelivered(value)
            on_delivery(KafkaError(KafkaError._MSG_TIMED_OUT), None)
            return
        self.take(topic, value, headers)
        on_delivery(None, None)

    def take(self, topic: str, value: Any, headers: Any) -> None:
        """A message has arrived."""
        named = dict(headers or [])
        if "swarm.source.offset" in named:
            offset = int(named["swarm.source.offset"])
            self.letters.append((offset, named))
            self.letters_from.append((int(named["swarm.source.partition"]), offset))
        else:
            self.outputs.append((topic, value))


class FakeClient:
    """What `swarm.client.Client` is to a group."""

    is_member: bool = True
    new_protocol: bool = False
    leaderless: frozenset[tuple[str, int]] = frozenset()
    withheld: frozenset[tuple[str, int]] = frozenset()

    def __init__(self, broker: Broker, callbacks: Group) -> None:
        self.broker = broker
        self.callbacks = callbacks
        self.position: dict[tuple[str, int], int] = {}
        self.paused: set[tuple[str, int]] = set()
        self.answers: list[tuple[KafkaError | None, list[tuple[str, int, int]]]] = []
        self.most = 1000
        self.uncommitted: set[tuple[str, int]] = set()
        self.metadata: dict[tuple[str, int], str] = {}

    def fetch(self, most: int, timeout: float) -> list[Message]:
        answers, self.answers = self.answers, []
        for error, offsets in answers:
            self.callbacks.on_committed(error, offsets)
        found: list[Message] = []
        for key, position in self.position.items():
            if key not in self.paused:
                fresh = [offset for offset in self.broker.logs[key] if offset >= position][: min(most, self.most)]
                if fresh:
                    self.position[key] = fresh[-1] + 1
                    found += [self.broker.make(offset, key[1], key[0]) for offset in fresh]
        return found

    def tell_errors(self) -> None:
        """It meets none."""

    def take_up(self, starts: Iterable[tuple[str, int, int]]) -> None:
        for topic, partition, offset in starts:
            self.position[(topic, partition)] = offset
            self.paused.discard((topic, partition))

    def resolve(
        self, partitions: Sequence[tuple[str, int]], edges: Mapping[str, str], timeout: float
    ) -> dict[tuple[str, int], int]:
        for key in partitions:
            if self.broker.metadata.get(key):
                self.metadata[key] = self.broker.metadata[key]
        return {key: self.broker.committed.get(key, 0) for key in partitions}

    def membership(self) -> object:
        return "member"

    def forgotten(self, keys: Iterable[tuple[str, int]], timeout: float) -> list[tuple[str, int]]:
        """Those that a test has let go."""
        return [key for key in keys if key in self.broker.deleted]

    def committed(self, topic: str, partition: int, timeout: float) -> int:
        return self.broker.committed.get((topic, partition), 0)

    def commit_soon(self, offsets: Offsets, metadata: Mapping[tuple[str, int], str] | None = None) -> None:
        self.answers.append((self.broker.commit(offsets, metadata), list(offsets)))

    def commit_now(self, offsets: Offsets, metadata: Mapping[tuple[str, int], str] | None = None) -> None:
        self.broker.refuse = None  # to wait for the next try would take real time
        self.broker.commit(offsets, metadata)

    def pause(self, partitions: Sequence[tuple[str, int]]) -> None:
        self.paused |= set(partitions)

    def resume(self, starts: Sequence[tuple[str, int]]) -> None:
        self.paused -= set(starts)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self.broker.on_seek((topic, partition), offset)
        self.position[(topic, partition)] = offset

    def topics(self, timeout: float) -> set[str]:
        return {topic for topic, _ in self.broker.logs}

    def edge(self, topic: str, partition: int, edge: str, timeout: float) -> int:
        return 0

    def high_watermark(self, topic: str, partition: int) -> int:
        return max(self.broker.logs[(topic, partition)], default=-1) + 1

    def close(self, *, leave: bool, alive: Callable[[], None], patience: float) -> bool:
        self.position.clear()
        return True


class TransactionalProducer:
    """A transactional producer: what it produced and the offsets reach the broker together, or not at all."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.outputs: list[tuple[str, Any, Any]] = []
        self.offsets: list[tuple[str, int, int, str]] = []
        self.is_open = False
        self.is_over = False

    def init_transactions(self, timeout: float) -> None:
        self._may_be_absent()
        self.is_open = False

    def begin_transaction(self) -> None:
        assert not self.is_open
        self._must_live()
        self.is_open = True
        self.outputs, self.offsets = [], []

    def produce(self, topic: str, value: Any = None, key: Any = None, headers: Any = None, **_: Any) -> None:
        assert self.is_open
        self.outputs.append((topic, value, headers))

    def send_offsets_to_transaction(self, offsets: list[Any], member: object, timeout: float) -> None:
        assert self.is_open
        assert member == "member"
        self._may_be_absent()
        self.offsets += [(each.topic, each.partition, each.offset, each.metadata or "") for each in offsets]

    def commit_transaction(self, timeout: float) -> None:
        assert self.is_open
        self._must_live()
        self._may_be_absent()
        if self.broker.undecided_next:
            self.is_over = True
            if self.broker.undecided_next.pop():
                self._happen()
            raise KafkaException(TransactionError(fatal=True))
        if self.broker.abort_next:
            self.broker.abort_next -= 1
            raise KafkaException(TransactionError(abort=True))
        self.is_open = False
        self._happen()

    def _happen(self) -> None:
        for topic, value, headers in self.outputs:
            self.broker.take(topic, value, headers)
        for topic, partition, offset, metadata in self.offsets:
            self.broker.hold((topic, partition), offset, metadata)

    def abort_transaction(self, timeout: float) -> None:
        assert self.is_open
        self._must_live()
        self.is_open = False

    def poll(self, timeout: float) -> None:
        """Nothing is under way."""

    def flush(self, timeout: float) -> int:
        return 0

    def _must_live(self) -> None:
        if self.is_over:
            raise KafkaException(TransactionError(fatal=True))

    def _may_be_absent(self) -> None:
        if self.broker.absent_next:
            self.broker.absent_next -= 1
            raise KafkaException(TransactionError(retriable=True))


class TransactionError:
    """What the broker says to a transaction: to be aborted, the producer's end, or to be tried again."""

    def __init__(self, *, abort: bool = False, fatal: bool = False, retriable: bool = False) -> None:
        self._abort, self._fatal, self._retriable = abort, fatal, retriable

    def retriable(self) -> bool:
        return self._retriable

    def txn_requires_abort(self) -> bool:
        return self._abort

    def fatal(self) -> bool:
        return self._fatal

    def code(self) -> int:
        return KafkaError._FATAL if self._fatal else KafkaError._FAIL

    def name(self) -> str:
        return "_FATAL" if self._fatal else "_FAIL"

    def str(self) -> str:
        return "refused"


class StagedSeat(Seat):
    """A seat that does not wait for the clock before it makes another producer, and makes none beside the run."""

    def replace(self, error: Any) -> None:
        super().replace(error)
        self._not_before = 0.0

    def _begin_ending(self) -> None:
        pass


class StagedGroup(Group):
    """A group whose processing thread is its poller too, so a handler's commit is carried out where it stands."""

    def commit_now(self, lane: Lane) -> bool:
        broker = cast(FakeClient, self._client).broker
        refused, broker.refuse = broker.refuse, None
        if lane.lost or self._client is None or refused is not None:
            return False
        target = lane.settled_frontier()
        self.commits.commit_and_wait(self._client, [lane], 0.0, self.alive)
        return lane.committed >= target

    def need_membership(self) -> None:
        self.transactional = True
        self._refresh_membership()


def make_runtime(
    plan: Plan,
    broker: Broker,
    dispatcher: Dispatcher,
    clock: Callable[[], float],
    events: list[Event],
    concurrency: int = 4,
) -> Any:
    """What the parts of a worker share, as far as one group of one plan needs it."""
    board = Scoreboard.create(0)
    bus = Bus([(Event, events.append)])
    app = App("shop")
    app._producer = cast(Any, broker)
    return SimpleNamespace(
        index=0,
        tracing=None,
        hide=str,
        app=app,
        board=board,
        bus=bus,
        dispatcher=dispatcher,
        clock=clock,
        commit_interval=1.0,
        shutdown_timeout=30.0,
        wait_async=asyncio.run,
        job_limit=lambda plan: 0.0,
        suspicion=Suspicion(),
        strays=SimpleNamespace(begin=lambda now: None),
        pauses=Pauses(),
        concurrency=concurrency,
        standing_timeout=0.0,
        exactly_once=plan.exactly_once,
        bucket=lambda plan: None,
        make_seat=lambda slot: StagedSeat(
            dict, f"shop.0.{slot}", bus, lambda properties: TransactionalProducer(broker)
        ),
        count_messages=lambda count: board.add(MESSAGES, count),
        group_joined=lambda: None,
        publish_assignment=lambda: None,
        client_fenced=lambda fenced: None,
        join_timeout=0.0,
        journal=None,
        joins_without_seat=False,
        end_predecessors=lambda: None,
    )


class Stage:
    """One worker with one group of one plan."""

    def __init__(
        self, plan: Plan, broker: Broker | None = None, events: list[Event] | None = None, now: float = 1000.0
    ) -> None:
        self.now = now
        self.broker = broker or Broker()
        self.events = [] if events is None else events
        self.bucket = None if plan.rate_limit is None else Bucket(plan.rate_limit)
        self.dispatcher = Dispatcher(lambda: self.now)
        self._next = self.dispatcher.next
        self.dispatcher._work.wait = self._would_wait  # type: ignore[method-assign]
        self.dispatcher.rested.wait = self._let_others_run  # type: ignore[method-assign]
        self.dispatcher.room.wait = self._let_others_run  # type: ignore[method-assign]
        runtime = make_runtime(plan, self.broker, self.dispatcher, lambda: self.now, self.events)
        self.runtime = runtime
        self.board: Scoreboard = runtime.board
        runtime.bucket = lambda plan: self.bucket
        self.group = StagedGroup(runtime, "shop", [plan], {})
        self.client = FakeClient(self.broker, self.group)
        self.group._client = cast(Any, self.client)
        runtime.groups = [self.group]
        self.processor = Processor(runtime, 0)
        self.helper = Processor(runtime, 1)
        """Another thread's, for slices."""
        self.processor._wall = self.helper._wall = lambda: self.wall

    @property
    def wall(self) -> float:
        """The clock on the wall, which goes with the other one."""
        return WALL + self.now - 1000.0

    def close(self) -> None:
        self.board.close()

    # -- the poller --------------------------------------------------------------------------------------------------

    def assign(self, partition: int = 0) -> Lane:
        self.broker.logs.setdefault((TOPIC, partition), [])
        self.group.on_assigned([(TOPIC, partition)])
        return self.group.lanes[(TOPIC, partition)]

    def poll(self, most: int = 1000) -> None:
        self.client.most = most
        self.group._pass()

    def revoke(self, partition: int = 0) -> None:
        self.group.on_revoked([(TOPIC, partition)])
        self.client.position.pop((TOPIC, partition), None)

    def lose(self, partition: int = 0) -> None:
        self.group.on_lost([(TOPIC, partition)])
        self.client.position.pop((TOPIC, partition), None)

    def quiet(self, on: bool) -> None:
        """As `Runtime.quiet` does it."""
        with self.dispatcher.lock:
            self.dispatcher.quiet = on
            for lane in self.group.lanes.values():
                lane.halt = on or bool(lane.closing)
                if not on:
                    self.dispatcher.offer(lane, self.now)

    def pause(self, pauses: Pauses) -> None:
        """An operator has said what is paused."""
        Runtime.pause(self.runtime, pauses)

    def stop(self) -> None:
        self.dispatcher.stopping = True
        self.group.stop_requested = True
        self.group._drain()

    # -- the processing thread ---------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One lane's turn; time jumps ahead to it. False: there is none."""
        try:
            work = self._next()
        except Idle:
            return False
        turns = iter([work])
        outer = self.dispatcher.next  # this may be a turn within another one's
        self.dispatcher.next = lambda: next(turns, None)  # type: ignore[method-assign]
        try:
            self.processor.run()
        finally:
            self.dispatcher.next = outer  # type: ignore[method-assign]
        return True

    def help(self) -> bool:
        """Another thread takes a slice of a batch that is being run, from within a handler. False: none waits."""
        with self.dispatcher.lock:
            part = next(filter(None, map(self.dispatcher.next_slice, self.dispatcher._divided)), None)
        if part is None:
            return False
        self.helper._help(part)
        return True

    def settle(self, rounds: int = 2000) -> None:
        """Poll and work until there is nothing left."""
        for _ in range(rounds):
            self.poll()
            if not self.step() and self._fetched_all():
                return
            self.now += 0.01
        raise AssertionError("it does not come to rest")

    def _fetched_all(self) -> bool:
        lanes = self.group.lanes.values()
        at_end = all(
            self.client.position.get(lane.key, 0) > max(self.broker.logs[lane.key], default=-1) for lane in lanes
        )
        return at_end and not any(lane.has_work or lane.seek_to is not None for lane in lanes)

    def _would_wait(self, timeout: float | None = None) -> bool:
        if timeout is None:
            raise Idle
        assert 0 <= timeout <= threading.TIMEOUT_MAX, "no condition takes that"
        if timeout >= 3600:
            raise Idle
        self.now += timeout
        return True

    def _let_others_run(self, timeout: float | None = None) -> bool:
        self.dispatcher.lock.release()
        try:
            if not self.step():
                self.now += timeout or 0.0
        finally:
            self.dispatcher.lock.acquire()
        return True

    @property
    def messages(self) -> int:
        return int(self.board.ints[MESSAGES])

    def heard(self, event: type[Event]) -> list[Any]:
        return [said for said in self.events if isinstance(said, event)]


@contextmanager
def on_stage(plan: Plan, log: Iterable[int] = ()) -> Iterator[Stage]:
    """A stage whose partition 0 holds messages with these offsets."""
    stage = Stage(plan)
    stage.broker.logs[(TOPIC, 0)] = list(log)
    try:
        yield stage
    finally:
        stage.close()
