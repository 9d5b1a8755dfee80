"""Dead letters as values: read one, choose some, make the message that goes back, remember which are done. Pure: no client, no clock.

A letter is what `swarm.dead_letters` has written. Whether a record of a dead letter topic is one is decided here, by its headers.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
import zlib
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from swarm.config.units import seconds
from swarm.headers import headers_of

OURS: Final = "swarm."
"""What the names of the headers begin with that a dead letter has on top of its own."""
REPLAYED: Final = "swarm.replayed"
"""Header of a message that was sent back: how often. A letter keeps it, so a message that goes round and round can be seen to."""
LONGEST_METADATA: Final = 4096
"""Bytes of text that a broker keeps with an offset (`offset.metadata.max.bytes`)."""

_FORMAT: Final = "1:"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: where it lies, where it came from and why (None: the header is missing or unreadable), and the message itself.

    timestamp: milliseconds since the epoch, the original's. headers: the original's own. replayed: how often it was sent back before.
    """

    topic: str
    partition: int
    offset: int
    source_topic: str
    source_partition: int | None
    source_offset: int | None
    group: str | None
    attempts: int | None
    error: str
    timestamp: int | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    replayed: int = 0

    @property
    def error_type(self) -> str:
        """The exception's type, or the reason's first word: what counts are made by."""
        return re.split(r"[:\s]", self.error, maxsplit=1)[0] or "(none)"


def read_letter(raw: Any) -> Letter | None:
    """The letter that a client's message is; None where it has no `swarm.source.topic`: then nobody knows where it belongs."""
    own = []
    ours: dict[str, str] = {}
    for name, value in headers_of(raw):
        if name.startswith(OURS):
            ours[name] = (value or b"").decode("utf-8", "replace")
        else:
            own.append((name, value))
    source = ours.get("swarm.source.topic")
    if not source:
        return None
    kind, written = raw.timestamp()
    stamp = _number(ours.get("swarm.source.timestamp"))
    if stamp is None or stamp < 0:
        stamp = written if kind else None
    return Letter(
        raw.topic(),
        raw.partition(),
        raw.offset(),
        source,
        _number(ours.get("swarm.source.partition")),
        _number(ours.get("swarm.source.offset")),
        ours.get("swarm.source.group"),
        _number(ours.get("swarm.attempts")),
        ours.get("swarm.error", ""),
        stamp,
        raw.key(),
        raw.value(),
        tuple(own),
        _number(ours.get(REPLAYED)) or 0,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,19}", text, re.ASCII) else None


# -- choosing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """Whole numbers from `first` to `last`, both included; None: no end on that side."""

    first: int | None = None
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> Span:
        """A number, or two with ".." between them of which one may be missing; ValueError for anything else."""
        match = re.fullmatch(r"\s*([0-9]{1,19})?\s*(\.\.)?\s*([0-9]{1,19})?\s*", text, re.ASCII)
        if match is None or not (match[1] or match[3]) or (match[1] and match[3] and not match[2]):
            raise ValueError("not a range")
        first, last = (int(match[1]) if match[1] else None), (int(match[3]) if match[3] else None)
        if not match[2]:
            last = first
        if first is not None and last is not None and last < first:
            raise ValueError("a range that ends before it begins")
        return cls(first, last)

    def __contains__(self, number: int | None) -> bool:
        return (
            number is not None
            and (self.first is None or self.first <= number)
            and (self.last is None or number <= self.last)
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: those for which everything that is given holds. What is empty or None is not asked.

    topics, partitions, offsets, groups: of the source. errors: texts of which one is contained in the error's type and text, in any
    case. since, until: of the original's timestamp, ms since the epoch, the second one excluded; a letter without one is not meant.
    """

    topics: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    offsets: Span | None = None
    groups: frozenset[str] = frozenset()
    errors: tuple[str, ...] = ()
    attempts: Span | None = None
    replayed: Span | None = None
    since: int | None = None
    until: int | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether this letter is meant."""
        error = letter.error.lower()
        return (
            (not self.topics or letter.source_topic in self.topics)
            and (not self.partitions or letter.source_partition in self.partitions)
            and (self.offsets is None or letter.source_offset in self.offsets)
            and (not self.groups or letter.group in self.groups)
            and (not self.errors or any(text.lower() in error for text in self.errors))
            and (self.attempts is None or letter.attempts in self.attempts)
            and (self.replayed is None or letter.replayed in self.replayed)
            and (self.since is None or (letter.timestamp is not None and letter.timestamp >= self.since))
            and (self.until is None or (letter.timestamp is not None and letter.timestamp < self.until))
        )


def moment(text: str, now: float) -> int:
    """Milliseconds since the epoch from "2h" (so long before `now`, s since the epoch) or an ISO 8601 time; UTC where it names no zone.

    ValueError for anything else.
    """
    try:
        ago = seconds(text) if not text.strip().isdecimal() else None  # 20260131 is a day
    except ValueError:
        ago = None
    if ago is not None:
        return int((now - ago) * 1000)
    found = datetime.datetime.fromisoformat(text.strip())
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.UTC)
    return int(found.timestamp() * 1000)


