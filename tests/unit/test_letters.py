"""Dead letters as values: reading, choosing, sending back, remembering."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.letters import LONGEST_METADATA, Done, Letter, Outgoing, Selection, Span, moment, outgoing, read_letter

LETTER = Letter(
    "orders.dead",
    0,
    41,
    "orders",
    5,
    7,
    "shop",
    3,
    "TimeoutError: the bank",
    1000,
    b"key",
    b"value",
    (("trace", b"1"),),
)


class Played:
    """A client's message."""

    def __init__(self, headers: list[tuple[str, bytes | None]] | None, timestamp: tuple[int, int] = (1, 99)) -> None:
        self._headers = headers
        self._timestamp = timestamp

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return self._timestamp

    def topic(self) -> str:
        return "orders.dead"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 41

    def key(self) -> bytes:
        return b"key"

    def value(self) -> bytes:
        return b"value"


def test_a_letter_is_read_with_its_origin_and_its_own_headers() -> None:
    """What the dead letter added is told from what the message had; headers may repeat and be null."""
    raw = Played(
        [
            ("trace", b"1"),
            ("swarm.replayed", b"2"),
            ("swarm.source.topic", b"orders"),
            ("swarm.source.partition", b"5"),
            ("swarm.source.offset", b"7"),
            ("swarm.source.timestamp", b"1000"),
            ("swarm.source.group", b"shop"),
            ("swarm.attempts", b"3"),
            ("swarm.error", b"TimeoutError: the bank"),
            ("trace", None),
        ]
    )

    letter = read_letter(raw)

    assert letter is not None
    assert (letter.source_topic, letter.source_partition, letter.source_offset) == ("orders", 5, 7)
    assert (letter.group, letter.attempts, letter.error_type, letter.replayed) == ("shop", 3, "TimeoutError", 2)
    assert letter.timestamp == 1000
    assert letter.headers == (("trace", b"1"), ("trace", None))


@pytest.mark.parametrize(
    ("headers", "read"),
    [
        (None, None),
        ([("trace", b"1")], None),
        ([("swarm.source.topic", b"")], None),
        (
            [("swarm.source.topic", b"orders"), ("swarm.source.partition", b"x"), ("swarm.attempts", None)],
            (None, None, 99),
        ),
    ],
)
def test_what_has_no_source_topic_is_no_letter(headers: Any, read: Any) -> None:
    """Nobody knows where it belongs. What else is missing or garbled is unknown, and no reason to refuse it."""
    letter = read_letter(Played(headers))

    assert (letter and (letter.source_partition, letter.attempts, letter.timestamp)) == read


@pytest.mark.parametrize(
    ("selection", "takes"),
    [
        (Selection(), True),
        (Selection(topics=frozenset({"clicks", "orders"})), True),
        (Selection(topics=frozenset({"clicks"})), False),
        (Selection(partitions=frozenset({5})), True),
        (Selection(partitions=frozenset({0})), False),
        (Selection(offsets=Span(7, 7)), True),
        (Selection(offsets=Span(8, None)), False),
        (Selection(groups=frozenset({"other"})), False),
        (Selection(errors=("KeyError", "the BANK")), True),
        (Selection(errors=("timeouterror",)), True),
        (Selection(errors=("KeyError",)), False),
        (Selection(attempts=Span(None, 2)), False),
        (Selection(replayed=Span(0, 0)), True),
        (Selection(since=1000, until=1001), True),
        (Selection(until=1000), False),
        (Selection(since=1001), False),
        (Selection(topics=frozenset({"orders"}), errors=("KeyError",)), False),
    ],
)
def test_a_selection_takes_letters_for_which_all_of_it_holds(selection: Selection, takes: bool) -> None:
    """Within one option any of the values will do."""
    assert selection.takes(LETTER) is takes


@pytest.mark.parametrize(
    ("text", "span"),
    [("7", Span(7, 7)), ("7..", Span(7, None)), ("..7", Span(None, 7)), ("3..7", Span(3, 7)), (" 0 ", Span(0, 0))],
)
def test_a_span_is_a_number_or_a_range(text: str, span: Span) -> None:
    """Both ends are included."""
    assert Span.parse(text) == span


@pytest.mark.parametrize("text", ["", "..", "a", "-1", "7..3", "3 7", "1..2..3", "1.5"])
def test_a_span_that_makes_no_sense_is_refused(text: str) -> None:
    """Rather than taken for everything."""
    with pytest.raises(ValueError):  # noqa: PT011  # the command says what would do
        Span.parse(text)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2h", 1_000_000_000 - 7_200_000),
        ("500ms", 999_999_500),
        ("1970-01-02", 86_400_000),
        ("19700102", 86_400_000),
        ("1970-01-01T00:00:01+01:00", -3_599_000),
    ],
)
def test_a_moment_is_an_age_or_a_time(text: str, milliseconds: int) -> None:
    """UTC where no zone is named, whatever the machine's is."""
    assert moment(text, 1_000_000.0) == milliseconds


def test_a_letter_goes_back_to_the_partition_it_came_from() -> None:
    """As long as there is such a partition; else, and if asked, where its key belongs. With its own headers and timestamp."""
    same = outgoing(LETTER, "orders", 6)
    fewer = outgoing(LETTER, "orders", 5)
    by_key = outgoing(LETTER, "orders", 6, by_key=True, now=True)

    assert same == Outgoing("orders", 5, b"key", b"value", (("trace", b"1"), ("swarm.replayed", b"1")), 1000)
    assert fewer.partition == -1
    assert (by_key.partition, by_key.timestamp) == (-1, 0)


OFFSETS = st.sets(st.integers(0, 30))  # few, so that they touch


@given(OFFSETS, OFFSETS, st.integers(0, 20))
def test_what_is_done_survives_the_broker(first: set[int], second: set[int], start: int) -> None:
    """Encoded and decoded, added to in any order: exactly those offsets, and the committed one is the first that is not done."""
    done = Done([(0, start)])
    for offset in first:
        done.add(offset)
    restored = Done.decode(*done.encode())
    for offset in second:
        restored.add(offset)

    expected = set(range(start)) | first | second
    assert {offset for offset in range(40) if offset in restored} == expected
    assert restored.frontier() == min(set(range(40)) - expected)
    assert restored.ranges == sorted(restored.ranges)
    assert Done.decode(*restored.encode()).ranges == restored.ranges


def test_a_thousand_scattered_letters_fit_into_the_brokers_metadata() -> None:
    """In a topic of a million, irregularly; nothing that was sent back is forgotten for the sake of space."""
    done = Done()
    offset = 0
    for number in range(1000):
        offset += 2 + number * 7919 % 1997
        done.add(offset)

    assert len(done.encode()[1]) < LONGEST_METADATA


@pytest.mark.parametrize("metadata", ["something else", "1:x", "1:" + "c%1E4" * 3, "2:"])
def test_metadata_of_others_are_refused(metadata: str) -> None:
    """They would be taken for an empty past, and everything sent twice."""
    with pytest.raises(ValueError, match=r"not readable|something else"):
        Done.decode(5, metadata)
