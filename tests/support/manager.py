"""A service manager's end of sd_notify(3): what a daemon says to it, in order. Knows no swarm."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from typing import Self

from tests.support.waiting import wait_for

_WITHIN = 60.0


class ServiceManager:
    """Listens all the time, as systemd does: a queue that nobody reads holds ten messages (net.unix.max_dgram_qlen), and drops the rest.

    `with ServiceManager(name) as manager:`; `name` has to be nobody else's. Methods block for up to a minute and raise AssertionError then.
    """

    def __init__(self, name: str) -> None:
        self._name = f"{name}-{os.getpid()}"
        self._messages: deque[list[str]] = deque()
        self._ended = False

    @property
    def environment(self) -> dict[str, str]:
        """What a daemon of it has to be given. An abstract address is written with an @."""
        return {"NOTIFY_SOCKET": f"@{self._name}"}

    def listen(self, until: str) -> list[str]:
        """Blocks until a line begins with `until`; returns all lines since the last time, up to the end of that one's message."""
        heard: list[str] = []
        while not any(line.startswith(until) for line in heard):
            heard += wait_for(self._next, _WITHIN, f"{until} from the daemon, after {heard}")
        return heard

    def _next(self) -> list[str] | None:
        return self._messages.popleft() if self._messages else None

    def _read(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                self._messages.append(self._socket.recv(65536).decode().splitlines())

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self._name}")
        self._socket.settimeout(0.1)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()
        self._socket.close()
