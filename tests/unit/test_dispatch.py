"""Which lane runs next: none twice at once, none forgotten, none while it may not. Most of it on one thread and no clock."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import Backoff, Message, Messages, VirtualPartitions
from swarm.dispatch import Dispatcher
from swarm.group import Group
from swarm.lane import Lane
from swarm.plan import Plan, make_plan
from swarm.processing import Processor
from swarm.virtual import Division, Slice
from tests.support.waiting import wait_for
from tests.unit.stage import TOPIC, Broker, FakeClient, make_runtime, record


class Nothing(Exception):
    """A thread would wait here."""


class Hall:
    """A dispatcher whose waits are jumps in time, and lanes to feed it with."""

    def __init__(self, lanes: int = 1, **options: Any) -> None:
        self.now = 100.0
        self.dispatcher = Dispatcher(lambda: self.now)
        self.dispatcher._work.wait = self.wait  # type: ignore[method-assign]
        options.setdefault("backoff", Backoff())
        plan = make_plan(handler=print, topics=("orders",), **options)
        self.lanes = [Lane(None, plan, "orders", number, 0, 0) for number in range(lanes)]  # type: ignore[arg-type]

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is None or timeout >= 3600:
            raise Nothing
        self.now += timeout
        return True

    def feed(self, lane: Lane, count: int = 1) -> None:
        with self.dispatcher.lock:
            lane.append([record(lane.fetch_next + n, lane.partition) for n in range(count)])
            self.dispatcher.offer(lane, self.now)

    def offer(self, lane: Lane) -> None:
        with self.dispatcher.lock:
            self.dispatcher.offer(lane, self.now)

    def next(self) -> Lane | None:
        try:
            work = self.dispatcher.next()
        except Nothing:
            return None
        assert not isinstance(work, Slice)
        return work

    def done(self, lane: Lane) -> None:
        with self.dispatcher.lock:
            self.dispatcher.done(lane)
            self.dispatcher.offer(lane, self.now)


def test_a_poller_that_holds_back_is_called_once_there_is_room_and_not_at_each_rest() -> None:
    """Of a full lane, half has to be gone; whom no poller waits for calls nobody."""
    hall = Hall(max_messages=2)
    [lane] = hall.lanes
    called: list[int] = []
    hall.dispatcher.room.notify_all = lambda: called.append(lane.buffered)  # type: ignore[method-assign]
    hall.feed(lane, 10)

    def work() -> None:
        taken = hall.next()
        assert taken is lane
        lane.take()
        hall.done(lane)

    work()
    assert called == []
    lane.wanted_at = 4
    work()
    assert (lane.buffered, called) == (6, [])
    work()
    assert called == [4]
    lane.wanted_at = -1
    work()
    work()
    assert (lane.buffered, called) == (0, [4])


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_no_lane_runs_twice_at_once_and_none_is_forgotten(seed: int) -> None:
    """Random feeding, finishing, backoff, quiet: in the end every message was taken, one job per lane at a time."""
    chance = random.Random(seed)
    hall = Hall(lanes=chance.randint(1, 4), max_messages=3, max_wait=chance.choice([0.0, 1.0]))
    fed, taken = [0] * len(hall.lanes), [0] * len(hall.lanes)
    running: list[Lane] = []

    def run() -> bool:
        lane = hall.next()
        if lane is None:
            return False
        assert lane not in running
        assert not hall.dispatcher.quiet
        if lane.has_work:  # one that only waited has none
            with hall.dispatcher.lock:
                taken[lane.partition] += len(lane.take())
                lane.settle_success(len(lane.batch))
        running.append(lane)
        return True

    def finish() -> None:
        lane = running.pop(chance.randrange(len(running)))
        if chance.random() < 0.3:
            with hall.dispatcher.lock:
                hall.dispatcher.delay(lane, hall.now + chance.choice([0.0, 5.0]))
        hall.done(lane)

    def quiet(on: bool) -> None:
        hall.dispatcher.quiet = on
        for lane in hall.lanes if not on else ():
            hall.offer(lane)

    for _ in range(chance.randint(1, 60)):
        match chance.randrange(6):
            case 0 | 1:
                lane = chance.choice(hall.lanes)
                count = chance.randint(1, 5)
                fed[lane.partition] += count
                hall.feed(lane, count)
            case 2 | 3 if not hall.dispatcher.quiet:
                run()
            case 4 if running:
                finish()
            case 5:
                quiet(not hall.dispatcher.quiet)
            case _:
                hall.now += 0.5
    quiet(False)
    while running or run():
        while running:
            finish()

    assert taken == fed
    assert hall.dispatcher.running == 0
    assert all(lane.phase == "idle" for lane in hall.lanes)


@pytest.mark.parametrize("state", ["quiet", "stopping"])
def test_nothing_new_begins_while_quiet_or_stopping_but_hooks_run(state: str) -> None:
    """Also what stood in the queue already goes back to rest; `on_revoked` and `on_shutdown` are still owed."""
    hall = Hall(lanes=2)
    hall.feed(hall.lanes[0])
    setattr(hall.dispatcher, state, True)
    hall.feed(hall.lanes[1])

    assert hall.next() is None
    assert [lane.phase for lane in hall.lanes] == ["idle", "idle"]

    hall.lanes[1].closing = "shutdown"
    hall.lanes[1].hook_due = "on_shutdown"
    hall.offer(hall.lanes[1])

    assert hall.next() is hall.lanes[1]


def test_a_batch_waits_to_fill_no_longer_than_max_wait() -> None:
    """A lone message goes after `max_wait`, a full batch at once."""
    hall = Hall(max_messages=3, max_wait=2.0)
    [lane] = hall.lanes

    hall.feed(lane)
    assert hall.next() is lane
    assert hall.now == pytest.approx(102.0)
    with hall.dispatcher.lock:
        lane.take()
    hall.done(lane)

    hall.feed(lane)
    hall.feed(lane, 2)
    assert hall.next() is lane
    assert hall.now == pytest.approx(102.0)


def test_backoff_is_kept_although_messages_arrive() -> None:
    """New messages do not shorten a wait that a failure has earned."""
    hall = Hall()
    [lane] = hall.lanes
    hall.feed(lane)
    assert hall.next() is lane
    with hall.dispatcher.lock:
        hall.dispatcher.delay(lane, 130.0)
    hall.done(lane)

    hall.feed(lane, 5)

    assert hall.next() is lane
    assert hall.now == pytest.approx(130.0)


def test_a_new_assignment_waits_for_the_job_of_the_one_before() -> None:
    """Two jobs of one partition never run at once, even if the partition went away and came back meanwhile."""
    hall = Hall(lanes=2)
    old, new = hall.lanes
    hall.feed(old)
    assert hall.next() is old
    new.predecessor = old

    hall.feed(new)
    assert hall.next() is None
    old.phase = "closed"
    hall.offer(new)

    assert hall.next() is new


def test_threads_lose_no_wake_up() -> None:
    """Four threads work off what another one feeds, and all of it: a lost wake-up would leave something behind."""
    dispatcher = Dispatcher(time.monotonic)
    plan = make_plan(handler=print, topics=("orders",), max_messages=2)
    lanes = [Lane(None, plan, "orders", number, 0, 0) for number in range(6)]  # type: ignore[arg-type]
    taken, wrong, all_taken = [0], list[str](), threading.Event()
    running: set[Lane] = set()
    total = 1500

    def work() -> None:
        while isinstance(lane := dispatcher.next(), Lane):
            with dispatcher.lock:
                if lane in running or lane.phase != "running":
                    wrong.append(f"{lane.partition} is {lane.phase}")
                running.add(lane)
            with dispatcher.lock:
                running.discard(lane)
                taken[0] += len(lane.take())
                lane.settle_success(len(lane.batch))
                dispatcher.done(lane)
                dispatcher.offer(lane, time.monotonic())
                if taken[0] == total:
                    all_taken.set()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(total):
        lane = lanes[number % len(lanes)]
        with dispatcher.lock:
            lane.append([record(lane.fetch_next, lane.partition)])
            dispatcher.offer(lane, time.monotonic())
    arrived = all_taken.wait(10.0)
    dispatcher.end()
    for thread in threads:
        thread.join(10.0)

    assert arrived, f"{total - taken[0]} of {total} were left behind"
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_a_lane_whose_backoff_is_over_is_not_run_before_its_thread_has_let_go_of_it() -> None:
    """With a backoff of nothing it would be due at once, while the failed job's thread is still on its way out."""
    hall = Hall()
    [lane] = hall.lanes
    hall.feed(lane, 2)
    assert hall.next() is lane
    with hall.dispatcher.lock:
        hall.dispatcher.delay(lane, hall.now)

    assert hall.next() is None

    hall.done(lane)
    assert hall.next() is lane


