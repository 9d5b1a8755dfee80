"""The short history behind "its lag grows by 3/s" and "it has not moved for 50 s"; and whose the interpreter's lock is."""

from __future__ import annotations

import os

from swarm.holding import Counts, counts, holder
from swarm.reach import split
from swarm.scoreboard import AssignedView
from swarm.supervisor.trend import INTERVAL, LOOKS, History, Movement

KEY = ("shop", "orders", 3)


def view(committed: int, high: int, position: int | None = None) -> AssignedView:
    return AssignedView(*KEY, committed if position is None else position, committed, high, 0.0)


def watched(*views: AssignedView) -> Movement:
    """What is known at the last of them, after looks at the others."""
    history = History()
    for number, each in enumerate(views[:-1]):
        history.look(number * INTERVAL, [each], [])
    return history.movement(views[-1], (len(views) - 1) * INTERVAL)


def test_looks_tell_pace_and_trend() -> None:
    """Over what was watched; one look tells nothing, and a growth needs several in a row."""
    history = History()
    assert history.due(0.0)
    history.look(0.0, [view(100, 200)], [(7, 1000)])
    assert history.movement(view(100, 200), 0.5).rate is None
    assert not history.due(INTERVAL - 0.1)

    moved = watched(view(100, 200), view(125, 240), view(150, 280), view(175, 320))

    assert (moved.rate, moved.lag_trend, moved.watched, moved.still_for) == (5.0, 3.0, 15.0, 0.0)
    assert watched(view(100, 200), view(125, 240), view(150, 280)).lag_trend is None


def test_what_is_only_not_committed_yet_is_no_growing_lag() -> None:
    """Commits come by interval: between them the lag of who keeps pace goes up and down."""
    waits = [view(0, 0), view(0, 0), view(0, 1000, 1000), view(0, 2000, 2000), view(1900, 3000, 3000)]

    assert watched(*waits).lag_trend == 0.0


def test_a_burst_that_is_being_worked_off_is_no_growing_lag() -> None:
    """It is a shrinking one, by what the last looks show."""
    burst = [view(0, 0), view(0, 0), view(50, 5000), view(1000, 5000), view(2000, 5000)]

    assert watched(*burst).lag_trend == -195.0


def test_steps_of_batches_are_no_growth() -> None:
    """What is least between them counts."""
    steps = [view(0, 0), view(0, 400), view(500, 500), view(500, 900), view(1000, 1000), view(1000, 1400)]

    for number in range(2, len(steps) + 1):
        assert (watched(*steps[:number]).lag_trend or 0.0) <= 0.0


def test_it_is_known_since_when_a_partition_does_not_move() -> None:
    """Also longer than the looks go back; a partition that goes is forgotten."""
    history = History()
    for number in range(LOOKS + 5):
        history.look(number * INTERVAL, [view(100, 200)], [])
    now = (LOOKS + 5) * INTERVAL

    assert history.movement(view(100, 200), now).still_for == now
    assert history.movement(view(101, 200), now).still_for == 0.0
    history.look(now, [], [])
    assert history.movement(view(100, 200), now).still_for == 0.0


def test_memory_has_a_trend_after_half_a_minute() -> None:
    """Of the process, not of the index."""
    history = History()
    for number in range(8):
        history.look(number * INTERVAL, [], [(7, 1000 + 50 * number)])

    assert history.memory_trend(7) == 10.0
    assert history.memory_trend(8) is None


def test_who_computes_while_others_ask_holds_the_lock() -> None:
    """Else the only one that asks for nothing; where nobody asks, nobody holds it."""
    before = {thread: Counts(0.0, 0) for thread in (1, 2, 3)}
    asks, rests, computes = Counts(0.0, 80), Counts(0.0, 1), Counts(0.3, 1)

    assert holder(before, {1: asks, 2: computes, 3: rests}, 0.4, [1, 2, 3]) == 2
    assert holder(before, {1: asks, 2: rests, 3: asks}, 0.4, [2, 3]) == 2
    assert holder(before, {1: asks, 2: rests, 3: rests}, 0.4, [2, 3]) is None
    assert holder(before, {1: rests, 2: rests, 3: computes}, 0.4, [2, 3]) is None
    little = Counts(0.04, 1)  # others use the processor, too
    assert holder(before, {1: asks, 2: rests, 3: little}, 0.4, [2, 3]) == 3
    assert holder(before, {1: asks, 2: little, 3: little}, 0.4, [2, 3]) is None
    assert os.getpid() in counts(os.getpid())


def test_addresses_of_brokers_are_read() -> None:
    """As librdkafka reads them."""
    assert split("kafka") == ("kafka", 9092)
    assert split("kafka:9093") == ("kafka", 9093)
    assert split("SSL://kafka:9094") == ("kafka", 9094)
    assert split("[::1]:9092") == ("::1", 9092)
    assert split("::1") == ("::1", 9092)
