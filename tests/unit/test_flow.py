"""Which messages may run now, which are skipped, which wait: the four options one by one and together. The clock is an argument."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import ConfigurationError
from swarm.flow import FUTURE, LONGEST_WAIT, Bucket, admit
from swarm.message import Message
from swarm.plan import Plan, RateLimit, make_plan
from tests.unit.stage import TOPIC, record

NOW = 1_000_000.0


def plan(**options: Any) -> Plan:
    return make_plan(handler=print, topics=(TOPIC,), **options)


def aged(*ages: float) -> list[Any]:
    """Messages so old (s), with offsets from 0 on."""
    return [record(number, timestamp=(1, int((NOW - age) * 1000))) for number, age in enumerate(ages)]


def numbers(messages: list[Any]) -> list[int]:
    return [message.offset() for message in messages]


def test_messages_that_are_too_old_are_skipped_and_the_others_run() -> None:
    """Older than `expires_after`, not as old."""
    judged = admit(plan(expires_after=10.0), aged(11.0, 10.0, 9.0, 50.0), NOW, None)

    assert numbers(judged.run) == [1, 2]
    assert numbers(judged.expired) == [0, 3]
    assert judged.considered == 4


def test_a_message_before_its_time_holds_all_behind_it() -> None:
    """Also those that are due: the order of a partition stays. What stands before it runs."""
    judged = admit(plan(not_before=10.0), aged(12.0, 7.0, 20.0), NOW, None)

    assert numbers(judged.run) == [0]
    assert judged.considered == 1
    assert judged.wait == pytest.approx(3.0)


def test_a_long_wait_is_looked_at_again_after_a_minute() -> None:
    """The clock may have been wrong."""
    judged = admit(plan(not_before=86_400.0), aged(0.0), NOW, None)

    assert (judged.considered, judged.wait) == (0, LONGEST_WAIT)


def test_a_filter_keeps_what_it_answers_yes_to() -> None:
    """It sees the message, its value and its attempt."""
    seen: list[tuple[Any, int]] = []

    def wanted(message: Message) -> bool:
        seen.append((message.value, message.attempt))
        return message.offset != 1

    judged = admit(plan(filter=wanted, deserializer=len), aged(0.0, 0.0, 0.0), NOW, None, attempt=3)

    assert numbers(judged.run) == [0, 2]
    assert numbers(judged.filtered) == [1]
    assert seen == [(7, 3)] * 3


class Unsure:
    def __bool__(self) -> bool:
        raise LookupError("neither yes nor no")


def refuses(message: Message) -> Any:
    if message.offset == 2:
        raise LookupError("neither yes nor no")
    return True


@pytest.mark.parametrize(
    "wanted",
    [refuses, lambda message: Unsure() if message.offset == 2 else True],
    ids=["it raises", "its answer raises"],
)
def test_a_filter_that_fails_fails_its_message_and_no_other(wanted: Any) -> None:
    """What stands before the message runs, what stands behind it waits; the failure is kept, not raised."""
    judged = admit(plan(filter=wanted), aged(*[0.0] * 5), NOW, None)

    assert numbers(judged.run) == [0, 1]
    assert judged.considered == 2
    assert isinstance(judged.failure, LookupError)


def test_the_rate_lets_only_so_many_run_and_counts_no_skipped_one() -> None:
    """Messages that are skipped cost nothing."""
    judged = admit(plan(expires_after=10.0), aged(0.0, 20.0, 0.0, 20.0, 0.0), NOW, 2)

    assert numbers(judged.run) == [0, 2]
    assert numbers(judged.expired) == [1, 3]
    assert judged.limited
    assert judged.considered == 4


@pytest.mark.parametrize(
    "timestamp", [(0, -1), (0, 0), (1, -1), (1, int((NOW + FUTURE + 1) * 1000)), (1, 2**62)], ids=str
)
def test_a_timestamp_that_says_nothing_neither_expires_nor_waits(timestamp: tuple[int, int]) -> None:
    """None at all, a negative one, one far ahead of this machine's clock."""
    both = plan(expires_after=10.0, not_before=5.0)
    judged = admit(both, [record(0, timestamp=timestamp)], NOW, None)

    assert numbers(judged.run) == [0]


