"""A worker process, from the fork to its exit code. Never imports the supervisor.

Threads: the main thread (signals, commands, the loop's instant), a poller per consumer group, the processing threads, and,
where the app needs them, an event loop, a listeners' thread and a producer's. The main thread never waits for any of them
without a limit, so the report goes on whatever a handler does; only a handler that holds the GIL stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import setproctitle

from swarm import allocator, app_metrics, events, exits, journal
from swarm.app import App
from swarm.bus import Bus, Listeners
from swarm.client import producer_properties
from swarm.commits import Offsets, Texts
from swarm.dispatch import Dispatcher
from swarm.errors import SwarmError
from swarm.flow import Bucket
from swarm.group import Group
from swarm.inspection import Inspection
from swarm.lane import UNKNOWN, condition_of
from swarm.loading import app_problems, load_app, own_frames, secrets_of
from swarm.logs import Log
from swarm.membership import group_properties
from swarm.observations import Observations
from swarm.pauses import Pauses
from swarm.plan import Plan, job_limit, longest_job
from swarm.processing import Processor
from swarm.scoreboard import (
    FENCED,
    LEADERLESS,
    LOOP_AT,
    MAX_JOBS,
    MESSAGES,
    NO_START,
    PID,
    PREPARED_AT,
    READY_AT,
    STARTED_AT,
    WITHHELD,
    Condition,
    Scoreboard,
)
from swarm.selection import chosen_groups, placed
from swarm.strays import Strays
from swarm.suspicion import Suspicion
from swarm.transactions import Seat, commit_aside, transactional_properties
from swarm.troubles import Troubles

if TYPE_CHECKING:
    from swarm.config import Loaded, Settings
    from swarm.debugging import Debug
    from swarm.tracing import Tracing

LOOP: Final = 0.5
"""Seconds between two rounds of the main thread when nothing happens: the precision of `report_age`."""
STANDSTILL: Final = 5.0
"""Seconds by which the loop must be late to conclude that the machine stood still: then the jobs did too, and a drain gets that time
again, as the supervisor does it (`policy.WAKE_GAP`)."""
GC_THRESHOLD: Final = 20_000
"""Objects that are made, and not freed, between two collections of the youngest: more than lie between a fetch and its end, and with
200 bytes each no more than 4 MB of garbage."""
PYTHONS_THRESHOLDS: Final = (700, 2000)
"""What Python starts with, by version: another value is the application's own choice."""
LAST_TRANSACTIONS: Final = 2.0
"""Seconds that a stop waits until what replaced producers have left open is undone: some 20 ms where the broker is there."""


@dataclass(frozen=True, slots=True)
class Birth:
    """What a worker is born with. `app` is None where each worker loads it itself (`preload = false`)."""

    index: int
    loaded: Loaded
    app: App | None
    board: Scoreboard
    channel: socket.socket
    parent: int
    log: Log
    suspects: list[dict[str, Any]]
    """What may kill its process (`swarm.suspicion`)."""
    pauses: list[dict[str, Any]]
    """What an operator paused (`swarm.pauses`)."""
    state_dir: Path
    signal_fd: int
    """Readable when a signal has come (the wakeup descriptor)."""
    dump_fd: int
    """Where backtraces are written."""
    debug: Debug | None = None
    """What its clients shall tell, and where."""


class EventLoop:
    """The asyncio loop of a worker, made when the first async handler runs."""

    def __init__(self, on_thread: Callable[[], None]) -> None:
        self._on_thread = on_thread
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end; returns or raises what it did. Any thread but the loop's own."""
        future = asyncio.run_coroutine_threadsafe(_contained(coroutine), self._running())
        result, error = future.result()
        if error is not None:
            raise error
        return result

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._run, args=(self._loop,), name="asyncio", daemon=True).start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._on_thread()
        asyncio.set_event_loop(loop)
        loop.run_forever()


