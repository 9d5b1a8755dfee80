"""Tens of thousands of random schedules against the pure parts: lanes, offsets, outcome, slices, rates. No thread, no broker, no clock.

`make check` plays a few of each; `make simulation` (`SWARM_SCHEDULES=5000`) as many as it is told to. Every schedule
is a function of its seed, which a failure names: `SWARM_SEED=N SWARM_SCHEDULES=1` plays that one again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from swarm import Backoff, DeadLetter, VirtualPartitions
from swarm.flow import Bucket
from swarm.lane import Aside, Lane
from swarm.outcome import Failure, Narrow, Retry, SetAside, Skip, after_failure
from swarm.plan import RateLimit, make_plan
from swarm.virtual import Division, Slice, split
from tests.unit.stage import TOPIC, record
from tests.unit.world import World, all_combinations

SCHEDULES = int(os.environ.get("SWARM_SCHEDULES", "60"))
FIRST = int(os.environ.get("SWARM_SEED", "0"))


def play(schedule: Callable[[random.Random], None], count: int = SCHEDULES) -> None:
    for seed in range(FIRST, FIRST + count):
        try:
            schedule(random.Random(seed))
        except AssertionError as error:
            raise AssertionError(f"{error}\nseed {seed}: SWARM_SEED={seed} SWARM_SCHEDULES=1") from error


def a_log(chance: random.Random, most: int = 60) -> list[int]:
    """Offsets with gaps, as compaction and transactions leave them."""
    offset, log = -1, []
    for _ in range(chance.randint(1, most)):
        offset += 1 if chance.random() < 0.8 else chance.randint(2, 6)
        log.append(offset)
    return log


class Course:
    """One partition's way through assignments: what a poller feeds, what a handler does, and what is done by then."""

    def __init__(self, chance: random.Random, *, each: bool, manual: bool, virtual: bool) -> None:
        self.chance = chance
        self.each, self.manual = each, manual
        self.attempts = chance.randint(1, 4)
        self.plan = make_plan(
            handler=print,
            topics=(TOPIC,),
            each=each,
            max_messages=chance.randint(1, 12),
            offsets="manual" if manual else "automatic",
            dead_letter=DeadLetter("dead", self.attempts),
            backoff=Backoff(initial=1.0, factor=2.0, maximum=8.0, jitter=0.0),
            virtual_partitions=VirtualPartitions() if virtual else None,
        )
        self.log = a_log(chance)
        self.keys = {offset: chance.choice([None, b"a", b"b", b"c"]) for offset in self.log}
        self.poison = {offset for offset in self.log if chance.random() < 0.1}
        self.done: set[int] = set()
        self.aside: list[int] = []
        self.runs = 0
        self.now = 0.0
        self.committed = 0
        self.most_runs = 0
        self.calm = False
        self.lane = self.assign()

    def assign(self) -> Lane:
        """An epoch begins: at what was committed, with nothing in hand."""
        lane = Lane(None, self.plan, TOPIC, 0, self.committed, 0)  # type: ignore[arg-type]
        lane.phase = "running"
        return lane

    def play(self) -> None:
        while self.lane.frontier <= self.log[-1]:
            self.runs += 1
            assert self.runs < 100 * len(self.log) + 100, (
                f"it does not end: frontier {self.lane.frontier} of {self.log}"
            )
            self.calm = self.runs > 4 * len(self.log)
            self.step()
            frontier = self.lane.settled_frontier()
            undone = [o for o in self.log if o < frontier and o not in self.done and o not in self.aside]
            assert not undone, f"the frontier {frontier} passes {undone}"
            assert self.lane.taken_end >= frontier or self.lane.start >= frontier

        assert sorted(set(self.aside)) == sorted(self.poison), "not the poison, and nothing but it, was set aside"

    def step(self) -> None:
        lane, chance = self.lane, self.chance
        what = chance.random()
        exhausted = not lane.has_work and lane.fetch_next > self.log[-1]
        if (what < 0.05 and not self.calm) or (
            exhausted and self.manual
        ):  # what is not marked waits for the next owner
            self.committed = lane.settled_frontier()
            self.lane = self.assign()
        elif what < 0.1 and not self.calm:
            target = chance.choice(self.log)
            if target < lane.frontier:  # as `Group._seek` does it
                lane.forget_all()
                lane.fetch_next = lane.taken_end = lane.retry_from = target
                lane.frontier = lane.unmarked_end = target
        elif what < 0.4 or not lane.has_work:
            self.fetch()
        elif lane.aside:
            self.aside.append(lane.aside[0].message.offset())
            lane.settle_aside()
        else:
            lane.take()
            lane.halt = lane.suppress = False
            if self.plan.virtual_partitions is not None and not (lane.attempt > 1 or lane.narrow or lane.blamed):
                self.divided()
            else:
                self.whole()

    def fetch(self) -> None:
        """The client hands out what comes next, now and then with some that were seen already."""
        ahead = [offset for offset in self.log if offset >= self.lane.fetch_next - self.chance.choice([0, 0, 3])]
        if ahead:
            self.lane.append([record(o, key=self.keys[o]) for o in ahead[: self.chance.randint(1, 15)]])

    def handle(self, part: Lane | Slice, batch: list[int]) -> int:
        """The application: marks what it likes, raises at poison; returns how many it did."""
        for number, offset in enumerate(batch):
            if offset in self.poison:
                raise OSError(offset)
            if self.each:
                if not self.manual or self.calm or self.chance.random() < 0.7:
                    part.mark(offset)
                    self.note(part, batch[: number + 1])
                else:
                    part.retry_from = part.unmarked_end = offset + 1
            elif self.chance.random() < 0.1:
                part.mark(offset)
                self.note(part, batch[: number + 1])
        if self.manual and not self.each and (self.calm or self.chance.random() < 0.8):
            part.mark(batch[-1])
            self.note(part, batch)
        if not self.manual:
            self.done.update(batch)
        return len(batch)

    def note(self, part: Lane | Slice, batch: list[int]) -> None:
        if isinstance(part, Slice) or part.strict:
            self.done.update(batch)
        else:
            self.done.update(offset for offset in self.log if offset <= batch[-1])

    def whole(self) -> None:
        lane = self.lane
        batch = [message.offset() for message in lane.batch]
        records = list(lane.batch)
        began = lane.retry_from
        try:
            done = self.handle(lane, batch)
        except OSError as error:
            culprit = records[batch.index(error.args[0])] if self.each else None
            size = lane.settle_failure(began, culprit)
            if size:
                self.judge(Failure(size, lane.failed, self.each or size == 1, lane.tries, lane.alone), size)
        else:
            lane.settle_success(done)

    def judge(self, failure: Failure, size: int) -> None:
        match after_failure(self.plan, failure, 0.5):
            case Retry(delay):
                assert failure.tries < self.attempts or (failure.size == 1 and failure.alone == 1 < self.attempts)
                self.now += delay
            case Narrow(smaller):
                self.lane.search(smaller, self.lane.again[size - 1].offset() + 1)
            case SetAside():
                self.lane.aside.append(Aside(self.lane.again[0], "", failure.tries))
            case other:
                raise AssertionError(f"nobody asked for {other}")

    def divided(self) -> None:
        lane = self.lane
        assert self.plan.virtual_partitions is not None
        parts = split(lane.batch, self.plan.virtual_partitions, 3)
        lane.division = division = Division(Slice(lane, part, 1) for part in parts)
        for part in self.chance.sample(division.slices, len(division.slices)):
            lane.runner = lambda part, batch, attempt: self.handle(part, [message.offset() for message in batch])
            part.run()
            assert all(o in self.done or o in self.aside for o in self.log if o < lane.settled_frontier())
        failed = [part for part in division.slices if part.failure is not None]
        for part in failed:
            assert isinstance(part.failure, OSError), part.failure
        lane.frontier = lane.reached()
        lane.division = None
        lane.settle_slices(division, bool(failed))
        if failed and lane.again:
            size = len(lane.again)
            culprits = [part.undone()[0] for part in failed]
            times = lane.blamed.get(culprits[0].offset(), 1)
            verdict = after_failure(self.plan, Failure(size, times, self.each or size == 1, times, times), 0.5)
            if isinstance(verdict, (SetAside, Skip)):
                lane.aside.extend(Aside(message, "", 1) for message in culprits)
            else:
                self.judge(Failure(size, times, self.each or size == 1, times, times), size)


