"""A message is set aside for what it did alone, and more than once; not for what its batch did, nor for a moment's trouble."""

from __future__ import annotations

from typing import Any

import pytest

from swarm import Backoff, DeadLetter
from swarm.events import RetryScheduled
from swarm.message import Messages
from swarm.plan import make_plan
from tests.unit.stage import TOPIC, on_stage


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
@pytest.mark.parametrize("attempts", [2, 3, 4])
def test_a_healthy_message_that_fails_once_alone_is_not_set_aside(attempts: int, delivery: str) -> None:
    """The database is away until the search has come to one message: that one is healthy, and so are all others."""
    runs: list[list[int]] = []

    def handler(messages: Messages, consumer: Any) -> None:
        runs.append([message.offset for message in messages])
        if [0] not in runs[:-1]:
            raise OSError("the database is away")

    with on_stage(plan_of(handler, attempts, delivery=delivery), range(4)) as stage:
        stage.assign()
        stage.settle()
        stage.stop()

        assert runs[: attempts + 3] == [[0, 1, 2, 3]] * attempts + [[0, 1], [0], [0]]
        assert not stage.broker.letters
        assert stage.broker.committed == {(TOPIC, 0): 4}


def test_a_message_that_fails_twice_alone_is_set_aside_and_the_wait_between_is_short() -> None:
    """The backoff of a first retry: not of so many failures in a row, most of which were the batch's."""
    runs: list[list[int]] = []

    def handler(messages: Messages) -> None:
        runs.append([message.offset for message in messages])
        if 1 in runs[-1]:
            raise OSError

    with on_stage(plan_of(handler, 3), range(4)) as stage:
        stage.assign()
        stage.settle()

        assert runs == [[0, 1, 2, 3]] * 3 + [[0, 1], [0], [1], [1], [2, 3]]
        [(offset, headers)] = stage.broker.letters
        assert (offset, headers["swarm.attempts"]) == (1, b"6")
        assert [event.seconds for event in stage.heard(RetryScheduled)] == [1.0, 2.0, 1.0]


def test_where_one_attempt_is_all_a_message_gets_one_failure_alone_is_enough() -> None:
    """`max_attempts=1` sets aside at once."""
    runs: list[list[int]] = []

    def handler(messages: Messages) -> None:
        runs.append([message.offset for message in messages])
        if 1 in runs[-1]:
            raise OSError

    with on_stage(plan_of(handler, 1), range(2)) as stage:
        stage.assign()
        stage.settle()

        assert runs == [[0, 1], [0], [1]]
        assert [offset for offset, _ in stage.broker.letters] == [1]


def test_a_single_message_gets_no_more_than_its_attempts() -> None:
    """It has been alone from the beginning."""
    runs: list[int] = []

    def handler(messages: Messages) -> None:
        runs.append(messages.first_offset)
        raise OSError

    with on_stage(plan_of(handler, 3), range(1)) as stage:
        stage.assign()
        stage.settle()

        assert runs == [0, 0, 0]
        assert [headers["swarm.attempts"] for _, headers in stage.broker.letters] == [b"3"]


def test_what_the_application_decides_needs_no_second_proof() -> None:
    """It has seen the error, and said so."""
    runs: list[list[int]] = []

    def handler(messages: Messages) -> None:
        runs.append([message.offset for message in messages])
        if 1 in runs[-1]:
            raise OSError

    letter = DeadLetter("dead", 5, lambda error, attempt: "dead_letter")
    plan = make_plan(handler=handler, topics=(TOPIC,), max_messages=4, dead_letter=letter)
    with on_stage(plan, range(2)) as stage:
        stage.assign()
        stage.settle()

        assert runs == [[0, 1], [0], [1]]
        assert [offset for offset, _ in stage.broker.letters] == [1]


def plan_of(handler: Any, attempts: int, **options: Any) -> Any:
    backoff = Backoff(initial=1.0, factor=2.0, jitter=0.0)
    letter = DeadLetter("dead", attempts)
    return make_plan(handler=handler, topics=(TOPIC,), max_messages=4, dead_letter=letter, backoff=backoff, **options)


def test_a_dead_letter_in_a_transaction_counts_once() -> None:
    """Its offset is committed with the letter, before it is taken out of what runs again."""

    def handler(message: Any, consumer: Any) -> None:
        raise ValueError("poison")

    with on_stage(plan_of(handler, 1, delivery="exactly_once", each=True), range(2)) as stage:
        stage.assign()
        stage.settle()

        assert stage.broker.letters_from == [(0, 0), (0, 1)]
        assert stage.messages == 2
