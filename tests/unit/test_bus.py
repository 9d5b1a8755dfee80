"""Listeners hear what happened and can change nothing: not by raising, not by being slow, not by listening twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from swarm.bus import Bus, Listeners
from swarm.events import BatchConsumed, ClientRebuilt, Event, ListenerFailed, TopicMissing

EVENT = ClientRebuilt("shop", "fenced")


class Unspeakable(BaseException):
    def __str__(self) -> str:
        raise RuntimeError


@contextmanager
def listening(*listeners: tuple[type[Event], Callable[[Any], None]]) -> Iterator[tuple[Bus, list[Event], list[int]]]:
    """A bus with these listeners, what our own sink heard, and one entry for each failure that was counted."""
    heard: list[Event] = []
    failures: list[int] = []
    bus = Bus([(Event, heard.append)])
    thread = Listeners(listeners, bus, lambda: failures.append(1), lambda: None)
    thread.start()
    yield bus, heard, failures
    thread.stop(within=5.0)


def test_a_listener_hears_its_class_and_what_derives_from_it_once() -> None:
    """Also if others listen to a base of that class: each event comes once to each."""
    specific: list[Event] = []
    everything: list[Event] = []
    with listening((ClientRebuilt, specific.append), (Event, everything.append)) as (bus, _, failures):
        bus.publish(EVENT)
        bus.publish(TopicMissing("shop", "orders"))

    assert specific == [EVENT]
    assert everything == [EVENT, TopicMissing("shop", "orders")]
    assert not failures


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no"), SystemExit(1), KeyboardInterrupt(), Unspeakable()],
    ids=lambda error: type(error).__name__,
)
def test_a_listener_that_raises_is_counted_and_said_and_the_others_hear(error: BaseException) -> None:
    """Whatever it raises; it is said at the 1st, 2nd, 4th, … time."""
    others: list[Event] = []

    def broken(event: Event) -> None:
        raise error

    with listening((ClientRebuilt, broken), (ClientRebuilt, others.append)) as (bus, heard, failures):
        for _ in range(5):
            bus.publish(EVENT)

    said = [event for event in heard if isinstance(event, ListenerFailed)]
    assert others == [EVENT] * 5
    assert len(failures) == 5
    assert [event.count for event in said] == [1, 2, 4]
    assert all("broken" in event.listener and type(error).__name__ in event.error for event in said)


def test_a_listener_without_a_name_is_called_as_its_function_or_class_and_its_repr_is_not_asked() -> None:
    """A partial's repr holds its arguments, and one may raise, which would end the listeners' thread."""

    class Counts:
        def __call__(self, event: Event) -> None:
            raise OSError("no")

        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    def sends(password: str, event: Event) -> None:
        raise OSError("no")

    with listening((ClientRebuilt, Counts()), (ClientRebuilt, partial(sends, "hunter2"))) as (bus, heard, failures):
        bus.publish(EVENT)

    names = [event.listener for event in heard if isinstance(event, ListenerFailed)]
    assert [name.rpartition(".")[2] for name in names] == ["Counts", "sends"]
    assert "hunter2" not in "".join(names)
    assert len(failures) == 2


def test_a_listener_of_failures_that_fails_does_not_feed_on_itself() -> None:
    """It hears of another's failure once and that is the end of it."""

    def broken(event: Event) -> None:
        raise RuntimeError

    with listening((Event, broken)) as (bus, heard, _):
        bus.publish(EVENT)

    assert [type(event) for event in heard] == [ClientRebuilt, ListenerFailed]


def test_a_slow_listener_holds_nobody_up() -> None:
    """Events beyond its queue are dropped and counted; publishing goes on at once."""
    gate = threading.Event()
    with listening((ClientRebuilt, lambda _: void(gate.wait(30.0)))) as (bus, heard, failures):
        for _ in range(10_100):
            bus.publish(EVENT)
        said = [event for event in heard if isinstance(event, ListenerFailed)]
        gate.set()

    assert [event.listener for event in said] == ["*"] * len(said)
    assert said[0].count == 1
    assert said[-1].count >= 64
    assert len(failures) == len(said)


def void(_: object) -> None:
    """For a lambda whose value nobody wants."""


def test_whoever_publishes_often_can_ask_first() -> None:
    """An event that nobody wants need not be built."""
    bus = Bus([(ClientRebuilt, lambda event: None)])

    assert bus.wants(ClientRebuilt)
    assert not bus.wants(BatchConsumed)
    bus.add(Event, lambda event: None)
    assert bus.wants(BatchConsumed)
