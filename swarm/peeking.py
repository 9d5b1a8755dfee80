"""A look at messages of a topic: which offsets are meant, what is there, and what of it is shown. Joins no group and commits nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from swarm.errors import SwarmError, describe
from swarm.message import Message, Record
from swarm.redaction import HIDDEN, Redaction, decoded, plain
from swarm.wording import counted, plural

if TYPE_CHECKING:
    from swarm.admin import Cluster
    from swarm.client import TopicReader

TIMEOUT: Final = 15.0
"""Seconds for one answer of the cluster."""
FIRST_TIMEOUT: Final = 10.0
MOST_PLACES: Final = 6
"""Partitions that are named in one line."""
GROUP: Final = "swarm.peek"
"""A name that librdkafka wants; no such group is ever joined, asked or made."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What to look at. At most one of offset, time (ms since the epoch) and last; `limit` messages at most, with this key only if there is one."""

    partition: int | None = None
    offset: int | None = None
    time: int | None = None
    last: int | None = None
    limit: int = 10
    key: bytes | None = None


@dataclass(slots=True)
class Look:
    """What was found. notes: what is not there, in words."""

    topic: str
    partitions: dict[int, tuple[int, int]]
    """Those that were looked at, with the first offset of their logs and the one after the last."""
    records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    withheld: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of partitions that were looked at to their end: from where to where an open transaction keeps messages from who reads what is
    committed."""


Withheld = Callable[[Sequence[int]], Mapping[int, tuple[int, int]]]
"""Of these partitions: the end of what is committed and that of the log, where they differ."""


def held_back(cluster: Cluster, topic: str, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
    """What open transactions withhold, as the cluster says."""
    places = [(topic, number) for number in partitions]
    last = cluster.offsets(places, "end")  # first: what is committed meanwhile is not withheld
    stable = cluster.offsets(places, "end", stable=True)
    return {
        place[1]: (stable[place][0], end)
        for place, (end, _) in last.items()
        if place in stable and end > stable[place][0]
    }


def look(reader: TopicReader, topic: str, wish: Wish, *, stable: bool, withheld: Withheld = lambda _: {}) -> Look:
    """Find the messages. Blocks; raises SwarmError for a topic or a partition that is not there, and KafkaException."""
    count = reader.partitions(topic, FIRST_TIMEOUT)
    if not count:
        raise SwarmError(
            f"there is no topic {topic}, or it may not be described.\nswarmctl topics --all lists those that there are."
        )
    if wish.partition is not None and wish.partition >= count:
        raise SwarmError(f"{topic} has no partition {wish.partition}: they are numbered 0 to {count - 1}.")
    chosen = range(count) if wish.partition is None else [wish.partition]
    hidden = withheld(chosen)
    found = Look(topic, {number: reader.bounds(number, TIMEOUT) for number in chosen})
    at = reader.offsets_at(chosen, wish.time, TIMEOUT) if wish.time is not None else {}
    spans = {}
    for number, (first, end) in found.partitions.items():
        readable, last = hidden.get(number, (end, end))
        start = starting(wish, first, min(end, readable), at.get(number, -1))
        spans[number] = (start, min(end, readable))
        found.notes += missing(f"{topic}/{number}", wish.offset, first, last)
    want = wish.last if wish.last is not None else wish.limit
    taken: dict[int, list[Record]] = {number: [] for number in spans}
    seen = {number: start - 1 for number, (start, _) in spans.items()}
    for record in _records(reader, spans, lambda: _enough(taken, spans, seen, want, newest=wish.last is not None)):
        number, offset = record.partition(), record.offset()
        if len(taken[number]) < want or wish.last is not None:
            found.notes += gap(f"{topic}/{number}", seen[number] + 1, offset, stable=stable)
            if wish.key is None or record.key() == wish.key:
                taken[number].append(record)
        seen[number] = offset
    every = sorted((each for records in taken.values() for each in records), key=_moment)
    found.records = every[-want:] if wish.last is not None else every[:want]
    found.withheld = {n: at for n, at in hidden.items() if wish.last is not None or len(taken[n]) < want}
    found.notes += _withheld(topic, found.withheld)
    return found


def starting(wish: Wish, first: int, end: int, at: int) -> int:
    """The offset from which a partition is read. `at`: what the broker says of the wished time, negative: nothing is that new."""
    if wish.offset is not None:
        return min(max(wish.offset, first), end)
    if wish.time is not None:
        return at if at >= 0 else end
    if wish.last is not None and wish.key is None:
        return max(first, end - wish.last)
    return first


def missing(place: str, offset: int | None, first: int, end: int) -> list[str]:
    """What to say of an offset that the log does not have."""
    if offset is not None and offset < first:
        return [f"{place}: {offset}..{first - 1} were deleted (retention); the log begins at {first}"]
    if offset is not None and offset >= end:
        return [f"{place}: the log ends at {end}, there is no {offset} yet"]
    if first == end:
        return [f"{place} is empty" + (f": all before {end} was deleted (retention)" if end else "")]
    return []


def gap(place: str, expected: int, offset: int, *, stable: bool) -> list[str]:
    """What to say of offsets between two messages that hold none."""
    if offset <= expected:
        return []
    what = f"{expected}" if offset == expected + 1 else f"{expected}..{offset - 1}"
    hidden = ", aborted" if stable else ""
    return [f"{place}: no message at {what} (compacted away{hidden}, or a transaction's marker)"]


def _withheld(topic: str, hidden: Mapping[int, tuple[int, int]]) -> list[str]:
    """What to say of offsets that an open transaction withholds."""
    if not hidden:
        return []
    many = sum(end - start for start, end in hidden.values())
    places = [f"{topic}/{number} from {start} on" for number, (start, _) in sorted(hidden.items())]
    if len(places) > MOST_PLACES:
        places[MOST_PLACES:] = [f"and {counted(len(places) - MOST_PLACES, 'more partition')}"]
    who = "swarmctl lag says who waits for it, swarmctl doctor how to find its producer"
    what = f"{counted(many, 'offset')} {plural(many, 'is', 'are')} withheld by an open transaction"
    return [f"{topic}: {what}: {who}; --read-uncommitted shows them ({', '.join(places)})"]


def _records(reader: TopicReader, spans: Mapping[int, tuple[int, int]], enough: Callable[[], bool]) -> Iterator[Record]:
    if all(start >= end for start, end in spans.values()):
        return
    for chunk in reader.read(spans, TIMEOUT):
        yield from chunk
        if enough():
            return


def _enough(
    taken: Mapping[int, Sequence[Record]],
    spans: Mapping[int, tuple[int, int]],
    seen: Mapping[int, int],
    want: int,
    *,
    newest: bool,
) -> bool:
    """Whether nothing more can be among those that are shown: for the newest ones everything has to be read."""
    if newest:
        return False
    return all(len(records) >= want or seen[number] >= spans[number][1] - 1 for number, records in taken.items())


def _moment(record: Record) -> tuple[int, int, int]:
    kind, milliseconds = record.timestamp()
    return (milliseconds if kind else 0, record.partition(), record.offset())


# -- what is shown ---------------------------------------------------------------------------------------------------


def shown(record: Record, redaction: Redaction, deserializer: Callable[[bytes], Any] | None) -> dict[str, Any]:
    """A message as JSON, secrets hidden. `value_as`: how the value was read: "app" (by its deserializer), json, text, hex, or null.

    `error` where the app's deserializer fails; the value is then shown without it.
    """
    message = Message(record, deserializer)
    value, how, error = _value(message, redaction, with_app=deserializer is not None)
    return {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "timestamp": message.timestamp,
        "key": _text(message.key, redaction),
        "headers": [
            [redaction.text(name), HIDDEN if redaction.name(name) and data is not None else _text(data, redaction)]
            for name, data in message.headers
        ],
        "value": value,
        "value_as": how,
        "size": len(record),
        "error": error,
    }


def _value(message: Message, redaction: Redaction, *, with_app: bool) -> tuple[Any, str, str | None]:
    raw = message.raw
    if raw is None:
        return None, "null", None
    error = None
    if with_app:
        try:
            return redaction.value(plain(message.value)), "app", None
        except Exception as failure:  # the application's, of whatever kind
            error = redaction.text(describe(failure))
    return *_guess(raw, redaction), error


def _guess(raw: bytes, redaction: Redaction) -> tuple[Any, str]:
    import json

    if raw.lstrip()[:1] in (b"{", b"[", b'"'):
        try:
            return redaction.value(json.loads(raw)), "json"
        except (ValueError, RecursionError):
            pass
    text = decoded(raw)
    return (redaction.data(raw).hex(), "hex") if text.startswith("hex:") else (redaction.text(text), "text")


def _text(data: bytes | None, redaction: Redaction) -> str | None:
    if data is None:
        return None
    value, how = _guess(data, redaction)
    if how == "json":
        import json

        return json.dumps(value, ensure_ascii=False)
    return f"hex:{value}" if how == "hex" else str(value)
