"""How a journal's segment looks in bytes. Pure: knows no file, no lock and no clock.

A segment is a header and records, each at a multiple of eight bytes:

    header   magic, version, size of the header, serial, created (s since the epoch), used (bytes)
    record   checksum, size, kind, time (s since the epoch), then what its kind holds

Records are of four kinds. A *fact* is JSON: what happens seldom (a process began, a partition was assigned, a run failed, …). A *span*
is what one assignment has processed, and grows in place while first attempts succeed one after the other; a *commit* is what the broker
holds of one assignment, and grows likewise; an *ahead* is what an at-most-once assignment commits before it begins to run it, and is
overwritten by the next. What changes is made of words of eight bytes, each written by one store, and is not covered by
the checksum: a process that is killed leaves every word old or new, never in between.

`used` is written last: what lies behind it never happened. After a loss of power anything may be torn, which the checksums tell, and the
reader goes on at the next record that is whole. Numbers are in the byte order of the machine; on another one the version reads as unknown.
"""

from __future__ import annotations

import json
import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

MAGIC: Final = b"swarmjnl"
VERSION: Final = 1
HEADER: Final = struct.Struct("@8sIIQdQ")
HEADER_SIZE: Final = 64
USED_AT: Final = 32
"""Where in the header the number of bytes in use stands."""

_PREFIX: Final = struct.Struct("@IHBxd")
"""Checksum, size, kind, time."""
_FACT, _SPAN, _COMMIT, _AHEAD = 1, 2, 3, 4
_SPAN_FIXED: Final = struct.Struct("@IHBxdIIq")
"""The prefix, the assignment's number, flags (0), the first offset."""
_COMMIT_FIXED: Final = struct.Struct("@IHBxdII")
"""Of an ahead, too."""
LONGEST_FACT: Final = 8192
"""Bytes; texts in longer ones are cut."""
LONGEST_TEXT: Final = 600
"""Characters of an error in a fact."""

BOUNDS: Final = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Upper bounds (s) of the histogram of durations; what is longer comes in one more bucket."""
BUCKETS: Final = len(BOUNDS) + 1

SPAN_BEGUN: Final = struct.Struct("@qd")
"""The next offset after the newest batch that was begun, and when (s since the epoch)."""
SPAN_BEGUN_AT: Final = _SPAN_FIXED.size
SPAN_DONE: Final = struct.Struct("@qdQQdd")
"""The next offset after what is done, when, then batches, messages, their seconds in all, and the longest of them."""
SPAN_DONE_AT: Final = SPAN_BEGUN_AT + SPAN_BEGUN.size
SPAN_HISTOGRAM_AT: Final = SPAN_DONE_AT + SPAN_DONE.size
SPAN_BUCKET: Final = struct.Struct("@I")
_HISTOGRAM: Final = struct.Struct(f"@{BUCKETS}I")
SPAN_SIZE: Final = SPAN_HISTOGRAM_AT + _HISTOGRAM.size

COMMIT_LATEST: Final = struct.Struct("@qd")
"""The next offset that the broker holds, and since when."""
COMMIT_LATEST_AT: Final = _COMMIT_FIXED.size
COMMIT_SIZE: Final = COMMIT_LATEST_AT + COMMIT_LATEST.size

AHEAD_LATEST: Final = struct.Struct("@qqqd")
"""The first message of the newest batch, the next offset after its last, the one that is committed for it, and when that began."""
AHEAD_LATEST_AT: Final = _COMMIT_FIXED.size
AHEAD_SIZE: Final = AHEAD_LATEST_AT + AHEAD_LATEST.size


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that happens seldom. `at`: seconds since the epoch, as everywhere in a journal."""

    at: float
    what: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """First attempts of one assignment, one batch after the other. Offsets are those of messages, but `begun` and `done`, which are the
    next ones: what is between `done` and `begun` was in hand when the record was read, or its process ended."""

    at: float
    lane: int
    first: int
    begun: int
    begun_at: float
    done: int
    done_at: float
    batches: int
    messages: int
    seconds: float
    longest: float
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """The broker held `offset` at `latest_at`; `at` is when the first of the commits that this record stands for was answered."""

    at: float
    lane: int
    offset: int
    latest_at: float


@dataclass(frozen=True, slots=True)
class Ahead:
    """At-most-once: messages [first, end) were to run as soon as the broker would hold `offset`, which was sent at `latest_at`."""

    at: float
    lane: int
    first: int
    end: int
    offset: int
    latest_at: float


Record = Fact | Span | Commit | Ahead


@dataclass(frozen=True, slots=True)
class Header:
    """A segment's own facts. `serial` counts up per writer: one whose first segment is not 0 has dropped older ones."""

    serial: int
    created: float
    used: int


class Unreadable(ValueError):
    """Bytes that are no segment of this version; the text says why."""


def pack_header(serial: int, created: float) -> bytes:
    """The header of a new segment."""
    return HEADER.pack(MAGIC, VERSION, HEADER_SIZE, serial, created, HEADER_SIZE).ljust(HEADER_SIZE, b"\0")


