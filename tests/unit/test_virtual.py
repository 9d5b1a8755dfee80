"""How a batch is divided, what is done of it while slices run and afterwards, and what the options refuse. Values in, values out."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import VirtualPartitions
from swarm.errors import ConfigurationError
from swarm.lane import Lane
from swarm.message import Message
from swarm.plan import make_plan
from swarm.virtual import Division, Slice, ranges, split
from tests.unit.stage import TOPIC, on_stage, record

BY_KEY = VirtualPartitions()
KEYS = st.lists(st.sampled_from([None, b"a", b"b", b"c", b"d", b"e"]), min_size=1, max_size=60)


def records(keys: list[bytes | None]) -> list[Any]:
    return [record(offset, key=key) for offset, key in enumerate(keys)]


def offsets(slices: list[list[Any]]) -> list[list[int]]:
    return [[message.offset() for message in part] for part in slices]


@given(KEYS, st.integers(1, 8))
def test_messages_with_one_key_are_in_one_slice_and_in_their_order(keys: list[bytes | None], most: int) -> None:
    """None is a key like any other; every message is in one slice, and no slice is empty."""
    slices = split(records(keys), BY_KEY, most)

    homes: dict[bytes | None, int] = {}
    for number, part in enumerate(offsets(slices)):
        assert part
        assert part == sorted(part)
        assert all(homes.setdefault(keys[offset], number) == number for offset in part)
    assert sorted(itertools.chain.from_iterable(offsets(slices))) == list(range(len(keys)))
    assert len(slices) <= min(most, len(set(keys)))


@given(KEYS, st.integers(2, 8))
def test_slices_are_as_even_as_their_keys_allow(keys: list[bytes | None], most: int) -> None:
    """The largest key goes first, each to the smallest slice: no slice is larger than the smallest one by more than one key; by two
    where keys are no more than an eighth of a slice, for those are dealt out in runs."""
    slices = split(records(keys), BY_KEY, most)

    sizes, largest = [len(part) for part in slices], max(Counter(keys).values())
    assert max(sizes) - min(sizes) <= max(largest, 2 * (len(keys) // (8 * len(sizes))))


def test_many_small_keys_fill_up_beside_a_large_one() -> None:
    """Half of the messages have one key, which has a slice for itself; the others share out the rest evenly."""
    keys: list[bytes | None] = [b"large" if number % 2 else b"%d" % number for number in range(500)]

    sizes = sorted(len(part) for part in split(records(keys), BY_KEY, 4))

    assert sizes[:3] in ([83, 83, 84], [82, 84, 84])
    assert sizes[3] == 250


def test_one_slice_is_all_there_is_where_nothing_can_run_at_once() -> None:
    """A lone message, one key, a maximum of one: and then nobody asks the partitioner in vain."""

    def never(message: Message) -> Any:
        raise AssertionError("asked in vain")

    batch = records([b"a", b"b", b"a"])

    assert split(batch, VirtualPartitions(by=never), 1) == [batch]
    assert split(batch[:1], VirtualPartitions(by=never), 4) == [batch[:1]]
    assert offsets(split(records([b"a"] * 3), BY_KEY, 4)) == [[0, 1, 2]]


def test_a_callable_sees_the_message_with_its_value() -> None:
    """The deserializer is at hand for it."""
    batch = [record(number, value=b"%d" % number) for number in range(6)]
    slices = split(batch, VirtualPartitions(by=lambda message: message.value % 2), 4, int)

    assert sorted(offsets(slices)) == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("answer", [[], {}, set()], ids=["list", "dict", "set"])
def test_an_answer_that_cannot_be_hashed_is_a_type_error(answer: Any) -> None:
    """It reaches the caller, who runs the batch whole and says so."""
    with pytest.raises(TypeError, match="unhashable"):
        split(records([b"a", b"b"]), VirtualPartitions(by=lambda message: answer), 2)


def test_what_a_partitioner_raises_reaches_the_caller() -> None:
    """The same for whatever it raises."""

    def raises(message: Message) -> Any:
        raise LookupError("no tenant")

    with pytest.raises(LookupError, match="no tenant"):
        split(records([b"a", b"b"]), VirtualPartitions(by=raises), 2)


@pytest.mark.parametrize(
    "options",
    [
        {"by": None},
        {"by": "value"},
        {"by": 3},
        {"maximum": 0},
        {"maximum": 257},
        {"maximum": True},
        {"maximum": "3"},
        {"maximum": 2.5},
    ],
    ids=str,
)
def test_virtual_partitions_refuse_what_could_not_work(options: dict[str, Any]) -> None:
    """One readable error that names the option; never a TypeError of Python's."""
    with pytest.raises(ConfigurationError, match=rf"VirtualPartitions\.{next(iter(options))}: expected"):
        VirtualPartitions(**options)


