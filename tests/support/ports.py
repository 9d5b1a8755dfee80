"""Free TCP ports on the loopback. Knows nothing of who listens there."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

# Below the kernel's ephemeral range (32768 on), so that no outgoing connection takes the port while its owner
# is restarting; a client that retries on loopback may even connect to itself there.
_RANGE = range(15_000, 32_000)

_given: set[int] = set()
_register: list[IO[bytes]] = []


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, and that no test is given again while this process lives: not by it, and
    not by other runs beside it."""
    while True:
        port = random.choice(_RANGE)
        if port in _given or not _reserve(port):
            continue
        _given.add(port)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def _reserve(port: int) -> bool:
    """Lock the port's byte in a file that all runs share: such a lock ends with its process, however that ends."""
    if not _register:
        path = Path(tempfile.gettempdir(), f"swarm-test-ports-{os.getuid()}")
        _register.append(path.open("ab", buffering=0))
    try:
        fcntl.lockf(_register[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True
