"""Free TCP ports on the loopback. Knows nothing of who listens there."""

from __future__ import annotations

import random
import socket

# Below the kernel's ephemeral range (32768 on), so that no outgoing connection takes the port while its owner
# is restarting; a client that retries on loopback may even connect to itself there.
_RANGE = range(15_000, 32_000)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now; a random one, so that runs side by side rarely meet."""
    while True:
        port = random.choice(_RANGE)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
