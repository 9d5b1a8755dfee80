"""What an application may ask for, and what it is told where it asks for what cannot work."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm import Backoff, DeadLetter
from swarm.errors import ConfigurationError
from swarm.plan import make_plan


def plan(**options: Any) -> Any:
    return make_plan(handler=print, **{"topics": ("orders",), **options})


@pytest.mark.parametrize(
    "options",
    [
        {"topics": ()},
        {"topics": (), "pattern": "("},
        {"pattern": "ord.*"},
        {"topics": ("no spaces",)},
        {"topics": ("..",)},
        {"max_messages": 0},
        {"max_messages": True},
        {"max_messages": "5"},
        {"max_wait": -1.0},
        {"max_wait": "1s"},
        {"max_wait": float("nan")},
        {"delivery": "sometimes"},
        {"offsets": "maybe"},
        {"transaction_partitions": 0, "delivery": "exactly_once"},
        {"transaction_partitions": True, "delivery": "exactly_once"},
        {"transaction_partitions": 2},
        {"initial_offset": "middle"},
        {"offset_out_of_range": "middle"},
        {"consume_timeout": 0},
        {"consume_timeout": "5m"},
        {"dead_letter": "orders.dead"},
        {"backoff": 5},
        {"deserializer": "json"},
        {"kafka": [("a", "b")]},
        {"long_running": "yes"},
        {"group": 7},
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_where_it_is_declared(options: dict[str, Any]) -> None:
    """A wrong option is one ConfigurationError that names it and what was given, not a worker that dies at the first failure."""
    with pytest.raises(ConfigurationError) as refused:
        plan(**options)

    name, value = next(iter(options.items())) if "pattern" not in options else ("pattern", None)
    assert name.removesuffix("s").replace("_", " ") in str(refused.value).replace("_", " ")
    assert value in ((), None) or str(value[0] if name == "topics" else value) in str(refused.value)


@pytest.mark.parametrize(("make", "text"), [(lambda: Backoff(factor=0.5), "factor"), (lambda: DeadLetter(""), "topic")])
def test_values_check_themselves(make: Any, text: str) -> None:
    """Also before a subscription has seen them."""
    with pytest.raises(ConfigurationError, match=text):
        make()


@given(
    initial=st.floats(0.0, 1e6),
    factor=st.floats(1.0, 1e308) | st.integers(1, 10**9),
    maximum=st.floats(0.0, 1e6),
    jitter=st.floats(0.0, 1.0),
    failed=st.integers(1, 10**9),
    chance=st.floats(0.0, 1.0),
)
def test_backoff_stays_within_its_bounds_however_often_it_failed(
    initial: float, factor: float, maximum: float, jitter: float, failed: int, chance: float
) -> None:
    """initial * factor^(k-1), at most `maximum`, spread by the jitter; never an overflow, never forever to compute."""
    delay = Backoff(initial, factor, maximum, jitter).delay(failed, chance)

    assert 0.0 <= delay <= maximum * (1 + jitter) * (1 + 1e-9)
    if failed == 1:
        assert delay == pytest.approx(min(initial, maximum) * (1 + jitter * (2 * chance - 1)))


def test_backoff_reaches_its_maximum_also_with_a_small_factor() -> None:
    """1.01 grows slowly, but it grows."""
    assert Backoff(1.0, 1.01, 30.0, 0.0).delay(1000, 0.5) == 30.0


def test_a_pattern_matches_from_the_start_as_librdkafka_does() -> None:
    """`orders.*` is not `my-orders`."""
    pattern = plan(topics=(), pattern="orders.*")

    assert pattern.matches("orders.eu")
    assert not pattern.matches("my-orders")
