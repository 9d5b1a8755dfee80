"""How an application's listeners behave, and when one is heard no more. Pure: told of each call, asks no clock.

A listener changes nothing for processing, but one that raises each time fills the log, and one that is slow each time keeps the others
from hearing what happens. What goes wrong is counted and said at the 1st, 2nd, 4th, 8th time; after TRIES times in a row, without one
call that was well in between, the listener is switched off in its process, until that is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

TRIES: Final = 20
"""Calls in a row that raise or are slow until a listener is switched off."""
SLOW: Final = 1.0
"""Seconds from which on a call is slow: the listeners of a process share one thread, and a queue that has its end."""

LONGEST_NAME: Final = 200
"""Characters of a listener's name."""


class Step(NamedTuple):
    """What follows from a call. times: how often this listener went wrong over this event so far; say: whether that is to be said now; off:
    whether the listener is switched off from now on."""

    times: int
    say: bool
    off: bool


@dataclass(slots=True)
class _Record:
    in_a_row: int = 0
    off: bool = False


class Conduct:
    """Of all listeners of one process. One thread."""

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}
        self._counts: dict[tuple[int, str], int] = {}

    def is_off(self, listener: int) -> bool:
        """Whether a listener (its number) is not to be called any more."""
        record = self._records.get(listener)
        return record is not None and record.off

    def went_well(self, listener: int) -> None:
        """A call returned in time."""
        if listener in self._records:
            self._records[listener].in_a_row = 0

    def went_wrong(self, listener: int, event: str) -> Step:
        """A call over this event raised, or took longer than SLOW."""
        record = self._records.setdefault(listener, _Record())
        record.in_a_row += 1
        count = self._counts[(listener, event)] = self._counts.get((listener, event), 0) + 1
        record.off = record.in_a_row >= TRIES
        return Step(count, count & (count - 1) == 0, record.off)


def name_of(listener: Callable[[Any], None]) -> str:
    """What a listener is called: of a partial its function, of an object its class. Never its repr, which may be of any length, hold an
    argument that nobody should see, and raise."""
    try:
        while isinstance(listener, partial):
            listener = listener.func
        name = getattr(listener, "__qualname__", None)
    except BaseException:  # its own __getattr__
        name = None
    return name if isinstance(name, str) and name else type(listener).__qualname__
