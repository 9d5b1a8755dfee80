"""A network in which a client hears nothing of one partition: a proxy that takes it out of the broker's answers to fetches.

Knows of Kafka's protocol only what that needs (Fetch from version 13 on, which carry topics by their ids), and nothing of a swarm.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Coroutine, Iterator

from tests.support.kafka import Broker
from tests.support.ports import free_port
from tests.support.proxy import Proxy

_FETCH = 1
_NARROW = 0.05  # s that an answer takes which was cut: else a client that lacks messages asks without end


class DeafeningProxy(Proxy):
    """Passes on everything; after `deafen`, connections that are there by then hear nothing of that partition any more."""

    def __init__(self, target: int) -> None:
        self._deaf: set[_Conversation] = set()
        self._conversations: set[_Conversation] = set()
        self._partition = -1
        self.cut_answers = 0
        """Answers from which the partition was taken out."""
        super().__init__(target)

    def deafen(self, partition: int) -> None:
        """Nothing of this partition (of whatever topic) reaches those who are connected now; whoever connects later hears all."""
        self._do(self._deafen(partition))

    async def _deafen(self, partition: int) -> None:
        self._partition = partition
        self._deaf = set(self._conversations)

    def _ways(
        self,
        client: asyncio.StreamReader,
        on: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        back: asyncio.StreamWriter,
    ) -> list[Coroutine[None, None, None]]:
        conversation = _Conversation()
        self._conversations.add(conversation)
        return [self._requests(conversation, client, on), self._answers(conversation, server, back)]

    async def _requests(
        self, conversation: _Conversation, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await _frame(reader)
                key, version, number = struct.unpack_from(">hhi", frame)
                if key == _FETCH:
                    conversation.fetches[number] = version
                await _write(writer, frame)

    async def _answers(
        self, conversation: _Conversation, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    frame = await _frame(reader)
                    version = conversation.fetches.pop(struct.unpack_from(">i", frame)[0], None)
                    if version is not None and conversation in self._deaf:
                        cut = without(frame, self._partition, version)
                        if cut != frame:
                            self.cut_answers += 1
                            frame = cut
                            await asyncio.sleep(_NARROW)
                    await _write(writer, frame)
        finally:
            self._conversations.discard(conversation)


class _Conversation:
    """One connection."""

    def __init__(self) -> None:
        self.fetches: dict[int, int] = {}
        """Number -> version of the Fetch requests that have no answer yet."""


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


async def _write(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)
    await writer.drain()


class _Reading:
    """A place in an answer."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def skip(self, size: int) -> None:
        self.at += size

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def tags(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            self.skip(self.varint())


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def without(frame: bytes, partition: int, version: int) -> bytes:
    """An answer to a fetch without what it says of one partition."""
    assert 13 <= version <= 17, f"Fetch version {version} is not known here"
    reading = _Reading(frame)
    reading.skip(4)
    reading.tags()
    reading.skip(4 + 2 + 4)  # throttle time, error, session
    out = frame[: reading.at]
    topics = reading.varint()
    out += _varint(topics)
    for _ in range(topics - 1):
        out += frame[reading.at : reading.at + 16]
        reading.skip(16)
        kept = []
        for _ in range(reading.varint() - 1):
            began = reading.at
            (number,) = struct.unpack_from(">i", frame, began)
            reading.skip(4 + 2 + 8 + 8 + 8)  # number, error, high watermark, last stable and first offset
            for _ in range(reading.varint() - 1):  # aborted transactions
                reading.skip(8 + 8)
                reading.tags()
            reading.skip(4)  # preferred replica
            reading.skip(max(0, reading.varint() - 1))  # records
            reading.tags()
            if number != partition:
                kept.append(frame[began : reading.at])
        began = reading.at
        reading.tags()
        out += _varint(len(kept) + 1) + b"".join(kept) + frame[began : reading.at]
    return out + frame[reading.at :]


@contextlib.contextmanager
def deafening_broker() -> Iterator[tuple[Broker, DeafeningProxy]]:
    """A broker of its own that clients reach through such a proxy only; the test's own requests go around it."""
    port = free_port()
    proxy = DeafeningProxy(port)
    try:
        with Broker(port=port, advertised=proxy.port) as broker:
            yield broker, proxy
    finally:
        proxy.close()
