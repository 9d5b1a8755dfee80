"""Who is suspected of killing its process, and what follows for a batch."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.supervisor.suspects import MOST, Job, Suspects
from swarm.suspicion import Suspicion
from tests.unit.stage import record

KEY = ("shop", "orders", 0)


def test_a_range_that_was_in_hand_twice_is_narrowed_to_what_both_have_in_common() -> None:
    """The one that kills is in both; another partition is another matter."""
    suspects = Suspects()
    suspects.died([Job("shop", "orders", 0, 0, 99), Job("shop", "orders", 1, 0, 99)])
    suspects.died([Job("shop", "orders", 0, 50, 149)])

    assert [(each["partition"], each["first"], each["last"], each["deaths"]) for each in suspects.facts()] == [
        (0, 50, 99, 2),
        (1, 0, 99, 1),
    ]


def test_the_message_alone_in_hand_at_the_third_death_is_condemned_and_the_others_of_its_range_are_not() -> None:
    """Two deaths make the range run one by one; who dies alone is the one."""
    suspects = Suspects()
    for _ in range(2):
        suspects.died([Job(*KEY, 10, 19)])
    (condemned,) = suspects.died([Job(*KEY, 14, 14)])
    suspicion = Suspicion(suspects.facts())

    assert (condemned.first, condemned.last, condemned.condemned) == (14, 14, True)
    assert suspicion.first_step(*KEY, [record(14), record(15)]) == ("condemned", 1)
    assert suspicion.first_step(*KEY, [record(12), record(13), record(14)]) == ("alone", 1)
    assert suspicion.first_step(*KEY, [record(8), record(9), record(10)]) == ("run", 2)
    assert suspicion.first_step(*KEY, [record(20), record(21)]) == ("run", 2)
    assert suspicion.deaths(*KEY, 14) == 3


def test_the_slices_of_a_batch_die_one_death_together() -> None:
    """They lie between each other: no message is in all of them, and the one that kills may be in the last."""
    suspects = Suspects()
    for _ in range(2):
        suspects.died([Job(*KEY, first, 16 + first) for first in range(4)])

    assert [(each["first"], each["last"], each["deaths"]) for each in suspects.facts()] == [(0, 19, 2)]


def test_nobody_is_condemned_for_a_death_beside_others() -> None:
    """A long-running job went on beside it: which of the two it was, nobody knows, however often."""
    suspects = Suspects()
    for _ in range(5):
        suspects.died([Job(*KEY, 14, 14), Job("shop", "orders", 1, 7, 7)])

    assert [each["condemned"] for each in suspects.facts()] == [False, False]
    assert [each.condemned for each in suspects.died([Job("shop", "orders", 1, 7, 7)])] == [True]


def test_of_too_many_the_oldest_is_forgotten_but_no_condemned_one() -> None:
    """A condemned message that is held would kill again."""
    suspects = Suspects()
    for _ in range(3):
        suspects.died([Job(*KEY, 14, 14)])
    suspects.died([Job("shop", "orders", partition, 7, 7) for partition in range(1, MOST + 5)])
    first, second, *_ = suspects.facts()

    assert len(suspects.facts()) == MOST
    assert (first["first"], first["condemned"]) == (14, True)
    assert second["partition"] == 6


def test_what_was_committed_is_nobodys_worry_any_more() -> None:
    """A range is forgotten when the group has passed all of it, and not before."""
    suspects = Suspects()
    suspects.died([Job(*KEY, 10, 19)])

    assert not suspects.passed(*KEY, 19)
    assert suspects
    assert suspects.passed(*KEY, 20)
    assert not suspects


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_is_in_hand_a_killer_is_condemned_in_the_end_and_nobody_else_is(seed: int) -> None:
    """Random batches over several partitions, some threads at once, one or two killers: only they are condemned, and each after at
    most a handful of deaths."""
    chance = random.Random(seed)
    killers = {(chance.randrange(3), chance.randrange(60)) for _ in range(chance.randint(1, 2))}
    done = dict.fromkeys(range(3), 0)
    condemned: set[tuple[int, int]] = set()
    suspects, deaths = Suspects(), 0
    while any(offset < 60 for offset in done.values()):
        suspicion = Suspicion(suspects.facts())
        jobs: list[tuple[int, list[Any]]] = []
        for partition in chance.sample(range(3), chance.randint(1, 3)):
            batch = [record(offset, partition) for offset in range(done[partition], min(60, done[partition] + 20))]
            if not batch:
                continue
            step, count = suspicion.first_step("shop", "orders", partition, batch)
            if step == "condemned":
                condemned.add((partition, done[partition]))
                done[partition] += 1
                suspects.passed("shop", "orders", partition, done[partition])
            elif step == "alone":
                jobs = [(partition, batch[:1])]
                break
            else:
                jobs.append((partition, batch[:count]))
        dying = [job for job in jobs if any((job[0], raw.offset()) in killers for raw in job[1])]
        if dying:
            deaths += 1
            suspects.died(Job("shop", "orders", p, batch[0].offset(), batch[-1].offset()) for p, batch in jobs)
            continue
        for partition, batch in jobs:
            done[partition] = batch[-1].offset() + 1
            suspects.passed("shop", "orders", partition, done[partition])

    assert condemned == killers
    assert deaths <= 4 * len(killers) + 2


@pytest.mark.parametrize("offset", [9, 20])
def test_a_message_beside_the_range_is_under_no_suspicion(offset: int) -> None:
    """The ends belong to the range, their neighbours do not."""
    suspicion = Suspicion(
        [
            {
                **dict(zip(("group", "topic", "partition"), KEY, strict=True)),
                "first": 10,
                "last": 19,
                "deaths": 2,
                "condemned": False,
            }
        ]
    )

    assert suspicion.first_step(*KEY, [record(offset)]) == ("run", 1)
    assert suspicion.deaths(*KEY, offset) == 0
