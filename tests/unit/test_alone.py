"""A lane that has to run alone in its worker: nothing begins beside it, and it holds up nobody who has to leave."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from swarm import Backoff
from swarm.dispatch import Dispatcher
from swarm.lane import Lane
from swarm.plan import make_plan
from tests.support.waiting import wait_for


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher(time.monotonic)


def lane(number: int) -> Lane:
    return Lane(None, make_plan(handler=print, topics=("orders",), backoff=Backoff()), "orders", number, 0, 0)  # type: ignore[arg-type]


def running(dispatcher: Dispatcher, number: int) -> Lane:
    """A lane that a thread has in hand."""
    found = lane(number)
    with dispatcher.lock:
        dispatcher._make_ready(found, 0.0)
    assert dispatcher.next() is found
    return found


def in_thread(body: Callable[[], object]) -> list[object]:
    """What it returns, once it does."""
    results: list[object] = []
    threading.Thread(target=lambda: results.append(body()), daemon=True).start()
    return results


def test_it_waits_until_the_others_have_ended_and_nothing_begins_meanwhile(dispatcher: Dispatcher) -> None:
    """Neither while it waits nor while it runs; what is ready goes on as soon as it has ended."""
    other, suspect = running(dispatcher, 0), running(dispatcher, 1)
    begun = in_thread(lambda: dispatcher.begin_alone(suspect, 60.0))
    wait_for(lambda: dispatcher._want_alone == 1)
    with dispatcher.lock:
        dispatcher._make_ready(lane(2), 0.0)
    taken = in_thread(dispatcher.next)

    assert not begun
    with dispatcher.lock:
        dispatcher.done(other)
    wait_for(lambda: begun, what="it to be alone")
    assert begun == [True]
    assert not taken
    dispatcher.end_alone()
    wait_for(lambda: taken, what="the next")


@pytest.mark.parametrize("why", ["taken", "quiet", "stopping"])
def test_it_does_not_wait_where_it_shall_not_run_at_all(dispatcher: Dispatcher, why: str) -> None:
    """A revocation, a stop and `quiet` would all wait for it, although it has begun nothing."""
    running(dispatcher, 0)
    suspect = running(dispatcher, 1)
    begun = in_thread(lambda: dispatcher.begin_alone(suspect, 600.0))
    wait_for(lambda: dispatcher._want_alone == 1)
    with dispatcher.lock:
        if why == "taken":
            suspect.closing = "revoked"
        else:
            setattr(dispatcher, why, True)

    wait_for(lambda: begun, what="it to give up")
    assert begun == [False]
    assert dispatcher._want_alone == 0


def test_whoever_leaves_goes_past_it(dispatcher: Dispatcher) -> None:
    """A rebalance waits for the hooks of the partitions that are taken."""
    suspect = running(dispatcher, 0)
    assert dispatcher.begin_alone(suspect, 0.5)
    ordinary, leaving = lane(1), lane(2)
    leaving.closing, leaving.hook_due = "revoked", "on_revoked"
    with dispatcher.lock:
        dispatcher._make_ready(ordinary, 0.0)
        dispatcher._make_ready(leaving, 0.0)

    assert dispatcher.next() is leaving
    with dispatcher.lock:
        dispatcher.done(leaving)
    dispatcher.end_alone()
    assert dispatcher.next() is ordinary


def test_it_gives_up_where_others_do_not_end(dispatcher: Dispatcher) -> None:
    """And lets them go on until the next try."""
    running(dispatcher, 0)
    suspect = running(dispatcher, 1)

    assert not dispatcher.begin_alone(suspect, 0.05)
    following = running(dispatcher, 2)
    assert following.phase == "running"
