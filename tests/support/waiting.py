"""Waiting for a condition instead of sleeping. Knows nothing of what is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LOOK_EVERY = 0.05  # s; short against what tests wait for, long against the cost of a look


def wait_for(
    condition: Callable[[], T | None],
    within: float = 30.0,
    what: str = "the condition",
    seen: Callable[[], str] = lambda: "",
    hopeless: Callable[[], str] = lambda: "",
) -> T:
    """Blocks until `condition()` is truthy and returns its value; AssertionError after `within` seconds.

    `seen()` is the text that the failure's message ends with: what happened so far. `hopeless()` gives the
    reason, once there is one, why the condition cannot come true any more; that ends the wait early.
    """
    __tracebackhide__ = True  # a failure is shown where it was waited
    deadline = time.monotonic() + within
    while True:
        why = hopeless()
        late = time.monotonic() >= deadline
        if value := condition():
            return value
        if why or late:
            end = why or f"not within {within:g} s"
            raise AssertionError(f"waited in vain for {what}: {end}.\n{seen()}".rstrip())
        time.sleep(_LOOK_EVERY)
