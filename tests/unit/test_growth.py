"""What the samples of a process's memory say: properties of trend and verdict, without a process."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.growth import FEWEST, SHORTEST, WORTH, Contents, Sample, Trend, judge, trend

MB = 1 << 20

quickly = settings(max_examples=30, deadline=None)

ages = st.integers(int(SHORTEST) + 1, 30 * 86400)
counts = st.integers(FEWEST, 300)
bases = st.integers(20 * MB, 4096 * MB)


def samples(rss: Callable[[float], float], seconds: float, count: int, rate: float = 50.0) -> list[Sample]:
    """`count` samples of a process that handles `rate` messages a second."""
    times = [seconds * number / (count - 1) for number in range(count)]
    return [(time, int(rss(time)), int(time * rate)) for time in times]


def verdict(some: list[Sample], contents: Contents | None = None) -> str:
    return judge(trend(some), contents, 0, 0, some[-1][1] if some else 0).verdict


@quickly
@given(ages, counts, bases, st.floats(0.2, 20))
def test_even_growth_is_a_suspected_leak(seconds: int, count: int, base: int, factor: float) -> None:
    """However fast or slow, long or short, as soon as it is more than noise."""
    growth = max(8 * MB, base * 0.2) * (1 + factor)

    some = samples(lambda time: base + growth * time / seconds, seconds, count)

    assert verdict(some) == "leak suspected"


@quickly
@given(ages, counts, bases, st.randoms(use_true_random=False))
def test_noise_is_no_growth(seconds: int, count: int, base: int, random: object) -> None:
    """Up and down by a megabyte."""
    some = samples(lambda _: base + random.uniform(-MB, MB) / 2, seconds, count)  # type: ignore[attr-defined]

    assert verdict(some) == "flat"


@quickly
@given(ages, st.integers(40, 300), bases, st.floats(1, 8))
def test_what_stood_for_the_later_half_is_flat_however_much_it_grew(
    seconds: int, count: int, base: int, factor: float
) -> None:
    """Imports, pools and the first batches."""
    some = samples(lambda time: base * (1 + factor * min(1.0, 3 * time / seconds)), seconds, count)

    assert verdict(some) == "flat"


@quickly
@given(ages, st.integers(60, 300), bases, st.floats(3.5, 6))
def test_growth_that_dies_down_is_no_leak(seconds: int, count: int, base: int, constants: float) -> None:
    """A cache that fills up: exponential, looked at after some of its time constants."""
    some = samples(lambda time: base + base * (1 - math.exp(-constants * time / seconds)), seconds, count)

    assert verdict(some) in ("warm-up", "flat")


@quickly
@given(ages, counts, bases)
def test_shrinking_is_flat(seconds: int, count: int, base: int) -> None:
    """And its rate is negative."""
    some = samples(lambda time: base - 0.5 * base * time / seconds, seconds, count)

    found = trend(some)

    assert found is not None
    assert found.per_hour < 0
    assert verdict(some) == "flat"


@quickly
@given(st.lists(st.tuples(st.floats(0, 1e7), st.integers(0, 1 << 45), st.integers(0, 1 << 40)), max_size=60))
def test_any_samples_get_a_verdict(some: list[Sample]) -> None:
    """Also nonsense, in any order: never an exception, and "unknown" only where there are too few."""
    found = trend(some)

    said = judge(found, None, 3, 1 << 30, 1 << 20)

    assert (said.verdict == "unknown") == (found is None)
    assert said.why
    if len(some) >= FEWEST and max(some)[0] - min(some)[0] >= SHORTEST:
        assert found is not None


@quickly
@given(st.permutations(samples(lambda time: 50 * MB + MB * time, 120.0, 40)))
def test_the_order_of_samples_does_not_matter(some: list[Sample]) -> None:
    assert trend(some) == trend(sorted(some))


@quickly
@given(ages, counts, bases, st.integers(WORTH, 2048 * MB), st.sampled_from(["queued", "lanes", "unused"]))
def test_what_waits_or_is_unused_is_no_leak(seconds: int, count: int, base: int, growth: int, what: str) -> None:
    """Growth of which most is in queues, or free inside the allocators, is called so, whether it goes on or not."""
    contents = Contents(
        queued=growth if what == "queued" else 0,
        lanes=growth if what == "lanes" else 0,
        unused=growth if what == "unused" else 0,
    )
    going_on = samples(lambda time: base + growth * time / seconds, seconds, count)
    over = samples(lambda time: base + (growth if time > seconds / 4 else 0), seconds, count)

    wanted = {"queued": "held by librdkafka's queue", "lanes": "held in the lanes", "unused": "fragmented"}[what]
    assert verdict(going_on, contents) == wanted
    assert verdict(over, contents) == wanted


def test_nothing_is_concluded_from_growth_while_tracing_takes_memory_itself() -> None:
    """It would be memory of C code, growing by gigabytes an hour."""
    found = trend(samples(lambda time: 50 * MB + 2 * MB * time, 120.0, 40))

    assert judge(found, Contents(0, 0, 0, 0, 2 * MB, "dict"), 2, 0, 290 * MB).verdict == "leak suspected"
    traced = judge(found, Contents(0, 0, 0, 0, 2 * MB, "dict", traced=150 * MB), 2, 0, 290 * MB)
    assert traced.verdict == "unknown"
    assert "150M" in traced.why
    assert traced.next[-1] == "then: swarmctl memory 2 --trace-off"


@quickly
@given(ages, counts, bases)
def test_a_leak_beside_a_small_queue_is_a_leak(seconds: int, count: int, base: int) -> None:
    """A queue of some megabytes does not explain hundreds."""
    growth = max(200 * MB, base)
    some = samples(lambda time: base + growth * time / seconds, seconds, count)

    assert verdict(some, Contents(queued=20 * MB, unused=10 * MB)) == "leak suspected"


def test_a_leak_that_began_of_late_is_seen_in_a_process_that_stood_for_days() -> None:
    """Its recent samples rise evenly, to where it never was."""
    old = samples(lambda _: 100 * MB, 10 * 86400, 120)
    last = old[-1][0]
    recent = [(last + 5 * n, int(100 * MB + n * 0.5 * MB), 50 * int(last + 5 * n)) for n in range(1, 121)]

    found = trend(old + recent)

    assert found is not None
    assert found.recently
    assert judge(found, None, 0, 0, 160 * MB).verdict == "leak suspected"


def test_rates_are_by_time_and_by_message() -> None:
    """1 MiB a second, 50 messages a second."""
    found = trend(samples(lambda time: 50 * MB + MB * time, 100.0, 50))

    assert found is not None
    assert found.per_hour == pytest.approx(3600 * MB, rel=0.01)
    assert found.per_message == pytest.approx(MB / 50, rel=0.05)


def test_a_leak_says_what_it_consists_of_and_when_the_limit_is_reached() -> None:
    """In Python's objects, or not; with the type, the time that is left, and the next command."""
    found = trend(samples(lambda time: 50 * MB + MB * time, 100.0, 50))
    python = judge(found, Contents(0, 0, 0, 0, 90 * MB, "bytes (11,000, 88M)"), 2, 1200 * MB, 150 * MB)
    native = judge(found, Contents(0, 0, 0, 0, 2 * MB, "dict"), 2, 0, 150 * MB)

    assert "bytes (11,000, 88M)" in python.why
    assert "memory_limit is reached in 17m" in python.why
    assert "swarmctl memory 2 --growth 30" in python.next[0]
    assert "C code" in native.why


def test_growth_without_messages_is_said_to_be_so() -> None:
    idle = samples(lambda time: 50 * MB + MB * time, 100.0, 50, rate=0.0)

    found = trend(idle)

    assert found is not None
    assert found.per_message is None
    assert "without handling messages" in judge(found, None, 0, 0, 150 * MB).why


def test_without_a_trend_only_contents_count() -> None:
    """A process that has just started."""
    assert judge(None, None, 0, 0, 60 * MB).verdict == "unknown"
    assert judge(None, Contents(unused=70 * MB), 0, 0, 100 * MB).verdict == "fragmented"
    assert isinstance(trend(samples(lambda _: 1.0, 5.0, 50)), Trend | None)