async def _contained(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    # SystemExit and KeyboardInterrupt raised in a task would end the event loop itself.
    try:
        return await coroutine, None
    except BaseException as error:
        return None, error


class Runtime:
    """What the parts of a worker share."""

    def __init__(self, birth: Birth, app: App) -> None:
        settings = birth.loaded.settings
        self.index = birth.index
        self.app = app
        self.settings = settings
        self.board = birth.board
        self.clock: Callable[[], float] = time.monotonic
        self.commit_interval = settings.worker.commit_interval
        self.shutdown_timeout = settings.swarm.shutdown_timeout
        self.join_timeout = settings.supervision.join_timeout
        self.hide = birth.log.hide
        self.joins_without_seat = settings.supervision.refused_seat == "dynamic"
        self.log = birth.log
        self.bus = Bus([(event, birth.log.event) for event in _said(birth.log)])
        self._debug = birth.debug
        self.journal = journal.of_worker(settings, birth.state_dir, birth.index, self.bus)
        Troubles(self.board, self.clock).listen(self.bus)
        self.observations = Observations()
        self.bus.add(events.ListenerFailed, self._note_listener)
        self.strays = Strays(
            lambda: frozenset((job.thread, job.started_at) for job in self.board.jobs()),
            lambda where, example, count: self.observations.note("threads", where, example, count),
            self.clock,
        )
        self.dispatcher = Dispatcher(self.clock)
        self.suspicion = Suspicion(birth.suspects)
        self.pauses = Pauses(birth.pauses)
        self.concurrency = settings.worker.concurrency
        self.standing_timeout = settings.supervision.standing_timeout
        self._chosen = placed(chosen_groups(app, settings.swarm), birth.index)
        self._plans = [plan for plans in self._chosen.values() for plan in plans]
        self.exactly_once = any(plan.exactly_once for plan in self._plans)
        self._buckets = {id(plan): Bucket(plan.rate_limit) for plan in self._plans if plan.rate_limit is not None}
        self._seats: list[Seat] = []
        self._seats_lock = threading.Lock()
        self._seats_again_at = float("-inf")
        self.dead: list[str] = []
        self._threads: list[threading.Thread] = []
        self._event_loop = EventLoop(self._name_thread)
        self.wait_async = self._event_loop.wait
        self.groups: list[Group] = []
        self.tracing = _tracing(settings, birth.index, self.hide)
        self.listeners: Listeners | None = None
        self._joined = threading.Event()
        self.wake: Callable[[], None] = lambda: None
        self._title_of: Callable[[str], None] = lambda _: None

    # -- set-up, main thread -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the clients and start the threads; raises what librdkafka refuses."""
        from swarm.config import fetch_budget

        user = self.settings.kafka
        more = self._debugged()
        self.app._producer = None
        self.app._producer_properties = lambda: producer_properties({**user, **more})
        self.app._sending = self.tracing.sending if self.tracing is not None else None
        room = fetch_budget(self.settings, len(self._chosen))
        for name, plans in self._chosen.items():
            properties = group_properties(self.settings, name, plans, self.index, room)
            self.groups.append(Group(self, name, plans, {**properties, **more}))
        if self.app.listeners and self.settings.instrumentation.listeners:
            self.listeners = Listeners(
                self.app.listeners, self.bus, lambda: self.board.count_error("listener"), self._name_thread
            )
            self.listeners.start()
        for group in self.groups:
            group.open()
        for group in self.groups:
            self._thread(f"poller {group.name}", group.run)
        if not self.groups:  # nothing is placed here: it stands by
            self._joined.set()
        threads = min(self.settings.worker.concurrency + max(0, len(self.groups) - 1), MAX_JOBS)
        self.dispatcher.share(threads, [group.name for group in self.groups])
        for slot in range(threads):
            self._thread(f"processing {slot}", Processor(self, slot).run)

    def _debugged(self) -> dict[str, Any]:
        """Properties that make clients tell more, where somebody has asked for it (`swarm.debugging`)."""
        if self._debug is None:
            return {}
        from swarm import debugging

        return debugging.attach(self._debug, self.log, [self.settings.kafka, *(plan.kafka for plan in self._plans)])

    def _note_listener(self, event: events.Event) -> None:
        assert isinstance(event, events.ListenerFailed)
        self.observations.note("listener", event.listener, self.hide(f"at {event.heard}: {event.error}"), event.count)

    def _thread(self, name: str, target: Callable[[], None]) -> None:
        def run() -> None:
            self._name_thread()
            try:
                target()
            except BaseException as error:
                self.thread_died(name, error)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _name_thread(self) -> None:
        self.board.add_thread(threading.current_thread().name)

    def thread_died(self, name: str, error: BaseException) -> None:
        """A thread of the runtime ended by an exception: the worker ends too, without committing more."""
        self.board.set_error(self.hide(f"thread {name!r} died: {type(error).__name__}: {error}"))
        self.bus.publish(events.ThreadDied(name, "".join(traceback.format_exception(error))[-8000:]))
        self.dead.append(name)
        self.wake()

    def missing_threads(self) -> list[str]:
        """Threads that should run and do not: also those that ended without Python's noticing (pthread_exit)."""
        return [
            thread.name
            for thread in self._threads
            if not thread.is_alive() or not os.path.exists(f"/proc/self/task/{thread.native_id}")
        ]

    # -- for groups and processors -----------------------------------------------------------------------------------

    def job_limit(self, plan: Plan) -> float:
        """Seconds that one job of this subscription may run; 0.0: no limit."""
        return job_limit(plan, self.settings.supervision.consume_timeout)

    def bucket(self, plan: Plan) -> Bucket | None:
        """What is left of a subscription's rate in this worker; None: it has no limit."""
        return self._buckets.get(id(plan))

    def make_seat(self, slot: int) -> Seat:
        """Where one processing thread gets its transactional producer; the same `transactional.id` for every successor."""
        swarm, user = self.settings.swarm, self.settings.kafka
        # A long-running job's own transaction is a small part of it, and what it leaves open would hold up readers for long.
        brief = [plan for plan in self._plans if plan.exactly_once or not plan.long_running]
        limit = longest_job(brief or self._plans, self.settings.supervision.consume_timeout)
        seat = Seat(
            lambda: transactional_properties(user, producer_properties(user), limit),
            f"{swarm.name}.{swarm.host}.{self.index}.{slot}",
            self.bus,
            sending=self.tracing.sending if self.tracing is not None else None,
        )
        self._seats.append(seat)
        return seat

    def commit_aside(self, offsets: Offsets, metadata: Texts, membership: Any) -> None:
        """Commit at the stop what the group's own connection gets no answer to (`swarm.transactions.commit_aside`). Blocks; raises."""
        swarm, user = self.settings.swarm, self.settings.kafka
        properties = {
            **transactional_properties(user, producer_properties(user), limit=0.0),
            "transactional.id": f"{swarm.name}.{swarm.host}.{self.index}.stop",
        }
        commit_aside(properties, offsets, metadata, membership)

    def end_predecessors(self) -> None:
        """Undo what a predecessor of this worker may have left open, for all of its threads, whether they will need transactions or
        not: until then a group's offsets, and what stands behind such a transaction, are withheld, up to `transaction.timeout.ms`.

        Any thread; does not block, and does nothing within a minute of the last time.
        """
        with self._seats_lock:
            now = self.clock()
            if now < self._seats_again_at:
                return
            self._seats_again_at = now + 60.0
        threading.Thread(target=self._end_predecessors, name="transactions", daemon=True).start()

    def _end_predecessors(self) -> None:
        for seat in self._seats:
            seat.end_predecessor()

    def end_transactions(self, patience: float) -> None:
        """Wait until what replaced producers have left open is undone. Blocks for up to `patience` seconds."""
        deadline = self.clock() + patience
        for seat in self._seats:
            seat.until_ended(max(0.0, deadline - self.clock()))

    def count_messages(self, count: int) -> None:
        """Messages handled or set aside."""
        self.board.add(MESSAGES, count)

    def group_joined(self) -> None:
        """A group was joined; when all are, the worker is running."""
        if all(group.joined for group in self.groups):
            self._joined.set()
            self.wake()

    @property
    def all_joined(self) -> bool:
        """Whether every group was joined at least once."""
        return self._joined.is_set()

    def client_fenced(self, fenced: bool) -> None:
        """A client was fenced and is being rebuilt."""
        self.board.ints[FENCED] = int(fenced)

    def publish_assignment(self) -> None:
        """Write the table of partitions and the process title. Poller threads."""
        entries = []
        conditions = []
        for group in self.groups:
            with self.dispatcher.lock:
                lanes = list(group.lanes.values())
            said = ((group.leaderless, LEADERLESS), (group.withheld, WITHHELD))
            for lane in lanes:
                condition = condition_of(lane)
                for places, bit in said:
                    if lane.key in places:
                        condition = condition._replace(bits=condition.bits | bit)
                conditions.append(condition)
                entries.append(
                    (
                        *lane.string_ids,
                        lane.partition,
                        lane.taken_end,
                        lane.committed if lane.committed >= 0 else -1001,
                        lane.high,
                        lane.high_at,
                        lane.paused and lane.rests,
                        group.standing.since(lane.key),
                    )
                )
            for topic, partition in group.startless:
                ids = (self.board.string(group.name), self.board.string(topic))
                entries.append((*ids, partition, UNKNOWN, UNKNOWN, UNKNOWN, 0.0, False, 0.0))
                conditions.append(Condition(bits=NO_START))
        self.board.set_assigned(entries, conditions)

    def assignment_title(self) -> str:
        """`orders/3,5 clicks/0`, at most some 100 characters."""
        by_topic: dict[str, list[int]] = {}
        for group in self.groups:
            for topic, partition in list(group.lanes):
                by_topic.setdefault(topic, []).append(partition)
        text = " ".join(f"{topic}/{','.join(str(p) for p in sorted(ps))}" for topic, ps in sorted(by_topic.items()))
        return text if len(text) <= 100 else text[:99] + "…"

    def quiet(self, on: bool) -> None:
        """Take no new jobs, or take them again."""
        with self.dispatcher.lock:
            self.dispatcher.quiet = on
            lanes = [lane for group in self.groups for lane in group.lanes.values()]
            for lane in lanes:
                lane.halt = on or lane.paused or bool(lane.closing)
                if not on:
                    self.dispatcher.offer(lane, self.clock())
            self.dispatcher.wake()

    def pause(self, pauses: Pauses) -> None:
        """Begin no job of the partitions that are paused from now on, and work on those that no longer are."""
        with self.dispatcher.lock:
            self.pauses = pauses
            for group in self.groups:
                for lane in group.lanes.values():
                    before, lane.paused = lane.paused, pauses.holds(group.name, lane.topic, lane.partition)
                    if lane.paused:
                        lane.halt = True
                    elif before:
                        lane.rests = False
                        lane.halt = self.dispatcher.quiet or bool(lane.closing)
                        self.dispatcher.offer(lane, self.clock())
                        self.bus.publish(events.ConsumptionResumed(group.name, lane.topic, lane.partition))
            self.dispatcher.wake()

    def set_log_level(self, level: str) -> None:
        """Write events and records from this level on."""
        self.log.set_level(level)
        self.bus.replace(self.log.event, _said(self.log))

    def stop(self, *, leave: bool) -> None:
        """Let every group drain and close."""
        with self.dispatcher.lock:
            self.dispatcher.stopping = True
            self.dispatcher.wake()
            self.dispatcher.rested.notify_all()
        for group in self.groups:
            group.leave = leave
            group.stop_requested = True

    @property
    def stopped(self) -> bool:
        """Whether all pollers have ended."""
        return not any(thread.is_alive() for thread in self._threads if thread.name.startswith("poller"))


def _tracing(settings: Settings, worker: int, hide: Callable[[str], str]) -> Tracing | None:
    """What `instrumentation.traces` asks for; nothing of it is imported where that is off."""
    match settings.instrumentation.traces:
        case "off":
            return None
        case "otlp":
            from swarm.tracing import over_otlp

            return over_otlp(settings.swarm.name, settings.swarm.host, worker, hide)
        case "app":
            from swarm.tracing import of_application

            return of_application(worker, hide)


def _said(log: Log) -> list[type[events.Event]]:
    """Above debug level nobody pays for events that would not be written."""
    if log.threshold <= 10:
        return [events.Event]
    levels = {"debug": 10, "info": 20, "warning": 30, "error": 40}
    return [cls for cls in events.CATALOGUE.values() if levels[cls.LEVEL] >= log.threshold]


def run(birth: Birth) -> int:
    """Be a worker until the stop; returns the exit code. Called once, in the child, right after the fork."""
    board = birth.board
    board.ints[PID] = os.getpid()
    board.floats[STARTED_AT] = time.monotonic()
    board.set_state("starting")
    allocator.limit_arenas()
    board.add_thread("main")
    birth.log.keep(board.keep_line)
    try:
        app = _boot(birth)
        runtime = Runtime(birth, app)
        runtime.start()
        _tune_collector()
    except BaseException as error:
        # The first line is what `last_exit` says, so it is not that of a traceback.
        if isinstance(error, SwarmError):
            text, frames = str(error), getattr(error, "frames", "")
        else:
            text = f"{type(error).__name__}: {error}"
            frames = own_frames(error) or "".join(traceback.format_exception(error))
        board.set_error(birth.log.hide(f"{text}\n{frames[-3500:]}".strip()))
        birth.log.event(events.BootFailed(text, frames))
        return exits.BOOT_ERROR
    return _Main(birth, runtime).run()


def _boot(birth: Birth) -> App:
    settings = birth.loaded.settings
    app = birth.app
    if app is None:
        assert settings.swarm.app is not None
        app = load_app(settings.swarm.app, birth.loaded.base_dir)
        problems = app_problems(app, settings.swarm.group_id, settings)
        if problems:
            raise SwarmError("\n".join(f"{where}: {what}. {fix}" for where, what, fix in problems))
    if birth.app is None:
        birth.log.hide = secrets_of(settings, app)
    for path, error in app_metrics.become_worker(birth.index):
        birth.log.event(events.MetricsSetAside(path, error))
    gc.enable()
    for hook in app.after_fork_hooks:
        hook(birth.index)
    return app


def _tune_collector() -> None:
    """Collect cyclic garbage less often, and never look at what was there before the first message.

    Each message is an object that the collector looks at, and with Python's thresholds it does so some three times before the message
    is freed, though a message is never a part of a cycle. What that gains was within the noise of a busy machine (docs/benchmarks.md).
    """
    gc.freeze()
    if gc.get_threshold()[0] in PYTHONS_THRESHOLDS:  # else the application has chosen
        gc.set_threshold(GC_THRESHOLD, 10, 10)


class _Main:
    """The main thread's loop: it reports, hears commands and signals, and decides nothing."""

    def __init__(self, birth: Birth, runtime: Runtime) -> None:
        self._birth = birth
        self._runtime = runtime
        self._board = birth.board
        self._name = birth.loaded.settings.swarm.name
        self._title = ""
        self._stopping = False
        self._orphaned = False
        self._leave = False
        self._deadline = float("inf")
        self._stopping_since = 0.0
        self._overdue_at = float("inf")
        self._ends_itself = False
        self._state = ""
        self._named: dict[int, str] = {}
        self._inspection = Inspection(runtime, birth.channel)
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        runtime.wake = self._wake
        # Well within the shortest report timeout that can be set (0.5 s).
        self._wait = min(LOOP, birth.loaded.settings.supervision.report_timeout / 4) * 1000

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_w, b"x")

    def _name_threads(self) -> None:
        """The application's threads have names, too, which a backtrace cannot tell. Those of ours have told theirs."""
        there = {thread.ident: thread.name for thread in threading.enumerate() if thread.ident is not None}
        if there != self._named:
            told = self._board.threads()
            for ident, name in there.items():
                if told.get(ident) is None or (ident in self._named and self._named[ident] != name):
                    self._board.add_thread(name, ident)
            self._named = there

    def run(self) -> int:
        runtime = self._runtime
        signal.signal(signal.SIGTERM, lambda *_: None)  # the wakeup descriptor tells the loop
        parent = _open_parent(self._birth.parent)
        poll = select.poll()
        for fd in (
            self._birth.channel.fileno(),
            self._birth.signal_fd,
            self._wake_r,
            *([parent] if parent is not None else []),
        ):
            poll.register(fd, select.POLLIN)
        if parent is None:
            self._orphan()
        next_check = 0.0
        self._board.floats[PREPARED_AT] = now = time.monotonic()
        while True:
            last, now = now, time.monotonic()
            if now - last > STANDSTILL:
                self._overdue_at += now - last
            self._board.floats[LOOP_AT] = now
            self._show_state(now)
            for fd, _ in poll.poll(50 if self._stopping else self._wait):
                if fd == self._birth.signal_fd:
                    for number in os.read(fd, 512):
                        if number == signal.SIGTERM:
                            self._stop(leave=self._leave)
                elif fd == self._wake_r:
                    os.read(fd, 512)
                elif fd == parent:
                    poll.unregister(fd)
                    self._orphan()
                elif not self._hear():
                    poll.unregister(fd)
            if runtime.dead:
                return self._give_up(f"thread {runtime.dead[0]!r} died")
            now = time.monotonic()
            if now >= next_check:
                next_check = now + 1.0
                missing = [] if self._stopping else runtime.missing_threads()
                if missing:
                    self._board.set_error(f"thread {missing[0]!r} is gone without a trace")
                    runtime.bus.publish(events.ThreadDied(missing[0], "it ended without an exception"))
                    return self._give_up(f"thread {missing[0]!r} is gone")
                self._name_threads()
            self._tell_observations()
            if self._stopping and runtime.stopped:
                return self._finish()
            if self._orphaned and now >= self._deadline:
                runtime.bus.publish(events.OrphanGaveUp("the job in hand did not end in time; it is not committed"))
                self._say_what_holds_it_up("exit")
                return exits.ORPHANED
            if self._stopping and now >= self._overdue_at:
                self._overdue_at = float("inf")
                self._say_what_holds_it_up("exit" if self._ends_itself else "wait")
                if self._ends_itself:
                    self._dump()  # the supervisor finds it when we have gone
                    return exits.HELD_UP

    def _hear(self) -> bool:
        """Commands of the supervisor; False when it has closed the channel."""
        while True:
            try:
                data = self._birth.channel.recv(1 << 20)  # more than the kernel lets through in one piece
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            command = json.loads(data)
            match command["command"]:
                case "seat":
                    self._leave = bool(command["leave"])
                    for group in self._runtime.groups:
                        group.leave = self._leave
                case "dump":
                    self._dump()
                case "drain":
                    self._overdue_at = time.monotonic() + float(command["within"])
                    self._ends_itself = command["then"] == "exit"
                case "suspects":
                    self._runtime.suspicion.learn(command["suspects"])
                case "rejoin":
                    for group in self._runtime.groups:
                        group.rejoin_requested |= group.name == command["group"]
                case "log_level":
                    self._runtime.set_log_level(command["level"])
                case "memory":
                    self._inspection.begin(command)
                case "pauses":
                    self._runtime.pause(Pauses(command["pauses"]))
                case "quiet":
                    self._runtime.quiet(True)
                case "resume":
                    self._runtime.quiet(False)
                case other:
                    self._runtime.bus.publish(events.UnknownCommand(str(other)))

    def _dump(self) -> None:
        # While we hold the interpreter's lock: the threads stand, so their frames can be read safely.
        faulthandler.dump_traceback(self._birth.dump_fd, all_threads=True)

    def _tell_observations(self) -> None:
        self._runtime.strays.look_again()
        for observation in self._runtime.observations.news():
            with contextlib.suppress(OSError):  # the next of its kind says it again
                self._birth.channel.send(json.dumps({"observed": observation}).encode())

    def _orphan(self) -> None:
        self._orphaned = True
        self._deadline = time.monotonic() + self._birth.loaded.settings.swarm.shutdown_timeout
        self._runtime.bus.publish(events.Orphaned("the supervisor is gone: ending the job in hand, then leaving"))
        self._stop(leave=False)

    def _stop(self, *, leave: bool) -> None:
        if not self._stopping:
            self._stopping = True
            self._stopping_since = time.monotonic()
            self._runtime.stop(leave=leave)

    def _say_what_holds_it_up(self, then: Literal["exit", "wait"]) -> None:
        now = time.monotonic()
        jobs = tuple(
            (job.group, job.topic, job.partition, job.first_offset, job.last_offset, now - job.started_at)
            for job in self._board.jobs()
        )
        threads = tuple(sorted(thread.name for thread in threading.enumerate()))
        kept = tuple((group.name, *key) for group in self._runtime.groups for key in sorted(group.lanes))
        held_up = ", ".join(f"{topic}/{p} at {first}-{last} for {age:.0f} s" for _, topic, p, first, last, age in jobs)
        self._board.set_error(f"was told to go and did not come to an end in time; in hand: {held_up or 'nothing'}")
        self._runtime.bus.publish(events.DrainOverdue(now - self._stopping_since, jobs, threads, kept, then))

    def _show_state(self, now: float) -> None:
        runtime = self._runtime
        if self._stopping:
            state = "stopping"
        elif not runtime.all_joined:
            state = "starting"
        elif runtime.dispatcher.quiet:
            state = "quiet" if runtime.dispatcher.running == 0 else "running"
        else:
            state = "running"
        if state != self._state:
            self._state = state
            self._board.set_state(state)
            if state == "running" and not self._board.floats[READY_AT]:
                self._board.floats[READY_AT] = now
            with contextlib.suppress(OSError):
                self._birth.channel.send(json.dumps({"state": state}).encode())
        title = f"swarm: {self._name} [worker {runtime.index}] {state} {runtime.assignment_title()}".rstrip()
        if title != self._title:
            self._title = title
            setproctitle.setproctitle(title)

    def _give_up(self, why: str) -> int:
        """A part of the runtime is broken: whatever it held is not committed, and somebody else does it again."""
        self._runtime.bus.publish(events.WorkerGivesUp(why))
        return exits.THREAD_DIED

    def _finish(self) -> int:
        runtime = self._runtime
        runtime.dispatcher.end()
        runtime.end_transactions(LAST_TRANSACTIONS)
        if runtime.app._producer is not None:
            runtime.app._producer.close()
        code = exits.ORPHANED if self._orphaned else exits.SMOOTH
        if runtime.journal is not None:
            runtime.journal.end(code)
        if runtime.listeners is not None:
            runtime.listeners.stop(within=2.0)
        if runtime.tracing is not None:
            runtime.tracing.shutdown()
        self._board.set_state("stopped")
        return code


def _open_parent(parent: int) -> int | None:
    """A descriptor that becomes readable when the supervisor ends; None if it has ended already."""
    try:
        fd = os.pidfd_open(parent)
    except ProcessLookupError:
        return None
    if os.getppid() != parent:  # it died, and its pid may be somebody else's by now
        os.close(fd)
        return None
    return fd


def flush_and_exit(code: int) -> None:
    """End the process without running what the supervisor registered with atexit."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
