"""The same message written twice: `swarmctl audit --by-content`. Reads the topic itself, from the least to the greatest offset asked about.

A producer without idempotence that gets no answer sends again what may have arrived, as a message of its own with the same key, value
and timestamp. An application that produces twice writes another timestamp, unless it does so within a millisecond. Both are told.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from swarm.audit import Finding, Report, Wish
from swarm.journal_reader import History

WINDOW: Final = 500_000
"""Messages of a partition that are remembered at once, some 150 bytes each: what a producer sends again comes soon after."""
PATIENCE: Final = 20.0
"""Seconds to wait for the cluster."""


@dataclass(frozen=True, slots=True)
class Written:
    """A message of a log, as far as it matters. timestamp: ms since the epoch; negative: none."""

    offset: int
    content: bytes
    timestamp: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """Messages [first, last] are the same as those from `original` on, one by one; `later`: by how many ms the first was written later."""

    first: int
    last: int
    original: int
    later: int


def content_of(key: bytes | None, value: bytes | None) -> bytes:
    """A digest of what a message says. A key that is missing is another one than an empty one."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (key, value):
        digest.update(b"-" if part is None else b"%d:" % len(part))
        digest.update(part or b"")
    return digest.digest()


def repeats(log: Iterable[Written], window: int = WINDOW) -> Iterator[Repeat]:
    """The messages of one partition, in order, that were written before with the same content."""
    seen: OrderedDict[bytes, Written] = OrderedDict()
    open_: Repeat | None = None
    for written in log:
        before = seen.get(written.content)
        if before is None:
            seen[written.content] = written
            if len(seen) > window:
                seen.popitem(last=False)
            continue
        if (
            open_ is not None
            and written.offset == open_.last + 1
            and before.offset - open_.original == written.offset - open_.first
        ):
            open_ = Repeat(open_.first, written.offset, open_.original, open_.later)
            continue
        if open_ is not None:
            yield open_
        open_ = Repeat(written.offset, written.offset, before.offset, written.timestamp - before.timestamp)
    if open_ is not None:
        yield open_


def by_content(history: History, wish: Wish, user: Mapping[str, Any]) -> Report:
    """What of the audited offsets was produced twice. Blocks; raises KafkaException. user: `[kafka]`."""
    from swarm.client import TopicReader

    spans: dict[str, dict[int, dict[str, tuple[int, int]]]] = {}
    times: dict[str, float] = {}
    for lane in history.assignments():
        runs = [run for run in lane.runs if _within(run.ended_at, wish)]
        if not runs or not wish.wants(lane.key):
            continue
        start, end = min(run.start for run in runs), max(run.end for run in runs)
        groups = spans.setdefault(lane.topic, {}).setdefault(lane.partition, {})
        low, high = groups.get(lane.group, (start, end))
        groups[lane.group] = min(low, start), max(high, end)
        times[lane.topic] = max(times.get(lane.topic, 0.0), *(run.ended_at for run in runs))
    found: list[Finding] = []
    troubles: list[str] = []
    for topic, partitions in spans.items():
        reader = TopicReader(user, topic, "swarm-audit")
        try:
            count = reader.partitions(topic, PATIENCE)
            for partition, groups in sorted(partitions.items()):
                if partition >= count:
                    troubles.append(f"{topic}/{partition}: not there any more, so its messages cannot be compared")
                    continue
                low, high = reader.bounds(partition, PATIENCE)
                start = max(low, min(first for first, _ in groups.values()))
                end = min(high, max(last for _, last in groups.values()))
                for repeat in repeats(_read(reader, partition, start, end)):
                    found += _findings(topic, partition, groups, repeat, times[topic])
        finally:
            reader.close()
    return Report(tuple(each for each in found if wish.covers(each)), troubles=tuple(troubles))


def _within(at: float, wish: Wish) -> bool:
    return (wish.since is None or at >= wish.since) and (wish.until is None or at < wish.until)


def _read(reader: Any, partition: int, start: int, end: int) -> Iterator[Written]:
    if start >= end:
        return
    for chunk in reader.read({partition: (start, end)}, PATIENCE):
        for message in chunk:
            kind, at = message.timestamp()
            yield Written(message.offset(), content_of(message.key(), message.value()), at if kind else -1)


def _findings(
    topic: str, partition: int, groups: dict[str, tuple[int, int]], repeat: Repeat, at: float
) -> Iterator[Finding]:
    same = repeat.first - repeat.original
    when = (
        "with the same timestamp: most likely sent again by a producer without idempotence (set enable.idempotence=true)"
        if repeat.later == 0
        else f"written {repeat.later} ms later: whoever produces them did so twice"
    )
    for group, (start, end) in sorted(groups.items()):
        if start <= repeat.first and repeat.last < end:
            why = (
                f"key and value are those of {repeat.original}"
                + (f" to {repeat.last - same}" if repeat.last > repeat.first else "")
                + f", {when}"
            )
            yield Finding(group, topic, partition, repeat.first, repeat.last, "produced_twice", why, at)
