"""Which lane runs next: none twice at once, none forgotten, none while it may not. Most of it on one thread and no clock."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import Backoff
from swarm.dispatch import Dispatcher
from swarm.lane import Lane
from swarm.plan import make_plan
from tests.unit.stage import record


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
            return self.dispatcher.next()
        except Nothing:
            return None

    def done(self, lane: Lane) -> None:
        with self.dispatcher.lock:
            self.dispatcher.done(lane)
            self.dispatcher.offer(lane, self.now)


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
        while (lane := dispatcher.next()) is not None:
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
