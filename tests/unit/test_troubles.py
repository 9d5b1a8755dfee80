"""What a worker keeps of its failures in the scoreboard, where others read it after its death."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from swarm import events
from swarm.bus import Bus
from swarm.events import Event
from swarm.scoreboard import MAX_TROUBLES, Scoreboard, Trouble
from swarm.troubles import FORGET, HEARD, Troubles

TRACE = """Traceback (most recent call last):
  File "/srv/shop/shop.py", line 18, in charge
    bank.ask()
  File "/srv/lib/python3.11/site-packages/bank.py", line 3, in ask
    raise TimeoutError
TimeoutError: no answer
"""


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    made = Scoreboard.create(3)
    yield made
    made.close()


def failed(partition: int = 0, attempt: int = 1, error: str = "TimeoutError: no answer") -> Event:
    return events.ConsumeFailed("shop", "orders", partition, 5, 9, attempt, error, TRACE)


def seen(board: Scoreboard) -> list[Trouble]:
    reader = Scoreboard.attach(os.dup(board.fd))
    try:
        return sorted(reader.troubles().values(), key=lambda each: each.first_at)
    finally:
        reader.close()


def test_repeated_failures_of_one_kind_and_place_are_one_entry(board: Scoreboard) -> None:
    """With the newest offsets and attempt, how often and since when, and when it is tried again."""
    clock = Clock()
    bus = Bus([])
    Troubles(board, clock).listen(bus)

    bus.publish(failed())
    bus.publish(events.RetryScheduled("shop", "orders", 0, 5, 2, 30.0))
    clock.now = 130.0
    bus.publish(failed(attempt=2))
    bus.publish(failed(partition=1))

    first, second = seen(board)
    assert first == Trouble(
        "handler",
        "shop",
        "orders",
        0,
        5,
        9,
        2,
        100.0,
        130.0,
        2,
        0.0,
        "TimeoutError: no answer (at shop.py:18 in charge)",
    )
    assert (second.partition, second.times) == (1, 1)
    bus.publish(events.RetryScheduled("shop", "orders", 0, 5, 3, 30.0))
    assert seen(board)[0].until == 160.0


def test_what_happens_again_after_a_while_begins_anew(board: Scoreboard) -> None:
    """A broker that was away yesterday has not been away since."""
    clock = Clock()
    troubles = Troubles(board, clock)
    troubles.hear(events.ClientError("shop", "_TRANSPORT", "refused after 3 ms", False, 1))
    clock.now += FORGET / 2
    troubles.hear(events.ClientError("shop", "_TRANSPORT", "refused after 7 ms", False, 9))
    assert [(each.first_at, each.times, each.text) for each in seen(board)] == [
        (100.0, 2, "_TRANSPORT: refused after 7 ms")
    ]

    clock.now += FORGET + 1.0
    troubles.hear(events.ClientError("shop", "_TRANSPORT", "refused", False, 1))

    assert [(each.first_at, each.times) for each in seen(board)] == [(clock.now, 1)]


def test_they_outlive_the_process_and_the_oldest_goes_first(board: Scoreboard) -> None:
    """A successor finds them, and has room for its own."""
    clock = Clock()
    for number in range(MAX_TROUBLES):
        clock.now += 1.0
        Troubles(board, clock).hear(failed(partition=number))  # each a process of its own
    board.clear()
    clock.now += 1.0
    Troubles(board, clock).hear(failed(partition=500))

    partitions = [each.partition for each in seen(board)]
    assert len(partitions) == MAX_TROUBLES
    assert (partitions[0], partitions[-1]) == (1, 500)


def test_a_half_written_entry_is_left_out_and_written_over(board: Scoreboard) -> None:
    """The writer was killed in the middle."""
    clock = Clock()
    Troubles(board, clock).hear(failed())
    [slot] = board.troubles()
    from swarm import scoreboard

    board.ints[scoreboard._TROUBLE_AT + slot * scoreboard._TROUBLE_WORDS] += 1
    assert seen(board) == []

    Troubles(board, clock).hear(failed(partition=7))
    assert [each.partition for each in seen(board)] == [7]


def test_every_event_that_is_heard_is_understood(board: Scoreboard) -> None:
    """Made of whatever: an event that changes its fields has to be followed here."""
    from dataclasses import fields

    made: dict[str, Any] = {"str": "x", "int": 1, "float": 1.0, "bool": False, "str | None": None, "int | None": None}
    made["tuple[tuple[str, int, int], ...]"] = (("orders", 1, 5),)
    made["tuple[tuple[str, int], ...]"] = (("orders", 1),)
    troubles = Troubles(board, Clock())
    for cls in HEARD:
        troubles.hear(cls(**{field.name: made[str(field.type)] for field in fields(cls)}))

    assert len(seen(board)) == len(HEARD) - 1  # RetryScheduled only says when
