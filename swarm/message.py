"""What a handler receives: lazy views over the client's messages. No work per message that the handler did not ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, overload

from swarm.headers import headers_of


class Record(Protocol):
    """What the client hands out: confluent-kafka's Message of a record that is no error, where nothing of this is None."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> list[tuple[str, bytes | None]] | None: ...
    def timestamp(self) -> tuple[int, int]: ...
    def __len__(self) -> int: ...


_UNREAD: Any = object()


class Message:
    """One record. All attributes are read from the client's message when they are asked for."""

    __slots__ = ("_deserializer", "_raw", "_value", "attempt")

    def __init__(self, raw: Record, deserializer: Callable[[bytes], Any] | None = None, attempt: int = 1) -> None:
        self._raw = raw
        self._deserializer = deserializer
        self._value = _UNREAD
        self.attempt = attempt
        """1 for the first run of this message; counted per message in `each`, per batch otherwise."""

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._raw.topic()

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self._raw.partition()

    @property
    def offset(self) -> int:
        """This message's own offset (the committed one after it is offset + 1)."""
        return self._raw.offset()

    @property
    def key(self) -> bytes | None:
        """The key as it was produced."""
        return self._raw.key()

    @property
    def raw(self) -> bytes | None:
        """The value as it was produced; None is a tombstone."""
        return self._raw.value()

    @property
    def value(self) -> Any:
        """What the subscription's deserializer makes of `raw`, once; `raw` itself without one. Raises what the deserializer raises."""
        if self._value is _UNREAD:
            raw = self._raw.value()
            deserializer: Any = self._deserializer
            if deserializer is None or raw is None:
                self._value = raw
            else:  # those of swarm.serialization also want the topic and the headers
                self._value = deserializer(self if getattr(deserializer, "wants_message", False) else raw)
        return self._value

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """Headers in their order; empty where there are none. What is not UTF-8 in a name is U+FFFD."""
        return headers_of(self._raw)

    @property
    def timestamp(self) -> int | None:
        """The record's timestamp in milliseconds since the epoch; None where the producer and broker set none."""
        kind, milliseconds = self._raw.timestamp()
        return milliseconds if kind else None

    def __repr__(self) -> str:
        return f"<Message {self.topic}/{self.partition}@{self.offset}>"


class Plain(Message):
    """A message of a subscription without a deserializer: its value is what was produced.

    For loops over many of them, which make it with nothing and set `_raw` and `attempt`: an `__init__` in Python costs as much as
    all the rest (measured: twice the time for a message whose value is read).
    """

    __slots__ = ()
    __init__ = object.__init__  # that of C, which a call of the class does not even look for

    @property
    def value(self) -> Any:
        """What was produced."""
        return self._raw.value()


class Messages(Sequence[Message]):
    """A batch of one partition, in the order of its offsets."""

    __slots__ = ("_attempt", "_deserializer", "_made", "_raws")

    def __init__(
        self,
        raws: Sequence[Record],
        deserializer: Callable[[bytes], Any] | None = None,
        attempt: int = 1,
    ) -> None:
        self._raws = raws
        self._deserializer = deserializer
        self._attempt = attempt
        self._made: dict[int, Message] = {}

    def __len__(self) -> int:
        return len(self._raws)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Messages: ...
    def __getitem__(self, index: int | slice) -> Message | Messages:
        if isinstance(index, slice):
            return Messages(self._raws[index], self._deserializer, self._attempt)
        size = len(self._raws)
        if not -size <= index < size:
            raise IndexError(f"message {index} of a batch of {size}")
        index %= size
        made = self._made.get(index)
        if made is None:
            made = self._made[index] = Message(self._raws[index], self._deserializer, self._attempt)
        return made

    def __iter__(self) -> Iterator[Message]:
        deserializer, attempt = self._deserializer, self._attempt
        if self._made:  # a message that was handed out before is handed out again, with the value it has read
            return (self[i] for i in range(len(self._raws)))
        if deserializer is None:
            return _plain(self._raws, attempt)
        return (Message(raw, deserializer, attempt) for raw in self._raws)

    @property
    def topic(self) -> str:
        """The topic of all of them."""
        return self._raws[0].topic()

    @property
    def partition(self) -> int:
        """The partition of all of them."""
        return self._raws[0].partition()

    @property
    def first_offset(self) -> int:
        """Offset of the first message."""
        return self._raws[0].offset()

    @property
    def last_offset(self) -> int:
        """Offset of the last message."""
        return self._raws[-1].offset()

    def raw_values(self) -> list[bytes | None]:
        """All values as produced, in one pass: the cheapest way to read a batch."""
        return [raw.value() for raw in self._raws]

    def __repr__(self) -> str:
        return f"<Messages {self.topic}/{self.partition}@{self.first_offset}..{self.last_offset}>"


def _plain(raws: Sequence[Record], attempt: int) -> Iterator[Message]:
    for raw in raws:
        message = Plain()
        message._raw = raw
        message.attempt = attempt
        yield message
