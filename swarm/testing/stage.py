"""A worker's inside on a stage: its real groups, lanes, dispatcher and processor; a fake Kafka; one thread, and a clock that jumps.

What would wait, jumps ahead in time; what would run in another thread, runs when it is its turn.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from types import SimpleNamespace
from typing import Any, Final, cast

from swarm.app import App
from swarm.bus import Bus
from swarm.dispatch import Dispatcher
from swarm.events import Event
from swarm.flow import Bucket
from swarm.group import Group
from swarm.lane import Lane
from swarm.pauses import Pauses
from swarm.processing import Processor
from swarm.scoreboard import Scoreboard
from swarm.suspicion import Suspicion
from swarm.testing.fakes import FakeClient, FakeKafka, FakeProducer, FakeTransactionalProducer, Place
from swarm.transactions import Seat

EPOCH: Final = 1_700_000_000.0
"""Seconds since the epoch at which a stage begins: a fixed one, so that a test is the same tomorrow."""
_START: Final = 1000.0
_ROUNDS: Final = 100_000
"""Steps without coming to rest after which something runs in a circle that costs no time."""


class _Idle(Exception):
    """There is nothing to do, now or later."""


class _StagedGroup(Group):
    """A group whose processing thread is its poller too, so a handler's commit is carried out where it stands."""

    def commit_now(self, lane: Lane) -> bool:
        if lane.lost or self._client is None:
            return False
        target = lane.frontier
        self.commits.commit_and_wait(self._client, [lane], 0.0, self.alive)
        return lane.committed >= target

    def need_membership(self) -> None:
        self.transactional = True
        self._refresh_membership()


class _StagedProcessor(Processor):
    """Keeps what handlers raise: events have its text only."""

    raised: list[BaseException]

    def _failed_event(self, lane: Lane, error: BaseException, first: int, last: int, attempt: int) -> None:
        self.raised.append(error)
        super()._failed_event(lane, error, first, last, attempt)


