"""Which messages `swarmctl peek` finds, and how it shows them; with a reader that is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.cli import cluster_display
from swarm.errors import SwarmError
from swarm.peeking import Wish, look, shown
from swarm.redaction import HIDDEN, Redaction

NONE = Redaction({})


class Record:
    def __init__(
        self, partition: int, offset: int, value: bytes | None = b"v", key: bytes | None = None, at: int | None = None
    ) -> None:
        self._place, self._value, self._key = (partition, offset), value, key
        self._at = at if at is not None else 1000 * offset + partition
        self.own_headers: list[tuple[str, bytes | None]] = []

    def topic(self) -> str:
        return "orders"

    def partition(self) -> int:
        return self._place[0]

    def offset(self) -> int:
        return self._place[1]

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self.own_headers or None

    def timestamp(self) -> tuple[int, int]:
        return (1, self._at)

    def __len__(self) -> int:
        return len(self._value or b"")


class Reader:
    """A topic whose partitions have these records, between these bounds."""

    def __init__(self, bounds: Mapping[int, tuple[int, int]], records: list[Record]) -> None:
        self._bounds, self._records = bounds, records

    def partitions(self, _topic: str, _timeout: float) -> int:
        return len(self._bounds)

    def bounds(self, partition: int, _timeout: float) -> tuple[int, int]:
        return self._bounds[partition]

    def offsets_at(self, partitions: Any, milliseconds: int, _timeout: float) -> dict[int, int]:
        return {
            number: min(
                (r.offset() for r in self._records if r.partition() == number and r.timestamp()[1] >= milliseconds),
                default=-1,
            )
            for number in partitions
        }

    def read(self, spans: Mapping[int, tuple[int, int]], _patience: float) -> Iterator[list[Record]]:
        for record in self._records:
            start, end = spans.get(record.partition(), (0, 0))
            if start <= record.offset() < end:
                yield [record]


def offsets(reader: Reader, **wish: Any) -> list[tuple[int, int]]:
    found = look(reader, "orders", Wish(**wish), stable=True)  # type: ignore[arg-type]
    return [(record.partition(), record.offset()) for record in found.records]


def notes(reader: Reader, held: Mapping[int, tuple[int, int]] | None = None, **wish: Any) -> list[str]:
    """held: what open transactions withhold."""

    def withheld(partitions: Iterable[int]) -> dict[int, tuple[int, int]]:
        return {number: bounds for number, bounds in (held or {}).items() if number in partitions}

    return look(reader, "orders", Wish(**wish), stable=True, withheld=withheld).notes  # type: ignore[arg-type]


TWO = Reader({0: (5, 10), 1: (0, 3)}, [*(Record(0, n) for n in range(5, 10)), *(Record(1, n) for n in range(3))])


def test_the_newest_are_the_newest_of_all_partitions() -> None:
    """By their timestamps, oldest of them first."""
    assert offsets(TWO, last=3) == [(0, 7), (0, 8), (0, 9)]
    assert offsets(TWO, last=100) == [(1, 0), (1, 1), (1, 2), *((0, n) for n in range(5, 10))]
    assert offsets(TWO, last=2, partition=1) == [(1, 1), (1, 2)]


def test_from_an_offset_or_a_time_on_there_are_at_most_so_many() -> None:
    assert offsets(TWO, partition=0, offset=6, limit=2) == [(0, 6), (0, 7)]
    assert offsets(TWO, time=8000, limit=10) == [(0, 8), (0, 9)]
    assert offsets(TWO, time=10**9) == []


def test_what_is_deleted_or_not_there_yet_is_said() -> None:
    assert notes(TWO, partition=0, offset=2) == ["orders/0: 2..4 were deleted (retention); the log begins at 5"]
    assert notes(TWO, partition=1, offset=7) == ["orders/1: the log ends at 3, there is no 7 yet"]
    assert notes(Reader({0: (4, 4)}, []), last=1) == ["orders/0 is empty: all before 4 was deleted (retention)"]


def test_gaps_are_said_where_they_are_seen() -> None:
    """Compacted away, or aborted: between the messages that are shown, and before the first."""
    reader = Reader({0: (0, 9)}, [Record(0, 0), Record(0, 3), Record(0, 4), Record(0, 8)])

    assert notes(reader, offset=0) == [
        "orders/0: no message at 1..2 (compacted away, aborted, or a transaction's marker)",
        "orders/0: no message at 5..7 (compacted away, aborted, or a transaction's marker)",
    ]
    assert notes(reader, offset=3, limit=2) == []


SAYS = (
    "withheld by an open transaction: swarmctl lag says who waits for it, swarmctl doctor how to find its producer; "
    "--read-uncommitted shows them"
)


def test_what_an_open_transaction_withholds_is_said_in_one_line() -> None:
    """Of all partitions that were looked at to their end: there is more, and it is not the end of the log."""
    assert notes(TWO, {0: (10, 17)}, last=3) == [f"orders: 7 offsets are {SAYS} (orders/0 from 10 on)"]
    assert notes(TWO, {0: (10, 17), 1: (3, 4)}, last=3) == [
        f"orders: 8 offsets are {SAYS} (orders/0 from 10 on, orders/1 from 3 on)"
    ]
    assert notes(TWO, {0: (10, 11), 1: (3, 4)}, last=3, partition=1) == [
        f"orders: 1 offset is {SAYS} (orders/1 from 3 on)"
    ]
    many = dict.fromkeys(range(9), (0, 2))
    (said,) = notes(Reader(dict.fromkeys(many, (0, 0)), []), many, last=1)
    assert said.startswith("orders: 18 offsets are ")
    assert said.endswith("orders/5 from 0 on, and 3 more partitions)")


def test_what_is_withheld_is_said_only_to_who_gets_there() -> None:
    """Who has got as many messages as were asked for has not missed it; a log that is withheld is neither empty nor at its end."""
    assert notes(TWO, {0: (10, 17)}, partition=0, offset=5, limit=5) == []
    assert notes(TWO, {0: (10, 17)}, partition=0, offset=5, limit=6) == [
        f"orders: 7 offsets are {SAYS} (orders/0 from 10 on)"
    ]
    assert notes(TWO, {0: (10, 17)}, partition=0, offset=12) == [f"orders: 7 offsets are {SAYS} (orders/0 from 10 on)"]
    assert notes(TWO, {0: (10, 17)}, partition=0, offset=17) == [
        "orders/0: the log ends at 17, there is no 17 yet",
        f"orders: 7 offsets are {SAYS} (orders/0 from 10 on)",
    ]
    assert notes(Reader({0: (0, 0)}, []), {0: (0, 2)}, last=1) == [f"orders: 2 offsets are {SAYS} (orders/0 from 0 on)"]


def test_what_is_withheld_is_not_read_where_the_bounds_reach_further() -> None:
    reader = Reader({0: (0, 9)}, [Record(0, n) for n in range(9)])
    found = look(reader, "orders", Wish(last=2), stable=True, withheld=lambda _: {0: (5, 9)})  # type: ignore[arg-type]

    assert [record.offset() for record in found.records] == [3, 4]
    assert found.withheld == {0: (5, 9)}


def test_a_key_is_looked_for_as_long_as_it_takes() -> None:
    """Also among the newest, which are then the newest of that key."""
    reader = Reader({0: (0, 50)}, [Record(0, n, key=b"a" if n % 20 == 0 else b"b") for n in range(50)])

    assert offsets(reader, offset=0, key=b"a", limit=2) == [(0, 0), (0, 20)]
    assert offsets(reader, last=1, key=b"a") == [(0, 40)]


def test_a_topic_or_partition_that_is_not_there_is_one_readable_error() -> None:
    with pytest.raises(SwarmError, match="there is no topic orders"):
        offsets(Reader({}, []))
    with pytest.raises(SwarmError, match="no partition 2: they are numbered 0 to 1"):
        offsets(TWO, partition=2)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 10), st.data())
def test_never_more_than_asked_and_all_within_the_log(first: int, length: int, limit: int, data: st.DataObject) -> None:
    """Whatever is wished for."""
    end = first + length
    reader = Reader({0: (first, end)}, [Record(0, n) for n in range(first, end)])
    how = data.draw(st.sampled_from(["offset", "time", "last"]))
    value = data.draw(st.integers(0, 60)) if how != "last" else limit

    found = offsets(reader, **{how: value * 1000 if how == "time" else value, "limit": limit})

    assert len(found) <= limit
    assert [offset for _, offset in found] == list(range(found[0][1], found[0][1] + len(found))) if found else True
    assert all(first <= offset < end for _, offset in found)
    if how == "offset" and value < end:
        assert len(found) == min(limit, end - max(value, first))


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_values_are_read_as_json_text_or_digits_and_secrets_are_hidden() -> None:
    json_ = shown(Record(0, 1, b'{"card": {"cvv": "123"}, "n": 1}'), NONE, None)
    text = shown(Record(0, 1, b"password: hunter2"), NONE, None)
    binary = shown(Record(0, 1, b"\x00\xff"), NONE, None)
    nothing = shown(Record(0, 1, None), NONE, None)

    assert (json_["value_as"], json_["value"]) == ("json", {"card": {"cvv": HIDDEN}, "n": 1})
    assert (text["value_as"], text["value"]) == ("text", f"password: {HIDDEN}")
    assert (binary["value_as"], binary["value"]) == ("hex", "00ff")
    assert (nothing["value_as"], nothing["value"]) == ("null", None)


def test_the_apps_deserializer_is_used_and_its_failure_is_told() -> None:
    """A value that it cannot read is shown as it is; what the error quotes is hidden too."""

    def fails(raw: bytes) -> Any:
        raise ValueError(f"token={raw.decode()}")

    good = shown(Record(0, 1, b"a,b"), NONE, lambda raw: {"fields": raw.decode().split(","), "token": "hunter2"})
    bad = shown(Record(0, 1, b"hunter2"), NONE, fails)

    assert (good["value_as"], good["value"]) == ("app", {"fields": ["a", "b"], "token": HIDDEN})
    assert bad["value_as"] == "text"
    assert bad["error"] == f"ValueError: token={HIDDEN}"


def test_keys_and_headers_are_shown_and_their_secrets_are_not() -> None:
    record = Record(0, 1, b"v", key=b'{"id": 7, "token": "hunter2"}')
    record.own_headers = [("Authorization", b"Bearer hunter2"), ("trace", b"abc"), ("x", None), ("bin", b"\xff")]

    found = shown(record, NONE, None)
    text = cluster_display.messages([found])

    assert found["headers"] == [["Authorization", HIDDEN], ["trace", "abc"], ["x", None], ["bin", "hex:ff"]]
    assert "hunter2" not in text
    assert "orders/0@1  1970-01-01 00:00:01.000Z" in text


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    found = shown(Record(0, 1, b'{"a": "\\u001b[2J"}'), NONE, None)

    assert "\x1b" not in cluster_display.messages([found])
