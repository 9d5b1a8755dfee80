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
from swarm.plan import Plan
from swarm.processing import Processor
from swarm.scoreboard import MESSAGES, Scoreboard
from swarm.transactions import Seat

TOPIC = "orders"
Offsets = Sequence[tuple[str, int, int]]


def record(offset: int, partition: int = 0, topic: str = TOPIC, value: bytes | None = None) -> Any:
    """A record as the client hands it out."""
    return Message(
        topic=topic,
        partition=partition,
        offset=offset,
        key=b"key-%d" % offset,
        value=b"value-%d" % offset if value is None else value,
        headers=[("trace", b"abc")],
        timestamp=(1, 1_700_000_000_000 + offset),
    )


class Idle(Exception):
    """There is nothing to do, now or later."""


class Broker:
    """The group's side of Kafka: a log per partition, the committed offsets, a check on every commit."""

    def __init__(self) -> None:
        self.logs: dict[tuple[str, int], list[int]] = {}
        self.committed: dict[tuple[str, int], int] = {}
        self.on_commit: Callable[[tuple[str, int], int], None] = lambda key, offset: None
        self.refuse: KafkaError | None = None
        """What the next commit is answered with."""
        self.letters: list[tuple[int, dict[str, bytes | None]]] = []
        """Dead letters that were delivered: the source's offset, the headers."""
        self.outputs: list[tuple[str, Any]] = []
        """What transactions produced and committed."""
        self.abort_next = 0
        """So many transactions are refused."""
        self.letter_failures = 0
        self.on_letter: Callable[[], None] = lambda: None

    def commit(self, offsets: Offsets) -> KafkaError | None:
        refused, self.refuse = self.refuse, None
        if refused is None:
            for topic, partition, offset in offsets:
                self.on_commit((topic, partition), offset)
                self.committed[(topic, partition)] = offset
        return refused

    # As the worker's producer, for dead letters.

    def partitions(self, topic: str) -> int:
        return 4

    def produce(self, topic: str, value: bytes, key: bytes, *, headers: Any, on_delivery: Any, **_: Any) -> None:
        self.on_letter()
        if self.letter_failures:
            self.letter_failures -= 1
            on_delivery(KafkaError(KafkaError._MSG_TIMED_OUT), None)
            return
        named = dict(headers)
        self.letters.append((int(named["swarm.source.offset"]), named))
        on_delivery(None, None)


class FakeClient:
    """What `swarm.client.Client` is to a group."""

    is_member = True

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
                    found += [record(offset, key[1], key[0]) for offset in fresh]
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
        return {key: self.broker.committed.get(key, 0) for key in partitions}

    def membership(self) -> object:
        return "member"

    def commit_soon(self, offsets: Offsets, metadata: Mapping[tuple[str, int], str] | None = None) -> None:
        self.answers.append((self.broker.commit(offsets), list(offsets)))

    def commit_now(self, offsets: Offsets, metadata: Mapping[tuple[str, int], str] | None = None) -> None:
        self.broker.refuse = None  # to wait for the next try would take real time
        self.broker.commit(offsets)

    def pause(self, partitions: Sequence[tuple[str, int]]) -> None:
        self.paused |= set(partitions)

    def resume(self, starts: Sequence[tuple[str, int]]) -> None:
        self.paused -= set(starts)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self.position[(topic, partition)] = offset

    def high_watermark(self, topic: str, partition: int) -> int:
        return max(self.broker.logs[(topic, partition)], default=-1) + 1

    def close(self, *, leave: bool) -> None:
        self.position.clear()


