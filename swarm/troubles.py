"""What went wrong in a worker of late, kept where others can read it when the worker is stuck or dead: for `swarmctl why`.

A listener of our own on the worker's bus: it hears the events that tell of failures and keeps one entry for each kind of failure and
place in the scoreboard. It changes nothing, and costs nothing while nothing fails.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from swarm import events
from swarm.bus import Bus
from swarm.scoreboard import MAX_TROUBLES, Scoreboard, Trouble
from swarm.wording import counted

FORGET: Final = 60.0
"""Seconds after which what happens again is another trouble, which begins anew."""
_FRAME: Final = re.compile(r'^  File "([^"]+)", line (\d+), in (.+)$', re.MULTILINE)

Key = tuple[str, str, str, int, str]


@dataclass(frozen=True, slots=True)
class _Said:
    """What an event says; `sort` tells apart what happens in one place."""

    kind: str
    text: str
    group: str = ""
    topic: str = ""
    partition: int = -1
    first: int = -1
    last: int = -1
    attempt: int = 0
    sort: str = ""
    again_in: float = 0.0


class Troubles:
    """The newest of one worker. Any thread."""

    def __init__(self, board: Scoreboard, clock: Callable[[], float]) -> None:
        self._board = board
        self._clock = clock
        self._lock = threading.Lock()
        self._known = board.troubles()  # those of former processes stay until there is no room for them
        self._slots: dict[Key, int] = {}

    def listen(self, bus: Bus) -> None:
        """Hear of what fails from now on."""
        for event in HEARD:
            bus.add(event, self.hear)

    def hear(self, event: events.Event) -> None:
        """The sink for the bus."""
        now = self._clock()
        if isinstance(event, events.RetryScheduled):
            self._again(event, now)
            return
        said = _said(event)
        if said is not None:
            with self._lock:
                self._keep(said, now)

    def _keep(self, said: _Said, now: float) -> None:
        key = (said.kind, said.group, said.topic, said.partition, said.sort)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._room()
            for other in [each for each, taken in self._slots.items() if taken == slot]:
                del self._slots[other]
            self._slots[key] = slot
            before = None
        else:
            before = self._known[slot]
            if now - before.last_at > FORGET:
                before = None
        self._put(
            slot,
            Trouble(
                said.kind,
                said.group,
                said.topic,
                said.partition,
                said.first,
                said.last,
                said.attempt,
                now if before is None else before.first_at,
                now,
                1 if before is None else before.times + 1,
                now + said.again_in if said.again_in else 0.0,
                said.text,
            ),
        )

    def _again(self, event: events.RetryScheduled, now: float) -> None:
        """When the newest failure there is tried again."""
        with self._lock:
            there = [
                slot
                for (kind, group, topic, partition, _), slot in self._slots.items()
                if (kind, group, topic, partition) == ("handler", event.group, event.topic, event.partition)
            ]
            if there:
                slot = max(there, key=lambda slot: self._known[slot].last_at)
                self._put(slot, self._known[slot]._replace(until=now + event.seconds))

    def _room(self) -> int:
        """A slot that is free, else that of the oldest."""
        free = next((slot for slot in range(MAX_TROUBLES) if slot not in self._known), None)
        return free if free is not None else min(self._known, key=lambda slot: self._known[slot].last_at)

    def _put(self, slot: int, trouble: Trouble) -> None:
        self._known[slot] = trouble
        self._board.set_trouble(slot, trouble)


HEARD: Final = (
    events.ConsumeFailed,
    events.RetryScheduled,
    events.ClientError,
    events.TopicMissing,
    events.OffsetOutOfRange,
    events.DeadLetterFailed,
    events.MessageDeadLettered,
    events.MessageDropped,
    events.MessageHeld,
    events.CommitFailed,
    events.HookFailed,
    events.TransactionAborted,
    events.RevocationGivenUp,
    events.PartitionsLost,
    events.ListenerFailed,
)


def _said(event: events.Event) -> _Said | None:
    match event:
        case events.ConsumeFailed(group, topic, partition, first, last, attempt, error, trace):
            kind_of_error = error.partition(":")[0]
            return _Said("handler", error + _place(trace), group, topic, partition, first, last, attempt, kind_of_error)
        case events.ClientError(group, code, error):
            return _Said("client", f"{code}: {error}", group, sort=code)
        case events.TopicMissing(group, topic):
            return _Said("topic_missing", "it does not exist", group, topic)
        case events.OffsetOutOfRange(group, topic, partition, offset, action):
            return _Said("out_of_range", f"its action is {action}", group, topic, partition, offset, offset)
        case events.DeadLetterFailed(group, topic, partition, offset, target, error, seconds):
            text = f"the dead letter topic {target} could not be written: {error}"
            return _Said("dead_letter", text, group, topic, partition, offset, offset, again_in=seconds)
        case events.MessageDeadLettered(group, topic, partition, offset, target, attempts, error):
            text = f"set aside in {target}: {error}"
            return _Said("dead_lettered", text, group, topic, partition, offset, offset, attempts)
        case events.MessageDropped(group, topic, partition, first, last, error):
            return _Said("dropped", error, group, topic, partition, first, last)
        case events.MessageHeld(group, topic, partition, offset, deaths):
            return _Said(
                "held", f"it was in hand at {counted(deaths, 'death')}", group, topic, partition, offset, offset, deaths
            )
        case events.CommitFailed(group, offsets, code, error):
            topic, partition, offset = offsets[0] if offsets else ("", -1, -1)
            return _Said("commit", f"{code}: {error}", group, topic, partition, offset, offset, sort=code)
        case events.HookFailed(hook, topic, partition, error):
            return _Said("hook", f"{hook}: {error}", "", topic, partition, sort=hook)
        case events.TransactionAborted(group, topic, partition, first, last, error):
            return _Said("transaction", error, group, topic, partition, first, last)
        case events.RevocationGivenUp(group, partitions, seconds):
            text = f"jobs did not end within {seconds:.0f} s while their partitions were taken"
            return _Said("revocation", text, group, *(partitions[0] if partitions else ("", -1)))
        case events.PartitionsLost(group, partitions):
            text = "the member had been evicted from its group"
            return _Said("lost", text, group, *(partitions[0] if partitions else ("", -1)))
        case events.ListenerFailed(listener, heard, error, _):
            return _Said("listener", f"{listener} on {heard}: {error}", sort=f"{listener} {heard}")
        case _:
            return None


def _place(trace: str) -> str:
    """Where it was raised; the trace begins with the application's frames, the last one is the innermost."""
    frames = _FRAME.findall(trace)
    own = [frame for frame in frames if "site-packages" not in frame[0] and "/lib/python" not in frame[0]]
    if not frames:
        return ""
    file, line, name = (own or frames)[-1]
    return f" (at {file.rpartition('/')[2]}:{line} in {name})"
