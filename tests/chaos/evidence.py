"""What a chaos run leaves behind, read back as values. Knows the forms of the files and of Kafka's messages; judges nothing."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarm.testing.invariants import read_events

Place = tuple[str, int]
"""A topic's partition."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What a handler noted (`application.note`). `at` is the monotonic clock, the same in all processes."""

    what: str
    place: Place
    offsets: tuple[int, ...]
    attempt: int
    pid: int
    instance: str
    at: float


def facts(file: Path) -> Iterator[Fact]:
    """Those of one group, in the order in which they were written."""
    if not file.exists():
        return
    with file.open() as lines:
        for line in lines:
            what, topic, partition, offsets, attempt, pid, number, at = line.split()
            instance = f"{pid}.{number}"
            yield Fact(what, (topic, int(partition)), _offsets(offsets), int(attempt), int(pid), instance, float(at))


def _offsets(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Content:
    """A message as it is in Kafka."""

    place: Place
    offset: int
    key: bytes
    value: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_poison(self) -> bool:
        return self.value.endswith(b"poison")


def source_of(output: Content) -> tuple[str, int, int]:
    """Topic, partition and offset of the message that an output was made of (`application.output_of`)."""
    topic, partition, offset = output.value.decode().rsplit(":", 2)
    return topic, int(partition), int(offset)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a group had committed: asked at one instant, answered at another."""

    group: str
    asked: float
    answered: float
    offsets: Mapping[Place, int]


@dataclass(frozen=True, slots=True)
class Said:
    """A line of a daemon's log that may explain something. `places` is empty where it does not name any."""

    event: str
    at: float
    pid: int
    group: str
    places: frozenset[Place]
    detail: Mapping[str, Any]


_EXPLAINING = {
    "partitions_lost",
    "partitions_revoked",
    "commit_failed",
    "client_rebuilt",
    "orphaned",
    "revocation_given_up",
    "transaction_aborted",
    "transactional_producer_replaced",
    "message_dropped",
    "worker_stopping",
    "worker_exited",
    "worker_killed",
    "worker_backoff",
    "thread_died",
    "hook_failed",
    "listener_failed",
    "swarm_failed",
    "swarm_stopped",
}


@dataclass(slots=True)
class Log:
    """A daemon's log: what may explain something, how often each event came, and what was no event at all."""

    said: list[Said] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)


def read_log(file: Path, wall_to_monotonic: float) -> Log:
    """`wall_to_monotonic`: what to add to seconds since the epoch to get the monotonic clock."""
    log = Log()
    if not file.exists():
        return log
    with file.open(errors="replace") as lines:
        for line in lines:
            try:
                [entry] = read_events([line])
                event = str(entry["event"])
            except (ValueError, KeyError, TypeError):
                log.other.append(line.rstrip()[:500])
                continue
            log.counts[event] = log.counts.get(event, 0) + 1
            fatal = event == "client_error" and (entry["fatal"] or entry["code"] == "_FATAL")
            if event in _EXPLAINING or fatal:
                at = datetime.datetime.fromisoformat(entry["timestamp"]).timestamp() + wall_to_monotonic
                log.said.append(
                    Said(event, at, int(entry.get("pid") or 0), str(entry.get("group", "")), _places(entry), entry)
                )
    return log


def _places(entry: Mapping[str, Any]) -> frozenset[Place]:
    if "topic" in entry and "partition" in entry:
        return frozenset({(str(entry["topic"]), int(entry["partition"]))})
    named: Sequence[Any] = entry.get("partitions") or entry.get("offsets") or ()
    return frozenset((str(each[0]), int(each[1])) for each in named)


def contents(messages: Iterable[Any]) -> list[Content]:
    """Messages of confluent-kafka as values."""
    return [
        Content(
            (message.topic(), message.partition()),
            message.offset(),
            message.key() or b"",
            message.value() or b"",
            {name: (value or b"").decode() for name, value in message.headers() or ()},
        )
        for message in messages
    ]