def test_an_async_partitioner_is_refused() -> None:
    """Its answers would be coroutines, each a key of its own."""

    async def tenant(message: Message) -> Any:
        return message.key

    with pytest.raises(ConfigurationError, match="plain function"):
        VirtualPartitions(by=tenant)


def test_ranges_are_cut_where_an_offset_is_missing() -> None:
    """And of nothing there are none."""
    batch = [record(offset) for offset in (3, 4, 7, 9, 10)]

    assert [[message.offset() for message in part] for part in ranges(batch)] == [[3, 4], [7], [9, 10]]
    assert ranges([]) == []


# -- marks in slices -------------------------------------------------------------------------------------------------


class Hand:
    """A batch in slices by hand: what their handlers mark, and what is then true of the lane."""

    def __init__(self, keys: list[bytes | None], most: int = 4, **options: Any) -> None:
        plan = make_plan(handler=print, topics=(TOPIC,), virtual_partitions=BY_KEY, **options)
        self.lane = Lane(None, plan, TOPIC, 0, 0, 0)  # type: ignore[arg-type]
        self.lane.append(records(keys))
        self.lane.take()
        self.lane.phase = "running"
        self.division = Division(Slice(self.lane, part, 1) for part in split(self.lane.batch, BY_KEY, most))
        self.lane.division = self.division

    def slice_of(self, offset: int) -> Slice:
        part = self.division.slice_of(offset)
        assert part is not None
        return part

    def run(self, part: Slice, handler: Any = lambda part, records, attempt: len(records)) -> None:
        self.lane.runner = handler
        part.run()

    def settle(self, *, failed: bool = False) -> list[int]:
        self.lane.frontier = self.lane.reached()
        self.lane.division = None
        self.lane.settle_slices(self.division, failed)
        return [message.offset() for message in self.lane.again]


def raises(part: Slice, batch: list[Any], attempt: int) -> int:
    raise RuntimeError("no")


def test_what_slices_have_done_without_a_gap_may_be_committed_while_others_run() -> None:
    """The collective frontier stands before the first message that is not done."""
    hand = Hand([b"a", b"b", b"a", b"b"])

    hand.run(hand.slice_of(1))
    assert hand.lane.settled_frontier() == 0
    hand.run(hand.slice_of(0))

    assert hand.lane.settled_frontier() == 4


def test_only_the_slice_that_failed_runs_again_and_the_frontier_waits_for_it() -> None:
    """The other slice is done, and stays done."""
    hand = Hand([b"a", b"b", b"a", b"b"])
    hand.run(hand.slice_of(0))
    hand.run(hand.slice_of(1), raises)

    assert hand.settle(failed=True) == [1, 3]
    assert hand.lane.frontier == 1
    hand.lane.take()
    hand.lane.settle_success(2)
    assert hand.lane.frontier == 4


def test_a_mark_speaks_for_the_slice_of_its_message_whichever_thread_makes_it() -> None:
    """A handler's own thread knows no slice: the message does."""
    hand = Hand([b"a", b"b", b"a", b"b"])
    hand.slice_of(1).mark(3)

    assert hand.slice_of(0).undone() != []
    assert hand.lane.settled_frontier() == 0
    assert [message.offset() for message in hand.slice_of(1).undone()] == []