@given(st.lists(st.floats(-100.0, 100.0), max_size=20), st.one_of(st.none(), st.integers(0, 5)), st.integers(0, 2**32))
def test_every_message_is_run_skipped_or_waits_in_order(ages: list[float], allowed: int | None, seed: int) -> None:
    """The judged ones are a prefix; each of them is in one list; a reason is given wherever the prefix is not all."""
    chance = random.Random(seed)
    options: dict[str, Any] = {}
    if chance.random() < 0.5:
        options["expires_after"] = chance.uniform(20.0, 90.0)
    if chance.random() < 0.5:
        options["not_before"] = chance.uniform(0.1, 19.0)
    if chance.random() < 0.5:
        options["filter"] = lambda message: message.offset % 3
    batch = aged(*ages)
    judged = admit(plan(**options), batch, NOW, allowed)

    told = sorted(numbers(judged.run) + numbers(judged.expired) + numbers(judged.filtered))
    assert told == list(range(judged.considered))
    assert allowed is None or len(judged.run) <= allowed
    if judged.considered < len(batch):
        assert judged.wait > 0 or judged.limited
    else:
        assert judged.wait == 0


# -- the rate --------------------------------------------------------------------------------------------------------


def test_what_was_not_used_may_be_used_at_once_but_no_more_than_the_limit() -> None:
    """A pause of an hour is worth one full bucket."""
    bucket = Bucket(RateLimit(5, seconds=1.0))

    assert bucket.take(100, 0.0) == 5
    assert bucket.take(100, 0.0) == 0
    assert bucket.take(100, 3600.0) == 5


def test_it_says_how_long_the_next_message_waits() -> None:
    """And then it may run."""
    bucket = Bucket(RateLimit(2, seconds=1.0))
    bucket.take(2, 10.0)

    assert bucket.wait(10.0) == pytest.approx(0.5)
    assert bucket.take(1, 10.0 + bucket.wait(10.0)) == 1


def test_what_is_given_back_may_run_at_once() -> None:
    """Messages that were skipped, or wait for another reason."""
    bucket = Bucket(RateLimit(4))
    assert bucket.take(4, 0.0) == 4
    bucket.give_back(3)

    assert bucket.take(4, 0.0) == 3


@given(
    st.integers(1, 50),
    st.floats(0.01, 100.0),
    st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(1, 60)), max_size=40),
)
def test_no_window_of_time_sees_more_than_the_limit_and_its_pace(
    messages: int, seconds: float, course: list[tuple[float, int]]
) -> None:
    """In any stretch of t seconds at most `messages` and t times the pace; and never none for longer than `wait` says."""
    bucket, now = Bucket(RateLimit(messages, seconds)), 50.0
    ran: list[tuple[float, int]] = []
    for pause, wanted in course:
        now += pause
        granted = bucket.take(wanted, now)
        ran.append((now, granted))
        if not granted:
            wait = bucket.wait(now)
            assert 0 < wait <= seconds / messages + 1e-6
            assert Bucket.take(bucket, 1, now + wait + 1e-6) == 1
            bucket.give_back(1)
            now += wait + 1e-6

    for first in range(len(ran)):
        total = 0
        for at, granted in ran[first:]:
            total += granted
            assert total <= messages + (at - ran[first][0]) * messages / seconds + 1e-3


@pytest.mark.parametrize(
    "arguments",
    [
        (0,),
        (-1,),
        ("3",),
        (None,),
        (float("nan"),),
        (float("inf"),),
        (1, 0),
        (1, -1.0),
        (1, "1s"),
        (1, float("inf")),
        (1, float("nan")),
    ],
    ids=str,
)
def test_a_rate_that_is_none_is_refused(arguments: tuple[Any, ...]) -> None:
    """Also an endless one, which would be a division by zero in the middle of the work."""
    with pytest.raises(ConfigurationError, match="expected 1 message or more, in more than 0 seconds"):
        RateLimit(*arguments)


@pytest.mark.parametrize("name", ["expires_after", "not_before"])
@pytest.mark.parametrize("value", [0, -1.0, "10s", float("nan")], ids=str)
def test_times_have_to_be_times(name: str, value: Any) -> None:
    """The error names the option."""
    with pytest.raises(ConfigurationError, match=name):
        plan(**{name: value})


def test_a_filter_has_to_answer_at_once() -> None:
    """A coroutine is neither yes nor no, and Python takes it for yes."""

    async def wanted(message: Message) -> bool:
        return False

    with pytest.raises(ConfigurationError, match="filter: expected a plain function"):
        plan(filter=wanted)
