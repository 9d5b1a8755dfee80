"""When a listener is said to go wrong, and when it is heard no more."""

from __future__ import annotations

import threading
from typing import Any

from swarm import bus, conduct
from swarm.bus import Bus, Listeners
from swarm.conduct import TRIES, Conduct
from swarm.events import ClientRebuilt, Event, ListenerFailed, ListenerSwitchedOff

EVENT = ClientRebuilt("shop", "fenced")


def test_what_goes_wrong_is_said_ever_less_often_and_ends() -> None:
    """At the 1st, 2nd, 4th, … time of each event; switched off at the TRIES-th in a row, over whatever events."""
    listeners = Conduct()

    steps = [listeners.went_wrong(1, "a" if number % 2 else "b") for number in range(TRIES)]

    assert [step.times for step in steps[:4]] == [1, 1, 2, 2]
    assert [number for number, step in enumerate(steps) if step.say][:6] == [0, 1, 2, 3, 6, 7]
    assert [step.off for step in steps] == [False] * (TRIES - 1) + [True]
    assert listeners.is_off(1)
    assert not listeners.is_off(2)


def test_one_call_that_is_well_begins_the_row_anew() -> None:
    """A listener that fails now and then is heard for ever."""
    listeners = Conduct()
    for _ in range(5):
        for _ in range(TRIES - 1):
            listeners.went_wrong(1, "a")
        listeners.went_well(1)

    assert not listeners.is_off(1)


def test_a_listener_that_raises_each_time_is_switched_off_and_others_hear_on() -> None:
    """It is said once, as an error."""
    heard: list[Event] = []
    calls: list[Event] = []
    others: list[Event] = []
    channel = Bus([(Event, heard.append)])

    def broken(event: Event) -> None:
        calls.append(event)
        raise RuntimeError("no")

    thread = Listeners([(ClientRebuilt, broken), (ClientRebuilt, others.append)], channel, lambda: None, lambda: None)
    thread.start()
    for _ in range(3 * TRIES):
        channel.publish(EVENT)
    thread.stop(within=5.0)

    [off] = [event for event in heard if isinstance(event, ListenerSwitchedOff)]
    assert len(calls) == TRIES
    assert len(others) == 3 * TRIES
    assert "broken" in off.listener
    assert (off.heard, off.error, off.failures) == ("client_rebuilt", "RuntimeError: no", TRIES)


def test_a_slow_call_is_a_fault_like_one_that_raises(monkeypatch: Any) -> None:
    """It is said how long it took."""
    monkeypatch.setattr(bus, "SLOW", 0.0)
    heard: list[Event] = []
    channel = Bus([(Event, heard.append)])
    done = threading.Event()
    thread = Listeners([(ClientRebuilt, lambda event: done.set())], channel, lambda: None, lambda: None)
    thread.start()
    channel.publish(EVENT)
    thread.stop(within=5.0)

    [said] = [event for event in heard if isinstance(event, ListenerFailed)]
    assert done.is_set()
    assert said.error.startswith("it took 0.0 s: events behind it wait")
    assert conduct.SLOW == 1.0


def test_a_sink_hears_other_classes_from_now_on() -> None:
    """As the log does, when its level changes at run time."""
    heard: list[Event] = []
    others: list[Event] = []
    channel = Bus([(ListenerFailed, heard.append), (Event, others.append)])
    channel.publish(EVENT)
    channel.replace(heard.append, [ClientRebuilt])
    channel.publish(EVENT)

    assert others == [EVENT, EVENT]
    assert channel.wants(ClientRebuilt)
