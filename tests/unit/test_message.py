"""Messages are lazy views: nothing is read or deserialized that the handler did not ask for, and nothing twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.message import Message, Messages
from tests.unit.stage import record


class Untouchable:
    """A record that tells what was asked of it."""

    def __init__(self, offset: int) -> None:
        self.asked: list[str] = []
        self._record = record(offset)

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        return getattr(self._record, name)


def test_a_batch_that_is_only_counted_reads_nothing() -> None:
    """Length, slices and iteration touch no record."""
    raws = [Untouchable(offset) for offset in range(5)]
    messages = Messages(raws)

    assert (len(messages), len(messages[1:3]), len(list(messages))) == (5, 2, 5)
    assert not any(raw.asked for raw in raws)


def test_a_value_is_deserialized_once_and_only_when_it_is_read() -> None:
    """`raw` stays bytes, a tombstone stays None, an error of the deserializer is the handler's to see."""
    calls: list[bytes] = []

    def load(raw: bytes) -> Any:
        calls.append(raw)
        return json.loads(raw)

    good, bad = record(1, value=b'{"a": 1}'), record(2, value=b"{")
    messages = Messages([good, bad], load)

    first = messages[0]
    assert first.raw == b'{"a": 1}'
    assert calls == []
    assert first.value is first.value is messages[0].value
    assert next(iter(messages)).value == {"a": 1}
    assert calls == [b'{"a": 1}']
    with pytest.raises(json.JSONDecodeError):
        _ = messages[1].value


def test_a_message_has_the_attributes_of_the_contract() -> None:
    """Bytes as produced, headers as a list, the timestamp in milliseconds."""
    message = Message(record(7, partition=3), attempt=2)

    assert (message.topic, message.partition, message.offset, message.attempt) == ("orders", 3, 7, 2)
    assert (message.key, message.raw, message.value) == (b"key-7", b"value-7", b"value-7")
    assert message.headers == [("trace", b"abc")]
    assert message.timestamp == 1_700_000_000_007


@given(st.integers(0, 6), st.integers(-9, 9))
def test_a_batch_is_indexed_as_a_list_is(size: int, index: int) -> None:
    """Also from the end, and beyond both ends it raises IndexError."""
    offsets = list(range(10, 10 + size))
    messages = Messages([record(offset) for offset in offsets])

    if -size <= index < size:
        assert messages[index].offset == offsets[index]
    else:
        with pytest.raises(IndexError):
            messages[index]
    assert [message.offset for message in messages[index:]] == offsets[index:]
    assert [message.offset for message in reversed(messages)] == offsets[::-1]


def test_a_batch_tells_its_range() -> None:
    """topic, partition, first and last offset."""
    messages = Messages([record(4), record(9)], attempt=3)

    assert (messages.topic, messages.partition, messages.first_offset, messages.last_offset) == ("orders", 0, 4, 9)
    assert {message.attempt for message in messages} == {3}