class Stage:
    """One worker of an app. `within`: seconds on its clock after which `settle` gives up."""

    def __init__(self, app: App, kafka: FakeKafka, within: float) -> None:
        self.now = _START
        self._end = _START + within
        self.events: list[Event] = []
        self.raised: list[BaseException] = []
        self.pauses: list[tuple[str, int, float]] = []
        self.seeks: list[tuple[str, int, int]] = []
        self._app = app
        self._kafka = kafka
        self._board = Scoreboard.create(0)
        self._loop = asyncio.Runner()
        self.dispatcher = Dispatcher(lambda: self.now)
        self.dispatcher._work.wait = self._would_wait  # type: ignore[method-assign]
        self.dispatcher.rested.wait = self._let_others_run  # type: ignore[method-assign]
        self.dispatcher.room.wait = self._let_others_run  # type: ignore[method-assign]
        self._producer_before = app._producer
        app._producer = cast(Any, FakeProducer(kafka))
        bus = Bus([(Event, self.events.append)])
        buckets = {id(plan): Bucket(plan.rate_limit) for plan in app.plans if plan.rate_limit is not None}
        group_of: dict[Place, str] = {}
        runtime: Any = SimpleNamespace(
            journal=None,
            strays=SimpleNamespace(begin=lambda now: None),  # it has no threads to leave behind
            index=0,
            tracing=None,
            hide=str,
            app=app,
            board=self._board,
            bus=bus,
            dispatcher=self.dispatcher,
            clock=lambda: self.now,
            commit_interval=5.0,
            shutdown_timeout=30.0,
            wait_async=self._wait_async,
            job_limit=lambda plan: 0.0,
            suspicion=Suspicion(),
            pauses=Pauses(),
            concurrency=4,
            standing_timeout=0.0,
            exactly_once=any(plan.exactly_once for plan in app.plans),
            bucket=lambda plan: buckets.get(id(plan)),
            make_seat=lambda slot: Seat(
                dict, "swarm.testing", bus, lambda properties: FakeTransactionalProducer(kafka, group_of)
            ),
            count_messages=lambda count: None,
            group_joined=lambda: None,
            publish_assignment=lambda: None,
            client_fenced=lambda fenced: None,
            join_timeout=0.0,
            joins_without_seat=False,
        )
        self.groups = [_StagedGroup(runtime, name, plans, {}) for name, plans in app.groups().items()]
        for group in self.groups:
            group._client = cast(Any, FakeClient(kafka, group.name, group))
            for topic, partition in kafka.logs:
                if any(plan.matches(topic) for plan in group.plans):
                    group_of[(topic, partition)] = group.name
        self._processor = _StagedProcessor(runtime, 0)
        self._processor.raised = self.raised
        self._processor._wall = lambda: EPOCH + self.now - _START

    def close(self) -> None:
        """Give the app back as it was."""
        self._app._producer = self._producer_before
        self._loop.close()
        self._board.close()

    @property
    def seconds(self) -> float:
        """How long it would have taken, waits included and work left out."""
        return self.now - _START

    # -- the pollers -------------------------------------------------------------------------------------------------

    def assign(self) -> None:
        """Every partition that there is, to each group that reads its topic."""
        for group in self.groups:
            places = [place for place in self._kafka.logs if any(plan.matches(place[0]) for plan in group.plans)]
            if places:
                group.on_assigned(places)
            for lane in group.lanes.values():
                self._watch(lane)

    def _watch(self, lane: Lane) -> None:
        pause, seek = lane.pause, lane.seek

        def say_pause(seconds: float, offset: int | None) -> None:
            self.pauses.append((*lane.key, seconds))
            pause(seconds, offset)

        def say_seek(offset: int) -> None:
            self.seeks.append((*lane.key, offset))
            seek(offset)

        lane.pause, lane.seek = say_pause, say_seek  # type: ignore[method-assign]

    def settle(self) -> bool:
        """Poll and work until there is nothing left to do; False: the time was over before."""
        for _ in range(_ROUNDS):
            for group in self.groups:
                group._pass()
            if not self._step() and self._at_rest():
                return True
            if self.now > self._end:
                return False
            self.now += 0.001
        return False

    def revoke(self) -> None:
        """All partitions are taken in good order."""
        for group in self.groups:
            group.on_revoked(list(group.lanes))

    def lose(self) -> None:
        """All partitions are lost: nothing more can be committed."""
        for group in self.groups:
            group.on_lost(list(group.lanes))
        while self._step():  # nobody waits for what still has to run
            pass

    def stop(self) -> None:
        """A graceful stop."""
        self.dispatcher.stopping = True
        for group in self.groups:
            group.stop_requested = True
            group._drain()

    def _at_rest(self) -> bool:
        for group in self.groups:
            position = cast(Any, group._client).position
            for lane in group.lanes.values():
                log = self._kafka.logs[lane.key]
                unread = bool(log) and position.get(lane.key, 0) <= (log[-1].offset() or 0)
                if unread or lane.has_work or lane.seek_to is not None:
                    return False
        return True

    # -- the processing thread ---------------------------------------------------------------------------------------

    def _step(self) -> bool:
        """One lane's turn; time jumps ahead to it. False: there is none."""
        try:
            work = self.dispatcher.next()
        except _Idle:
            return False
        turns: Iterator[Any] = iter([work, None])
        true_next = self.dispatcher.next
        self.dispatcher.next = lambda: next(turns)  # type: ignore[method-assign]
        try:
            self._processor.run()
        finally:
            self.dispatcher.next = true_next  # type: ignore[method-assign]
        return True

    def _would_wait(self, timeout: float | None = None) -> bool:
        if timeout is None or self.now > self._end:
            raise _Idle
        self.now += min(timeout, threading.TIMEOUT_MAX)
        return True

    def _let_others_run(self, timeout: float | None = None) -> bool:
        self.dispatcher.lock.release()
        try:
            if not self._step():
                self.now += timeout or 0.0
        finally:
            self.dispatcher.lock.acquire()
        return True

    def _wait_async(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        result, error = self._loop.run(_contained(coroutine))
        if error is not None:
            raise error
        return result


async def _contained(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    # SystemExit and KeyboardInterrupt raised in a task would end the event loop itself.
    try:
        return await coroutine, None
    except BaseException as error:
        return None, error