# -- with real threads -----------------------------------------------------------------------------------------------

PATIENCE = 20.0
"""Seconds after which a thread that has not come is taken for stuck."""


class LiveClient(FakeClient):
    """A client whose fetches take a moment, and in which rebalances happen."""

    def __init__(self, broker: Broker, callbacks: Group) -> None:
        super().__init__(broker, callbacks)
        self.most = 7
        self.taken_away: list[int] = []

    def fetch(self, most: int, timeout: float) -> list[Any]:
        time.sleep(min(timeout, 0.001))
        while self.taken_away:
            partition = self.taken_away[-1]
            self.callbacks.on_revoked([(TOPIC, partition)])
            self.position.pop((TOPIC, partition), None)
            self.taken_away.pop()  # last: it says that the revocation is over
        return super().fetch(most, timeout)


class Crew:
    """A group with a real poller thread and real processing threads, over a fake broker."""

    def __init__(self, plan: Plan, logs: dict[int, list[int]], threads: int) -> None:
        self.broker = Broker()
        self.broker.logs = {(TOPIC, partition): log for partition, log in logs.items()}
        self.dispatcher = Dispatcher(time.monotonic)
        self.runtime = make_runtime(plan, self.broker, self.dispatcher, time.monotonic, [], concurrency=threads)
        self.group = Group(self.runtime, "shop", [plan], {})
        self.client = LiveClient(self.broker, self.group)
        self.group._client = self.client  # type: ignore[assignment]
        self.group.on_assigned(list(self.broker.logs))
        self.died: list[BaseException] = []
        # Daemons: a test that fails leaves them behind, and must not hang at the end for it.
        self.threads = [threading.Thread(target=self.contain(self.group.run), daemon=True)]
        for slot in range(threads):
            self.threads.append(threading.Thread(target=self.contain(Processor(self.runtime, slot).run), daemon=True))

    def contain(self, work: Any) -> Any:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self.died.append(error)

        return run

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> list[threading.Thread]:
        """As `Runtime.stop` and the worker's end do it; returns the threads that are stuck."""
        with self.dispatcher.lock:
            self.dispatcher.stopping = True
            self.dispatcher.wake()
            self.dispatcher.rested.notify_all()
        self.group.stop_requested = True
        self.threads[0].join(PATIENCE)
        self.dispatcher.end()
        for thread in self.threads:
            thread.join(PATIENCE)
        self.runtime.board.close()
        return [thread for thread in self.threads if thread.is_alive()]