def read_header(data: bytes | memoryview) -> Header:
    """The header of a segment; Unreadable for anything else."""
    if len(data) < HEADER_SIZE:
        raise Unreadable("too short")
    magic, version, size, serial, created, used = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise Unreadable("not a journal")
    if version != VERSION or size != HEADER_SIZE:
        raise Unreadable(f"written by another release (version {version}; this one reads {VERSION})")
    return Header(serial, created, min(max(used, HEADER_SIZE), len(data)))


def _aligned(size: int) -> int:
    return -(-size // 8) * 8


def pack_fact(at: float, what: str, data: dict[str, Any]) -> bytes:
    """A record of a fact. Texts are cut to LONGEST_TEXT characters; one that is too long all the same loses its data."""
    cut = {key: value[:LONGEST_TEXT] if isinstance(value, str) else value for key, value in data.items()}
    body = json.dumps({"what": what, **cut}, ensure_ascii=False, separators=(",", ":"), default=str).encode()
    if len(body) > LONGEST_FACT:
        kept = {key: value for key, value in cut.items() if isinstance(value, (int, float))}
        body = json.dumps({"what": what, "cut": True, **kept}, separators=(",", ":")).encode()[:LONGEST_FACT]
    size = _aligned(_PREFIX.size + len(body))
    return _sealed(_PREFIX.pack(0, size, _FACT, at) + body.ljust(size - _PREFIX.size, b" "), size)


def pack_span(at: float, lane: int, first: int) -> bytes:
    """A record of a span that begins."""
    fixed = _sealed(_SPAN_FIXED.pack(0, SPAN_SIZE, _SPAN, at, lane, 0, first), _SPAN_FIXED.size)
    return fixed + SPAN_BEGUN.pack(first, at) + SPAN_DONE.pack(first, at, 0, 0, 0.0, 0.0) + bytes(_HISTOGRAM.size)


def pack_commit(at: float, lane: int, offset: int) -> bytes:
    """A record of a commit."""
    fixed = _sealed(_COMMIT_FIXED.pack(0, COMMIT_SIZE, _COMMIT, at, lane, 0), _COMMIT_FIXED.size)
    return fixed + COMMIT_LATEST.pack(offset, at)


def pack_ahead(at: float, lane: int, first: int, end: int, offset: int) -> bytes:
    """A record of what is committed before its run."""
    fixed = _sealed(_COMMIT_FIXED.pack(0, AHEAD_SIZE, _AHEAD, at, lane, 0), _COMMIT_FIXED.size)
    return fixed + AHEAD_LATEST.pack(first, end, offset, at)


def _sealed(record: bytes, covered: int) -> bytes:
    return struct.pack("@I", zlib.crc32(record[4:covered])) + record[4:]


def bucket(seconds: float) -> int:
    """Where in the histogram a duration counts."""
    return bisect_left(BOUNDS, seconds)


def read_records(data: bytes | memoryview, header: Header) -> Iterator[Record | None]:
    """The records of a segment in their order; None stands for damage that was passed over."""
    view = memoryview(data)[: header.used]
    at, sound = HEADER_SIZE, True
    while at + _PREFIX.size <= len(view):
        found = _read(view, at)
        if found is None:
            if sound:
                sound = False
                yield None
            at += 8
            continue
        record, size = found
        sound = True
        if record is not None:
            yield record
        at += size


def _read(view: memoryview, at: int) -> tuple[Record | None, int] | None:
    """The record at `at` and its size; None where there is none that is whole. Of a kind that is not known, only its size."""
    checksum, size, kind, moment = _PREFIX.unpack_from(view, at)
    if size < _PREFIX.size or size % 8 or at + size > len(view):
        return None
    covered = {_SPAN: _SPAN_FIXED.size, _COMMIT: _COMMIT_FIXED.size, _AHEAD: _COMMIT_FIXED.size}.get(kind, size)
    if size < covered or zlib.crc32(view[at + 4 : at + covered]) != checksum:
        return None
    if kind == _FACT:
        try:
            data = json.loads(bytes(view[at + _PREFIX.size : at + size]))
            what = data.pop("what")
        except (ValueError, KeyError, AttributeError, TypeError):
            return None
        return Fact(moment, str(what), data), size
    if kind == _SPAN and size == SPAN_SIZE:
        *_, lane, _flags, first = _SPAN_FIXED.unpack_from(view, at)
        begun, begun_at = SPAN_BEGUN.unpack_from(view, at + SPAN_BEGUN_AT)
        done, done_at, batches, messages, seconds, longest = SPAN_DONE.unpack_from(view, at + SPAN_DONE_AT)
        histogram = _HISTOGRAM.unpack_from(view, at + SPAN_HISTOGRAM_AT)
        span = Span(moment, lane, first, begun, begun_at, done, done_at, batches, messages, seconds, longest, histogram)
        return span, size
    if kind == _COMMIT and size == COMMIT_SIZE:
        *_, lane, _flags = _COMMIT_FIXED.unpack_from(view, at)
        return Commit(moment, lane, *COMMIT_LATEST.unpack_from(view, at + COMMIT_LATEST_AT)), size
    if kind == _AHEAD and size == AHEAD_SIZE:
        *_, lane, _flags = _COMMIT_FIXED.unpack_from(view, at)
        return Ahead(moment, lane, *AHEAD_LATEST.unpack_from(view, at + AHEAD_LATEST_AT)), size
    return None, size
