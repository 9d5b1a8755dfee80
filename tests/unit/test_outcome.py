"""What follows from a failed run, over all plans and failures: values in, values out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from swarm import Backoff, DeadLetter
from swarm.outcome import Failure, GiveUp, Narrow, Retry, SetAside, Skip, after_failure
from swarm.plan import make_plan

FAILURES = st.builds(
    lambda size, failed, known, more, alone: Failure(
        size, failed, known, failed + more, min(alone, failed) if known or size == 1 else 0
    ),
    st.integers(1, 500),
    st.integers(1, 50),
    st.booleans(),
    st.integers(0, 20),
    st.integers(1, 50),
)
DECISIONS = st.sampled_from([None, "retry", "dead_letter", "skip"])
BACKOFF = Backoff(initial=1.0, factor=2.0, maximum=30.0, jitter=0.1)


def plan(**options: Any) -> Any:
    return make_plan(handler=print, topics=("orders",), backoff=BACKOFF, **options)


@given(FAILURES, st.floats(0.0, 1.0))
def test_without_a_dead_letter_topic_a_failed_run_is_always_repeated(failure: Failure, chance: float) -> None:
    """At least once: nothing is dropped because it failed often."""
    verdict = after_failure(plan(), failure, chance)

    assert isinstance(verdict, Retry)
    assert 0.9 <= verdict.delay <= 33.0


@given(FAILURES, st.integers(1, 10))
def test_a_message_is_set_aside_only_alone_and_after_its_attempts(failure: Failure, attempts: int) -> None:
    """Before `max_attempts` it is retried; after them the search goes on until one message is left, which has to fail twice."""
    verdict = after_failure(plan(dead_letter=DeadLetter("dead", attempts)), failure, 0.5)

    alone = failure.culprit_known or failure.size == 1
    if failure.tries < attempts or (alone and failure.alone < min(2, attempts)):
        assert isinstance(verdict, Retry)
    elif alone:
        assert verdict == SetAside()
    else:
        assert isinstance(verdict, Narrow)
        assert 1 <= verdict.size < failure.size


@given(st.integers(1, 1000), st.data())
def test_the_search_ends_within_the_logarithm_of_the_batch(size: int, data: st.DataObject) -> None:
    """However large the batch, it is about ten runs to the one message."""
    letters = plan(dead_letter=DeadLetter("dead", 1))
    runs = 0
    while not isinstance(
        verdict := after_failure(letters, Failure(size, 1, size == 1, 1 + runs, int(size == 1)), 0.5), SetAside
    ):
        assert isinstance(verdict, Narrow)
        size = verdict.size
        runs += 1

    assert runs <= 10


@given(FAILURES, st.booleans(), DECISIONS)
def test_at_most_once_never_retries(failure: Failure, letters: bool, decision: Any) -> None:
    """What failed is given up: the one message where it is known, else all that was not marked; `skip` is heard, `retry` is not."""
    options = {"dead_letter": DeadLetter("dead")} if letters else {}
    failure = replace(failure, decision=decision)
    verdict = after_failure(plan(delivery="at_most_once", **options), failure, 0.5)

    assert verdict == GiveUp(1 if failure.culprit_known else failure.size, letter=decision != "skip")


@given(FAILURES, DECISIONS, st.integers(1, 10))
def test_what_the_application_decides_goes_before_max_attempts(failure: Failure, decision: Any, attempts: int) -> None:
    """`retry` for ever, `skip` and `dead_letter` at once; but of a batch only the one message, once it stands alone."""
    failure = replace(failure, decision=decision)
    verdict = after_failure(plan(dead_letter=DeadLetter("dead", attempts)), failure, 0.5)

    alone = failure.culprit_known or failure.size == 1
    match decision:
        case "retry":
            assert isinstance(verdict, Retry)
        case "skip":
            assert verdict == Skip() if alone else isinstance(verdict, Narrow)
        case "dead_letter":
            assert verdict == SetAside() if alone else isinstance(verdict, Narrow)
        case _:
            early = failure.tries < attempts or (alone and failure.alone < min(2, attempts))
            assert isinstance(verdict, Retry) == early


def test_a_search_that_a_decision_began_sets_nothing_aside_before_its_attempts() -> None:
    """The batch failed with an error to be skipped; alone, another message fails for the first time, and nobody decides."""
    letters = plan(dead_letter=DeadLetter("dead", 5))

    assert after_failure(letters, Failure(8, 1, False, 1, 0, "skip"), 0.5) == Narrow(4)
    assert isinstance(after_failure(letters, Failure(1, 1, True, 4, 2), 0.5), Retry)
    assert after_failure(letters, Failure(1, 1, True, 5, 2), 0.5) == SetAside()


def test_the_second_try_of_a_message_alone_waits_as_long_as_a_first_retry() -> None:
    """Not as long as so many failures in a row would: most of them were of the batch it was found in."""
    letters = plan(dead_letter=DeadLetter("dead", 3))

    verdict = after_failure(letters, Failure(1, 9, True, 9, 1), 0.5)

    assert isinstance(verdict, Retry)
    assert 0.9 <= verdict.delay <= 1.1