# -- sending back ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is produced for a letter. partition -1: the partitioner decides by the key. timestamp 0: now."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: int


def outgoing(letter: Letter, topic: str, partitions: int, *, by_key: bool = False, now: bool = False) -> Outgoing:
    """The message as it was, for a topic with so many partitions.

    It goes to the partition it came from: there its key's other messages are, whoever produced them with whatever partitioner. By
    its key where the topic has no such partition, or `by_key` asks for it. `now`: with the time of sending instead of its own.
    """
    source = letter.source_partition
    keeps = not by_key and source is not None and 0 <= source < partitions
    return Outgoing(
        topic,
        source if keeps and source is not None else -1,
        letter.key,
        letter.value,
        (*letter.headers, (REPLAYED, str(letter.replayed + 1).encode())),
        0 if now or letter.timestamp is None or letter.timestamp <= 0 else letter.timestamp,
    )


# -- remembering -----------------------------------------------------------------------------------------------------


class Done:
    """The offsets of one partition that need not be looked at again: sent back, or nothing there. Half-open ranges, in order.

    Kept by the broker as a committed offset (below it everything is done) and its metadata (what is done above it).
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """What is done, merged."""
        return list(zip(self._starts, self._ends, strict=True))

    def __contains__(self, offset: int) -> bool:
        at = bisect_right(self._starts, offset) - 1
        return at >= 0 and offset < self._ends[at]

    def __bool__(self) -> bool:
        return bool(self._starts)

    def add(self, start: int, end: int | None = None) -> None:
        """`start` up to `end` (excluded; default: that one offset) is done."""
        end = start + 1 if end is None else end
        if end <= start:
            return
        first = bisect_right(self._starts, start)
        if first and self._ends[first - 1] >= start:
            first -= 1
            start = self._starts[first]
        last = bisect_right(self._starts, end)
        if last > first:
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def frontier(self) -> int:
        """The first offset that is not done; 0 where nothing is known."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    def encode(self) -> tuple[int, str]:
        """What is committed: offset and metadata. That may be longer than a broker keeps (LONGEST_METADATA)."""
        position = frontier = self.frontier()
        data = bytearray()
        for start, end in self.ranges:
            if start > frontier:
                data += _varint(start - position) + _varint(end - start)
                position = end
        return frontier, _FORMAT + base64.b85encode(zlib.compress(bytes(data), 9)).decode() if data else ""

    @classmethod
    def decode(cls, offset: int, metadata: str) -> Done:
        """What `encode` has made; ValueError for anything else. A negative offset: nothing is committed."""
        done = cls()
        if offset < 0:
            return done
        done.add(0, offset)
        if not metadata:
            return done
        if not metadata.startswith(_FORMAT):
            raise ValueError("written by something else")
        try:
            numbers = list(_varints(zlib.decompress(base64.b85decode(metadata.removeprefix(_FORMAT)))))
        except (ValueError, zlib.error, binascii.Error) as error:
            raise ValueError("not readable") from error
        if len(numbers) % 2:
            raise ValueError("not readable")
        position = offset
        for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
            done.add(position + gap, position + gap + length)
            position += gap + length
        return done


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _varints(data: bytes) -> Iterable[int]:
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
    if shift:
        raise ValueError("ends in the middle of a number")
