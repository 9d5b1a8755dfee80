"""systemd's readiness protocol (sd_notify(3)): datagrams to $NOTIFY_SOCKET. Silent where there is none; never blocks."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class Notifier:
    """Speaks to the service manager. Taking the variables out of the environment keeps children from speaking in our name."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        env = {name: os.environ.pop(name, "") for name in VARIABLES} if environ is None else environ
        address = env.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            self._address = "\0" + address[1:] if address[0] == "@" else address
        pid = env.get("WATCHDOG_PID", "")
        micros = env.get("WATCHDOG_USEC", "")
        self.watchdog: float | None = None
        """Seconds between two signs of life that are enough: half of what the manager waits; None: it does not wait."""
        if self._socket is not None and micros.isdigit() and int(micros) and pid in ("", str(os.getpid())):
            self.watchdog = int(micros) / 2e6

    @property
    def fds(self) -> list[int]:
        """For a child to close."""
        return [] if self._socket is None else [self._socket.fileno()]

    def excuse(self, seconds: float | None) -> None:
        """Let the manager's watchdog wait so long for the next sign of life; None: as long as it was told to."""
        if self.watchdog is not None:
            self.send("WATCHDOG=1", f"WATCHDOG_USEC={int(1e6 * (2 * self.watchdog if seconds is None else seconds))}")

    def extend(self, seconds: float) -> None:
        """Ask for a start or a stop to last longer than the unit allows: so long, or until this is said again."""
        self.send(f"EXTEND_TIMEOUT_USEC={int(1e6 * seconds)}")

    def send(self, *lines: str) -> None:
        """Send assignments such as `READY=1`."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), self._address)
