"""What a subscription promises, as far as its events can show it. Knows the event that says it; runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Semantics:
    """How the invariants look at one subscription. The default is at-least-once in its strictest form, but that handlers may mark.

    marks: messages may be done, and committed, before a run has ended: the handler can mark (a Consumer class, a second parameter,
    `each`), or the run is a transaction. new_protocol: `group.protocol=consumer`.
    """

    topics: tuple[str, ...] = ()
    pattern: str | None = None
    delivery: str = "at_least_once"
    manual: bool = False
    each: bool = False
    virtual: bool = False
    long_running: bool = False
    marks: bool = True
    new_protocol: bool = False

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Self:
        """From a line `subscribed`."""
        return cls(
            topics=tuple(event["topics"]),
            pattern=event["pattern"],
            delivery=event["delivery"],
            manual=event["offsets"] == "manual",
            each=event["each"],
            virtual=event["virtual_partitions"],
            long_running=event["long_running"],
            marks=event["marks"],
            new_protocol=event.get("protocol") == "consumer",
        )


class Book:
    """The semantics of every group's topics: workers say them when they begin. A topic that nobody declared gets the default."""

    def __init__(self, groups: Mapping[str, Iterable[Semantics]] | None = None) -> None:
        self._groups = {name: list(all_) for name, all_ in (groups or {}).items()}

    def declare(self, group: str, semantics: Semantics) -> None:
        """One subscription of a group; again and again, as each worker says it."""
        declared = self._groups.setdefault(group, [])
        if semantics not in declared:
            declared.insert(0, semantics)  # after a reload the newest holds

    @property
    def groups(self) -> list[str]:
        """The groups that are declared."""
        return list(self._groups)

    def topics(self, group: str) -> list[str]:
        """The topics that a group names (those of a pattern are not known here)."""
        return [topic for each in self._groups.get(group, ()) for topic in each.topics]

    def find(self, group: str, topic: str) -> Semantics:
        """The subscription that a topic belongs to; one that names it goes before a pattern."""
        declared = self._groups.get(group, [])
        for each in declared:
            if topic in each.topics:
                return each
        for each in declared:
            if each.pattern is not None and re.match(each.pattern, topic):
                return each
        return _DEFAULT


_DEFAULT = Semantics()