class TransactionalProducer:
    """A transactional producer: what it produced and the offsets reach the broker together, or not at all."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.outputs: list[tuple[str, Any, Any]] = []
        self.offsets: list[tuple[str, int, int]] = []
        self.is_open = False

    def init_transactions(self, timeout: float) -> None:
        self.is_open = False

    def begin_transaction(self) -> None:
        assert not self.is_open
        self.is_open = True
        self.outputs, self.offsets = [], []

    def produce(self, topic: str, value: Any = None, key: Any = None, headers: Any = None, **_: Any) -> None:
        assert self.is_open
        self.outputs.append((topic, value, headers))

    def send_offsets_to_transaction(self, offsets: list[Any], member: object, timeout: float) -> None:
        assert self.is_open
        assert member == "member"
        self.offsets += [(each.topic, each.partition, each.offset) for each in offsets]

    def commit_transaction(self, timeout: float) -> None:
        assert self.is_open
        if self.broker.abort_next:
            self.broker.abort_next -= 1
            raise KafkaException(TransactionError())
        self.is_open = False
        for topic, partition, offset in self.offsets:
            self.broker.on_commit((topic, partition), offset)
            self.broker.committed[(topic, partition)] = offset
        for topic, value, headers in self.outputs:
            named = dict(headers or [])
            if "swarm.source.offset" in named:
                self.broker.letters.append((int(named["swarm.source.offset"]), named))
            else:
                self.broker.outputs.append((topic, value))

    def abort_transaction(self, timeout: float) -> None:
        assert self.is_open
        self.is_open = False

    def poll(self, timeout: float) -> None:
        """Nothing is under way."""


class TransactionError:
    """A refusal after which a transaction has to be aborted."""

    def retriable(self) -> bool:
        return False

    def txn_requires_abort(self) -> bool:
        return True

    def fatal(self) -> bool:
        return False


class StagedGroup(Group):
    """A group whose processing thread is its poller too, so a handler's commit is carried out where it stands."""

    def commit_now(self, lane: Lane) -> bool:
        broker = cast(FakeClient, self._client).broker
        refused, broker.refuse = broker.refuse, None
        if lane.lost or self._client is None or refused is not None:
            return False
        target = lane.frontier
        self.commits.commit_and_wait(self._client, [lane], 0.0, self._alive)
        return lane.committed >= target


class Stage:
    """One worker with one group of one plan."""

    def __init__(self, plan: Plan, broker: Broker | None = None) -> None:
        self.now = 1000.0
        self.broker = broker or Broker()
        self.events: list[Event] = []
        self.bucket = None if plan.rate_limit is None else Bucket(plan.rate_limit)
        self.board = Scoreboard.create(0)
        self.dispatcher = Dispatcher(lambda: self.now)
        self.dispatcher._work.wait = self._would_wait  # type: ignore[method-assign]
        self.dispatcher.rested.wait = self._let_others_run  # type: ignore[method-assign]
        app = App("shop")
        app._producer = cast(Any, self.broker)
        runtime: Any = SimpleNamespace(
            index=0,
            app=app,
            board=self.board,
            bus=Bus([(Event, self.events.append)]),
            dispatcher=self.dispatcher,
            clock=lambda: self.now,
            commit_interval=1.0,
            wait_async=asyncio.run,
            job_limit=lambda plan: 0.0,
            concurrency=4,
            exactly_once=plan.exactly_once,
            bucket=lambda plan: self.bucket,
            make_seat=lambda slot: Seat(dict, "shop.0", Bus([(Event, self.events.append)]), self.make_producer),
            count_messages=lambda count: self.board.add(MESSAGES, count),
            group_joined=lambda: None,
            publish_assignment=lambda: None,
            client_fenced=lambda fenced: None,
        )
        self.group = StagedGroup(runtime, "shop", [plan], {})
        self.client = FakeClient(self.broker, self.group)
        self.group._client = cast(Any, self.client)
        self.processor = Processor(runtime, 0)

    def close(self) -> None:
        self.board.close()

    def make_producer(self, properties: dict[str, Any]) -> TransactionalProducer:
        return TransactionalProducer(self.broker)

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

    def stop(self) -> None:
        self.dispatcher.stopping = True
        self.group.stop_requested = True
        self.group._drain()

    # -- the processing thread ---------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One lane's turn; time jumps ahead to it. False: there is none."""
        try:
            lane = self.dispatcher.next()
        except Idle:
            return False
        turns: Iterator[Lane | None] = iter([lane, None])
        true_next = self.dispatcher.next
        self.dispatcher.next = lambda: next(turns)  # type: ignore[method-assign]
        try:
            self.processor.run()
        finally:
            self.dispatcher.next = true_next  # type: ignore[method-assign]
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
