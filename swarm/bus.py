"""Who hears of what happened. Our own sinks are called at once; an application's listeners in a thread of their own.

A listener must not change processing: it runs on a queue of bounded length in the thread `listeners`; what it raises is
counted and said, and where it cannot keep up, events are dropped and counted, never waited for. One that goes wrong again and again is
heard no more (`swarm.conduct`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from swarm.conduct import LONGEST_NAME, SLOW, TRIES, Conduct, name_of
from swarm.errors import describe
from swarm.events import Event, ListenerFailed, ListenerSwitchedOff

Sink = Callable[[Event], None]
_QUEUE_LENGTH: Final = 10_000


class Bus:
    """Publishes events. `publish` may be called from any thread and never blocks on a listener."""

    def __init__(self, sinks: Sequence[tuple[type[Event], Sink]]) -> None:
        self._sinks = list(sinks)
        self._by_type: dict[type[Event], tuple[Sink, ...]] = {}

    def add(self, event: type[Event], sink: Sink) -> None:
        """Subscribe one of our own sinks to a class of events and its subclasses."""
        self._sinks.append((event, sink))
        self._by_type = {}

    def replace(self, sink: Sink, wanted: Sequence[type[Event]]) -> None:
        """Let one of our own sinks hear these classes from now on, and no others."""
        self._sinks = [*((event, sink) for event in wanted), *(pair for pair in self._sinks if pair[1] != sink)]
        self._by_type = {}

    def wants(self, event: type[Event]) -> bool:
        """Whether anybody listens: whoever publishes often asks before it builds the event."""
        return bool(self._for(event))

    def _for(self, event: type[Event]) -> tuple[Sink, ...]:
        by_type = (
            self._by_type
        )  # a new one when somebody subscribes meanwhile: what we put into the old one is not looked at again
        sinks = by_type.get(event)
        if sinks is None:
            # Each sink once, also one that listens to the class and to a base of it.
            sinks = tuple(dict.fromkeys(sink for wanted, sink in self._sinks if issubclass(event, wanted)))
            by_type[event] = sinks
        return sinks

    def publish(self, event: Event) -> None:
        """Tell everybody who listens."""
        for sink in self._for(type(event)):
            sink(event)


class Listeners:
    """The thread that runs an application's listeners in a worker."""

    def __init__(
        self,
        listeners: Sequence[tuple[type[Event], Callable[[Any], None]]],
        bus: Bus,
        on_failure: Callable[[], None],
        on_thread: Callable[[], None],
    ) -> None:
        self._listeners = list(listeners)
        self._bus = bus
        self._on_failure = on_failure
        self._on_thread = on_thread
        self._queue: queue.Queue[Event | None] = queue.Queue(_QUEUE_LENGTH)
        self._dropped = 0
        self._conduct = Conduct()
        for wanted in {event for event, _ in self._listeners}:
            bus.add(wanted, self._enqueue)
        self._thread = threading.Thread(target=self._run, name="listeners", daemon=True)

    def start(self) -> None:
        """Start the thread; after the fork only."""
        self._thread.start()

    def stop(self, within: float) -> None:
        """Let the listeners hear what is queued, for at most `within` seconds."""
        deadline = time.monotonic() + within
        try:
            self._queue.put(None, timeout=within)
        except queue.Full:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _enqueue(self, event: Event) -> None:
        if isinstance(event, ListenerFailed) and event.listener == "*":
            return  # about the queue itself: it would feed on itself
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._dropped += 1
            if self._dropped & (self._dropped - 1) == 0:  # say it at 1, 2, 4, 8, … not each time
                self._on_failure()
                self._bus.publish(
                    ListenerFailed(
                        "*", event.event_name(), "listeners are too slow: events were dropped", self._dropped
                    )
                )

    def _run(self) -> None:
        self._on_thread()
        seen: set[int] = set()
        while (event := self._queue.get()) is not None:
            seen.clear()
            for wanted, listener in self._listeners:
                if not isinstance(event, wanted) or id(listener) in seen or self._conduct.is_off(id(listener)):
                    continue
                seen.add(id(listener))
                began = time.monotonic()
                try:
                    listener(event)
                except BaseException as error:
                    if not isinstance(event, (ListenerFailed, ListenerSwitchedOff)):
                        self._failed(listener, event, describe(error))
                    continue
                seconds = time.monotonic() - began
                if seconds > SLOW:
                    self._failed(
                        listener, event, f"it took {seconds:.1f} s: events behind it wait, and some may be dropped"
                    )
                else:
                    self._conduct.went_well(id(listener))

    def _failed(self, listener: Callable[[Any], None], event: Event, error: str) -> None:
        name = name_of(listener)[:LONGEST_NAME]
        step = self._conduct.went_wrong(id(listener), event.event_name())
        self._on_failure()
        if step.say:
            self._bus.publish(ListenerFailed(name, event.event_name(), error, step.times))
        if step.off:
            self._bus.publish(ListenerSwitchedOff(name, event.event_name(), error, TRIES))
