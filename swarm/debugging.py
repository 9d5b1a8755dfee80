"""A worker whose clients tell everything: librdkafka's `debug` in a file of its own, for as long as somebody wants it.

Set at a client's birth, so the worker is replaced for it, and once more when it is over. The lines go past the worker's own log, which
they would flood and which folds them; what `redact` hides in the properties is hidden in them.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from swarm import contexts
from swarm.config import hidden
from swarm.logs import Log, bridge

MOST: Final = 256 << 20
"""Bytes of one file: `all` writes some megabytes a second under load, and a disk has its end."""
_TOKEN: Final = re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*|(?i:bearer )\S+")
"""Tokens that a client was given while it ran stand in no property."""


@dataclass(frozen=True, slots=True)
class Debug:
    """What a worker is born with: librdkafka's contexts, with commas, and where its lines go."""

    flags: str
    path: str


class DebugFile(logging.Handler):
    """Appends records to a file of mode 0600, secrets hidden, up to MOST bytes. Never raises: a full disk stops no worker."""

    def __init__(self, path: str, secrets: Iterable[Mapping[str, Any]], most: int = MOST) -> None:
        """Raises OSError where the file cannot be opened."""
        super().__init__(logging.DEBUG)
        self._secrets = list(secrets)
        self._most = most
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        now = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        try:
            text = record.getMessage()
        except Exception:
            text = repr(record.msg)
        for properties in self._secrets:
            text = hidden(text, properties)
        line = f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z {record.levelname} {_TOKEN.sub('[hidden]', text)}\n"
        with self._guard, contextlib.suppress(OSError):
            size = os.fstat(self._fd).st_size
            if size >= self._most:
                return
            if size + len(line) >= self._most:
                line = f"(this file has {self._most} bytes: what follows is left out)\n" + " " * (self._most - size)
                line = line[: line.index("\n") + 1] if size < self._most else ""
                self._most = 0
            os.write(self._fd, line.encode("utf-8", "replace"))


def attach(debug: Debug, log: Log, secrets: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Open the file and send librdkafka's lines there, besides those that the log gets anyway; returns the properties that make clients
    tell them, none where nothing comes of it. In the worker, before its clients are made."""
    flags = [flag for flag in contexts.split(debug.flags) if flag not in contexts.unknown(debug.flags)]
    if not flags:
        log.line("error", "debug_failed", {"what": f"librdkafka knows none of {debug.flags}"})
        return {}
    try:
        handler = DebugFile(debug.path, secrets)
    except OSError as error:
        log.line("error", "debug_failed", {"what": f"{debug.path}: {error.strerror}"})
        return {}
    client = logging.getLogger("librdkafka")
    usual = bridge(log)
    usual.setLevel(max(log.threshold, logging.INFO))  # what `debug` says goes to the file alone
    for fold in list(client.filters):
        client.removeFilter(fold)
        usual.addFilter(fold)
    client.addHandler(handler)
    client.addHandler(usual)
    client.setLevel(logging.DEBUG)
    client.propagate = False
    return {"debug": ",".join(flags), "log_level": 7}
