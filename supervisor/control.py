"""The control socket: newline-delimited JSON over a Unix socket, mode 0600, for this user and root only. Never blocks the loop.

A request is `{"command": …}`; its answer `{"ok": true, "pid", "result"}` or `{"ok": false, "pid", "error"}`, after any number
of `{"progress": text}`. What a command does is the loop's affair: this module only carries requests and answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from swarm.errors import RunDirectoryError

MAX_REQUEST: Final = 64 << 10
"""Bytes of one request; a longer one closes the connection."""
MAX_UNREAD: Final = 16 << 20
"""Bytes of answers that wait for a client to read them; beyond that it is dropped."""
MAX_CONNECTIONS: Final = 64

Handler = Callable[[dict[str, Any], "Connection"], None]


class Connection:
    """One client. `answer` may be called later than the request, or never if the client has gone."""

    def __init__(self, server: ControlServer, sock: socket.socket) -> None:
        self._server = server
        self.socket = sock
        self._inbox = b""
        self._outbox = b""
        self.open = True

    def answer(self, result: Any) -> None:
        """Say that the request was carried out."""
        self._send({"ok": True, "pid": os.getpid(), "result": result})

    def refuse(self, error: str) -> None:
        """Say why it was not."""
        self._send({"ok": False, "pid": os.getpid(), "error": error})

    def progress(self, text: str) -> None:
        """Say how far it is."""
        self._send({"progress": text})

    def _send(self, message: dict[str, Any]) -> None:
        if self.open:
            self._outbox += json.dumps(message, default=str).encode() + b"\n"
            self.flush()
            if len(self._outbox) > MAX_UNREAD:
                self._server.drop(self)

    def flush(self) -> None:
        """Write what can be written without waiting."""
        try:
            while self._outbox:
                sent = self.socket.send(self._outbox)
                self._outbox = self._outbox[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._server.drop(self)
            return
        self._server.watch(self, writing=bool(self._outbox))

    def read(self, handle: Handler) -> None:
        """Take in requests and hand each to `handle`."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._server.drop(self)
            return
        self._inbox += data
        while self.open and b"\n" in self._inbox:
            line, _, self._inbox = self._inbox.partition(b"\n")
            try:
                request = json.loads(line)
                if not isinstance(request, dict) or not isinstance(request.get("command"), str):
                    raise ValueError
            except (ValueError, RecursionError):  # the latter for brackets nested by the thousand
                self.refuse('expected one JSON object per line, with a text under "command"')
                continue
            handle(request, self)
        if len(self._inbox) > MAX_REQUEST:
            self._server.drop(self)


class ControlServer:
    """Listens in the run directory."""

    def __init__(
        self, path: Path, selector: selectors.BaseSelector, handle: Handler, inherited: int | None = None
    ) -> None:
        """Bind; raises RunDirectoryError. The caller holds the pid file's lock, so a socket that is there is stale.

        inherited: the listening socket from before this process executed itself anew.
        """
        self.path = path
        self._selector = selector
        self._handle = handle
        self._connections: set[Connection] = set()
        if inherited is not None:
            self._socket = socket.socket(fileno=inherited)
            self._socket.setblocking(False)
            selector.register(self._socket, selectors.EVENT_READ, self._accept)
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._socket.bind(str(path))
        except OSError as error:
            self._socket.close()
            raise RunDirectoryError(
                f"cannot make the control socket {path}: {error.strerror or error}. "
                "Set swarm.run_dir to a writable directory whose path is short: a socket's path has at most 107 bytes."
            ) from None
        finally:
            os.umask(mask)
        self._socket.listen(16)
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    @property
    def fds(self) -> list[int]:
        """For a child to close."""
        return [self._socket.fileno(), *(connection.socket.fileno() for connection in self._connections)]

    def _accept(self, _: int) -> None:
        try:
            sock, _address = self._socket.accept()
        except OSError:
            return
        sock.setblocking(False)
        _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.getuid()) or len(self._connections) >= MAX_CONNECTIONS:
            sock.close()
            return
        self._take(sock)

    def _take(self, sock: socket.socket) -> Connection:
        connection = Connection(self, sock)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, lambda mask: self._serve(connection, mask))
        return connection

    def adopt(self, fd: int) -> Connection:
        """A client from before this process executed itself anew."""
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        return self._take(sock)

    @property
    def listening(self) -> int:
        """The listening socket, for a successor."""
        return self._socket.fileno()

    def _serve(self, connection: Connection, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            connection.flush()
        if connection.open and mask & selectors.EVENT_READ:
            connection.read(self._handle)

    def watch(self, connection: Connection, *, writing: bool) -> None:
        """Wait for room to write, or only for requests."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        key = self._selector.get_key(connection.socket)
        if key.events != events:
            self._selector.modify(connection.socket, events, key.data)

    def drop(self, connection: Connection) -> None:
        """Close a connection."""
        if connection.open:
            connection.open = False
            self._connections.discard(connection)
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def close(self) -> None:
        """Deliver what is still to be written, as far as it goes at once, and remove the socket."""
        for connection in list(self._connections):
            connection.socket.setblocking(True)
            connection.socket.settimeout(1.0)
            with contextlib.suppress(OSError):
                connection.flush()
            self.drop(connection)
        self._selector.unregister(self._socket)
        self._socket.close()
        self.path.unlink(missing_ok=True)