@pytest.mark.parametrize("virtual", [False, True], ids=["whole", "virtual"])
@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize("each", [False, True], ids=["batch", "each"])
def test_a_lane_brings_every_message_to_its_end_and_its_frontier_passes_none(
    each: bool, manual: bool, virtual: bool
) -> None:
    """Over epochs, seeks, retries and searches: done or set aside, and set aside only what fails."""
    play(lambda chance: Course(chance, each=each, manual=manual, virtual=virtual).play())


def test_a_rate_is_kept_and_used_up_whatever_is_asked_for_and_given_back() -> None:
    """Any stretch of time sees at most the limit and its pace; who asks often enough gets all of it."""

    def schedule(chance: random.Random) -> None:
        limit = RateLimit(chance.randint(1, 40), chance.choice([0.1, 1.0, 60.0]))
        pace = limit.messages / limit.seconds
        bucket, now, ran = Bucket(limit), chance.uniform(0.0, 1e6), 0
        began, level = now, 0.0
        for _ in range(chance.randint(1, 60)):
            pause = chance.choice([0.0, chance.uniform(0.0, limit.seconds), bucket.wait(now) + 1e-6])
            now += pause
            level = max(0.0, level - pause * pace)
            granted = bucket.take(chance.randint(1, 60), now)
            back = chance.randint(0, granted) if chance.random() < 0.3 else 0
            bucket.give_back(back)
            level += granted - back
            ran += granted - back
            assert level <= limit.messages + 1e-3, f"{level} of {limit} at once"
            assert ran <= limit.messages + (now - began) * pace + 1e-3
            assert granted or bucket.wait(now) > 0, "nothing is granted, and nobody has to wait"

    play(schedule)


def test_whole_lives_of_every_combination() -> None:
    """The real group, commits, dispatcher and processor on a stage, as many lives as schedules, spread over the combinations."""
    legal = [combination for combination in all_combinations() if combination.legal]
    for seed in range(FIRST, FIRST + SCHEDULES):
        combination = legal[seed % len(legal)]
        try:
            World(combination, seed).play()
        except AssertionError as error:
            again = f'python -m tests.unit.test_combinations "{combination}" {seed}'
            raise AssertionError(f"{error}\n{again}") from error
