"""What must hold whatever happens, judged from facts alone: the swarm's events, what the topics hold, what is committed at the end.

    violations = check(Facts(events=read_events(log), contents=…, committed=…))

Pure: no Kafka, no process, no clock. `Checker` takes the events one by one, in the order in which they were written, and keeps
what the judgement needs: a long history costs memory for its accidents, not for its length. The events are the parsed lines of a
JSON log at level `debug`. A worker writes each of them at once, so a kill -9 loses none that was written; what it may lose is
the line for something that happened in the instant before, and where that matters the benefit of the doubt is given (below).

What it cannot see: which message of a batch a handler really looked at, the order of keys within virtual partitions, and marks
inside a run. A commit in the middle of a run of a handler that can mark is taken for its word that so much is done.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from swarm.testing.checker import Checker, Event, Offsets
from swarm.testing.ledger import Key
from swarm.testing.semantics import Book, Semantics
from swarm.testing.violations import INVARIANTS, Violation, report


@dataclass(frozen=True, slots=True)
class Facts:
    """What the invariants are judged on.

    events: in the order in which they were written; of several daemons see `merged`.
    contents: (topic, partition) -> the offsets that its readers see, as read at the end under the isolation of the groups
        (`read_committed` unless set otherwise); None: taken for dense. A partition that is not named holds nothing.
    committed: (group, topic, partition) -> next offset, as the broker says at the end; None: not known.
    book: the semantics of the subscriptions, where the events do not say them (`subscribed`).
    complete: whether everything that the topics hold had been consumed when the swarm was stopped.
    outputs: group -> (topic, partition, offset) of what each of its outputs was made from, for groups of which every message makes
        one: what handlers really did, in a topic (read under `read_committed`), a table, a file.
    hasty_broker: whether the broker may hand a partition on before its holder has given it up, as the embedded one does at times: then
        that is a cause of repetitions, and no violation.
    """

    events: Iterable[Event]
    contents: Mapping[tuple[str, int], Offsets] | None = None
    committed: Mapping[Key, int] | None = None
    book: Book = field(default_factory=Book)
    complete: bool = False
    outputs: Mapping[str, Iterable[tuple[str, int, int]]] | None = None
    hasty_broker: bool = False


def check(facts: Facts) -> list[Violation]:
    """All violations; an empty list where every invariant held."""
    checker = Checker(facts.book, hasty_broker=facts.hasty_broker)
    for event in facts.events:
        checker.feed(event)
    return checker.finish(facts.contents, facts.committed, complete=facts.complete, outputs=facts.outputs)


def read_events(lines: Iterable[str | bytes]) -> Iterator[Event]:
    """The events among a log's lines; what is no JSON object with an `event`, or was cut off by a kill, is left out, and what
    another process wrote behind the rest of such a line is not."""
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            text = line.decode(errors="replace") if isinstance(line, bytes) else line
            try:
                found = json.loads(text[text.rindex('{"timestamp"') :])
            except ValueError:
                continue
        if isinstance(found, dict) and "event" in found:
            yield found


def merged(logs: Mapping[str, Iterable[Event]]) -> Iterator[Event]:
    """The events of several daemons in one order, by their timestamps; each remembers its log's name as `source`."""

    def named(name: str, events: Iterable[Event]) -> Iterator[tuple[str, str, int, Event]]:
        for number, event in enumerate(events):
            yield str(event.get("timestamp", "")), name, number, {**event, "source": name}

    for _, _, _, event in heapq.merge(*(named(name, events) for name, events in logs.items())):
        yield event


__all__ = [
    "INVARIANTS",
    "Book",
    "Checker",
    "Facts",
    "Semantics",
    "Violation",
    "check",
    "merged",
    "read_events",
    "report",
]
