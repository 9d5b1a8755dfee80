"""What a worker has noticed about its application, on its way to the supervisor. Knows no channel and judges nothing.

Any thread notes; the main thread tells what is new. An observation is the latest of its kind and place: a count that grows, with an
example.
"""

from __future__ import annotations

import threading
from typing import Any, Final, Literal

Kind = Literal["listener", "threads"]
MOST: Final = 50
"""Places of one kind that are kept: an application has few listeners and subscriptions, and a name may be made up."""
LONGEST: Final = 300
"""Characters of an example."""


class Observations:
    """The observations of one worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        self._fresh: set[tuple[str, str]] = set()

    def note(self, kind: Kind, where: str, example: str, count: int) -> None:
        """Something happened `count` times so far. Any thread; does not block."""
        key = (kind, where)
        with self._lock:
            if key in self._known or len(self._known) < MOST:
                self._known[key] = {"kind": kind, "where": where, "example": example[:LONGEST], "count": count}
                self._fresh.add(key)

    def news(self) -> list[dict[str, Any]]:
        """What was noted since the last call, as JSON. Main thread."""
        if not self._fresh:
            return []
        with self._lock:
            fresh, self._fresh = self._fresh, set()
            return [dict(self._known[key]) for key in sorted(fresh)]
