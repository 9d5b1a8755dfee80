"""Whether anything accepts connections where the brokers should be: a plain TCP connection, closed at once. Knows no Kafka."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from swarm.circumstances import Broker

PATIENCE: Final = 1.0
"""Seconds for one address."""
MOST: Final = 8
"""Addresses that are tried."""


def reach(bootstrap: str, patience: float = PATIENCE) -> list[Broker]:
    """Try the addresses of `bootstrap.servers`, all at once. Blocks for up to `patience` seconds, and for the time that names take."""
    addresses = [each.strip() for each in bootstrap.split(",") if each.strip()][:MOST]
    if not addresses:
        return []
    with ThreadPoolExecutor(len(addresses)) as pool:
        return list(pool.map(lambda address: _tried(address, patience), addresses))


def _tried(address: str, patience: float) -> Broker:
    host, port = split(address)
    try:
        with socket.create_connection((host, port), timeout=patience):
            return Broker(address, True)
    except OSError as error:
        text = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error))
        return Broker(address, False, text)


def split(address: str) -> tuple[str, int]:
    """Host and port of `host`, `host:9093`, `[::1]:9093` or `SSL://host:9093`; 9092 where there is no port."""
    rest = address.rpartition("://")[2]
    host, colon, port = rest.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.startswith("[")):
        return rest.strip("[]"), 9092
    return host.strip("[]"), int(port)
