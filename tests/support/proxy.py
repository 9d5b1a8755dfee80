"""A network that a test can slow down, hold up and cut: a TCP proxy on the loopback before one port. Knows no Kafka and no swarm.

For Kafka the brokers have to advertise the proxy's port, else clients go around it after the first answer:
`Broker(advertised=proxy.port)`, or `proxied_broker()` and the `Cluster`, which do that.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

from tests.support.kafka import Broker
from tests.support.ports import free_port

_ANSWER_WITHIN = 60.0  # s, for what the proxy's own thread is told; moments, but where a dozen others work on two cores
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: the end of a connection is a reset


class Proxy:
    """Passes on what comes to `port`, to `target`; from the beginning, and until `close()`.

    Its state is one of: passing (with a delay or without), held, mute, cut. Its methods may be called in any thread; they
    return when it is so. It lives in a thread of this process, which therefore has to run for anything to pass.
    """

    def __init__(self, target: int, port: int | None = None) -> None:
        self.port = port or free_port()
        self._target = target
        self._delay = 0.0
        self._open = asyncio.Event()
        self._open.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self._do(self._listen())

    # -- what a test does to the network ---------------------------------------------------------------

    def slow(self, delay: float) -> None:
        """Each piece takes `delay` seconds more, in either direction, one after the other: it gets narrow too."""
        self._delay = delay

    def hold(self) -> None:
        """A black hole: connections stay, new ones are taken, nothing passes. What was sent meanwhile arrives after `heal`."""
        self._do(self._hold())

    def mute(self) -> None:
        """What clients say passes, and is done; what is answered does not, until `heal`, or never after `cut`."""
        self._do(self._mute())

    def cut(self) -> None:
        """Resets every connection and refuses new ones."""
        self._do(self._cut())

    def reset(self) -> None:
        """Resets every connection; new ones are welcome."""
        self._do(self._reset())

    def heal(self) -> None:
        """As at the beginning."""
        self._delay = 0.0
        self._do(self._heal())

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    def close(self) -> None:
        """Cuts it for good."""
        if not self._loop.is_closed():
            self._do(self._cut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_ANSWER_WITHIN)
            self._loop.close()

    # -- in its thread ---------------------------------------------------------------------------------

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(_ANSWER_WITHIN)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _hold(self) -> None:
        self._open.clear()

    async def _mute(self) -> None:
        self._answering.clear()

    async def _heal(self) -> None:
        self._open.set()
        self._answering.set()
        await self._listen()

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset()

    async def _reset(self) -> None:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writers = [back]
        try:
            server, on = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(on)
            ways = [asyncio.create_task(way) for way in self._ways(client, on, server, back)]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):  # nobody behind it, or it is cut: the client is told by a reset
            pass
        finally:
            for writer in writers:
                _abort(writer)
            self._connections.discard(task)

    def _ways(
        self,
        client: asyncio.StreamReader,
        on: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        back: asyncio.StreamWriter,
    ) -> list[Coroutine[None, None, None]]:
        """What passes each direction of one connection on."""
        return [self._pass(client, on), self._pass(server, back, self._answering)]

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event | None = None
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._open.wait()
                if gate is not None:
                    await gate.wait()
                writer.write(piece)
                await writer.drain()
            await self._open.wait()  # that it has ended does not pass either


def _abort(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@contextlib.contextmanager
def proxied_broker(config: Mapping[str, str] | None = None) -> Iterator[tuple[Broker, Proxy]]:
    """A broker of its own that clients reach through a proxy only; the test's own requests go around it."""
    port = free_port()
    proxy = Proxy(port)
    try:
        with Broker(port=port, config=config, advertised=proxy.port) as broker:
            yield broker, proxy
    finally:
        proxy.close()