def test_a_message_that_was_returned_from_unmarked_holds_the_frontier_until_it_is_marked() -> None:
    """Manual offsets: marks of other slices, and of later batches, do not speak for it."""
    hand = Hand([b"a", b"b", b"a"], offsets="manual")
    hand.slice_of(0).mark(2)
    for part in hand.division.slices:
        hand.run(part)
    assert hand.settle() == []
    assert hand.lane.frontier == 1

    hand.lane.append([record(3, key=b"a"), record(4, key=b"a")])
    hand.lane.take()
    assert hand.lane.mark(4)
    hand.lane.settle_success(2)
    assert hand.lane.frontier == 1

    hand.lane.append([record(5, key=b"a")])
    hand.lane.take()
    assert hand.lane.mark(1)
    assert hand.lane.mark(5)
    hand.lane.settle_success(1)
    assert hand.lane.frontier == 6


def test_a_hooks_mark_speaks_for_all_before_it() -> None:
    """Where no batch runs, nobody could say which slice is meant."""
    hand = Hand([b"a", b"b", b"a"], offsets="manual")
    for part in hand.division.slices:
        hand.run(part)
    hand.settle()

    hand.lane.mark(1)
    assert hand.lane.frontier == 2
    hand.lane.mark(2)

    assert hand.lane.frontier == 3


@settings(deadline=None)
@given(KEYS, st.integers(0, 2**32), st.booleans())
def test_the_collective_frontier_never_passes_what_is_not_done(
    keys: list[bytes | None], seed: int, manual: bool
) -> None:
    """Random marks, failures and retries; each message that is below the frontier was marked, or returned from."""
    chance = random.Random(seed)
    hand = Hand(keys, most=chance.randint(2, 5), offsets="manual" if manual else "automatic")
    done: set[int] = set()

    def check() -> None:
        frontier = hand.lane.settled_frontier()
        assert set(range(frontier)) <= done, f"{frontier} with only {sorted(done)} done"

    def handler(part: Any, batch: list[Any], attempt: int) -> int:
        for number, message in enumerate(batch):
            if chance.random() < 0.1:
                raise RuntimeError("no")
            if chance.random() < 0.3:
                target = hand.division.slice_of(message.offset()) if hand.lane.division is not None else hand.lane
                assert target is not None
                target.mark(message.offset())
                done.update(other.offset() for other in batch[: number + 1])
            check()
        if not manual:
            done.update(message.offset() for message in batch)
        return len(batch)

    for part in hand.division.slices:
        hand.run(part, handler)
        check()
    failed = any(part.failure is not None for part in hand.division.slices)
    hand.settle(failed=failed)
    check()
    while hand.lane.again:
        batch = hand.lane.take()
        began = hand.lane.retry_from
        try:
            handler(None, batch, 2)
        except RuntimeError:
            hand.lane.settle_failure(began)
        else:
            hand.lane.settle_success(len(batch))
        check()

    if not manual:
        assert hand.lane.frontier == len(keys)
    else:
        assert hand.lane.frontier == min(set(range(len(keys) + 1)) - done)


# -- on the stage ----------------------------------------------------------------------------------------------------


def test_every_slice_makes_the_one_producer_that_the_run_waits_for() -> None:
    """Two threads that ask at once get the same: for the outputs of another one nobody would wait."""
    both_inside = threading.Barrier(2)
    made: list[object] = []
    found: list[object] = []

    def make() -> Any:
        made.append(object())
        with contextlib.suppress(threading.BrokenBarrierError):
            both_inside.wait(0.2)
        return made[-1]

    with on_stage(make_plan(handler=print, topics=(TOPIC,))) as stage:
        lane = stage.assign()
        stage.group.make_job_producer = make  # type: ignore[method-assign]
        threads = [threading.Thread(target=lambda: found.append(lane.producer())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10.0)

    assert len(made) == 1
    assert found == made * 2