@pytest.mark.parametrize("each", [False, True], ids=["batch", "each"])
@pytest.mark.parametrize("ends", ["all is done", "a stop in the middle", "a revocation in the middle"])
def test_slices_of_several_partitions_run_at_once_each_exactly_once(ends: str, each: bool) -> None:
    """No deadlock, no slice twice or never, no key in two threads; and what is committed is what was done without a gap."""
    partitions, length, keys = 3, 120, 5
    lock = threading.Lock()
    handled: dict[int, list[int]] = {partition: [] for partition in range(partitions)}
    busy: set[tuple[int, bytes | None]] = set()
    wrong: list[str] = []
    most_at_once = [0]
    two_at_once, enough, all_done = threading.Barrier(2), threading.Event(), threading.Event()

    def handle(message: Message) -> None:
        with lock:
            handled[message.partition].append(message.offset)
            total = sum(map(len, handled.values()))
        if total >= 60:
            enough.set()
        if total == partitions * length:
            all_done.set()

    def enter(partition: int, held: set[bytes | None]) -> set[tuple[int, bytes | None]]:
        places = {(partition, key) for key in held}
        with lock:
            if busy & places:
                wrong.append(f"{busy & places} in two threads")
            busy.update(places)
            most_at_once[0] = max(most_at_once[0], len(busy))
        if two_at_once.n_waiting or not two_at_once.broken:
            with contextlib.suppress(threading.BrokenBarrierError):
                two_at_once.wait(PATIENCE)  # the first slices meet: they do run at once
            two_at_once.abort()
        return places

    def batch(messages: Messages) -> None:
        places = enter(messages.partition, {message.key for message in messages})
        for message in messages:
            handle(message)
        if messages.last_offset % 3 == 0:
            time.sleep(0.002)  # work, of some slices more than of others
        with lock:
            busy.difference_update(places)

    def one(message: Message) -> None:
        places = enter(message.partition, {message.key})
        handle(message)
        if message.offset % 20 == 0:
            time.sleep(0.002)
        with lock:
            busy.difference_update(places)

    plan = make_plan(
        handler=one if each else batch,
        each=each,
        topics=(TOPIC,),
        max_messages=16,
        virtual_partitions=VirtualPartitions(maximum=3),
    )
    crew = Crew(plan, {partition: list(range(length)) for partition in range(partitions)}, threads=4)
    crew.broker.make = lambda offset, partition, topic: record(offset, partition, topic, key=b"%d" % (offset % keys))
    crew.start()
    if ends == "all is done":
        assert all_done.wait(PATIENCE), f"{handled} of {partitions} * {length}; {crew.died}"
    else:
        assert enough.wait(PATIENCE), f"{handled}; {crew.died}"
    if ends == "a revocation in the middle":
        crew.client.taken_away.append(1)
        while crew.client.taken_away and crew.threads[0].is_alive():
            time.sleep(0.001)
        seen_of_1 = len(handled[1])
        assert crew.group.lanes.keys() <= {(TOPIC, 0), (TOPIC, 2)}
    stuck = crew.stop()

    assert not stuck
    assert not crew.died
    assert not wrong
    assert most_at_once[0] >= 2
    assert not crew.dispatcher.running
    if ends == "a revocation in the middle":
        assert len(handled[1]) == seen_of_1, "something ran after the revocation was over"
    for partition, offsets in handled.items():
        assert len(offsets) == len(set(offsets)), "a message was handled twice"
        for key in range(keys):
            in_key = [offset for offset in offsets if offset % keys == key]
            assert in_key == sorted(in_key), "out of order"
        committed = crew.broker.committed.get((TOPIC, partition), 0)
        first_left = min(set(range(length + 1)) - set(offsets))
        assert committed == first_left, "not all that was done without a gap is committed, or more than that"


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_are_called_one_by_one_and_all_of_them_where_handlers_wait(threads: int) -> None:
    """Each that finds a lane calls the next as long as there are more: so many jobs run at once as there are threads."""
    dispatcher = Dispatcher(time.monotonic)
    plan = make_plan(handler=print, topics=("orders",), backoff=Backoff())
    lanes = [Lane(None, plan, "orders", number, 0, 0) for number in range(threads)]  # type: ignore[arg-type]
    together = threading.Barrier(threads)
    rounds = [0] * threads

    def work() -> None:
        while (lane := dispatcher.next()) is not None:
            assert isinstance(lane, Lane)
            together.wait(timeout=30.0)
            lane.take()
            with dispatcher.lock:
                rounds[lane.partition] += 1
                dispatcher.done(lane)
                dispatcher.offer(lane, time.monotonic())

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for number in range(50):
        with dispatcher.lock:  # what the poller does after a fetch
            for lane in lanes:
                lane.append([record(number, lane.partition)])
                dispatcher.offer(lane, time.monotonic())
        with dispatcher.lock:
            assert dispatcher.rested.wait_for(lambda done=number + 1: min(rounds) == done, timeout=30.0)  # type: ignore[misc]
    dispatcher.end()
    for worker in workers:
        worker.join(30.0)

    assert rounds == [50] * threads


def test_nobody_is_called_to_short_slices_until_one_lasts() -> None:
    """The owner is through with them sooner than a helper would come; if it is not, the poller's next pass calls one."""
    dispatcher = Dispatcher(time.monotonic)
    plan = make_plan(handler=print, topics=("orders",), backoff=Backoff(), virtual_partitions=VirtualPartitions("key"))
    lane = Lane(None, plan, "orders", 0, 0, 0)  # type: ignore[arg-type]
    division = Division(Slice(lane, [record(offset)], 1) for offset in range(2))
    found: list[Lane | Slice | None] = []
    helper = threading.Thread(target=lambda: found.append(dispatcher.next()))
    helper.start()
    wait_for(lambda: dispatcher._idle == 1, 30.0, "the helper to wait")

    with dispatcher.lock:
        dispatcher.divide(division, brief=True)
        dispatcher.next_slice(division)
        called = dispatcher._coming
    dispatcher.call_helpers()
    helper.join(30.0)

    assert not called
    assert found == [division.slices[1]]
