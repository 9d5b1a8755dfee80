"""librdkafka's debug contexts (`cgrp`, `fetch`, …), by its own word: another release knows others. Makes no client."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib.metadata
import os
from collections.abc import Iterator


def known() -> list[str]:
    """All that this installation's librdkafka knows, in its order; empty where it cannot be asked."""
    for path in _libraries():
        with contextlib.suppress(OSError, AttributeError):
            found = listed(_properties(ctypes.CDLL(path)))
            if found:
                return found
    return []


def listed(table: str) -> list[str]:
    """The values of `debug` in librdkafka's table of its properties."""
    row = next((line for line in table.splitlines() if line.startswith("debug ")), "")
    return split(row.split("|")[2]) if row.count("|") > 2 else []


def _properties(library: ctypes.CDLL) -> str:
    """The table, which librdkafka prints into a C stream. (`rd_kafka_get_debug_contexts` forgets `telemetry`: measured with 2.16.)"""
    c = ctypes.CDLL(None)
    c.fdopen.restype, c.fdopen.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_char_p]
    c.fclose.argtypes = [ctypes.c_void_p]
    show = library.rd_kafka_conf_properties_show
    show.restype, show.argtypes = None, [ctypes.c_void_p]
    fd = os.memfd_create("librdkafka-properties")
    try:
        stream = c.fdopen(os.dup(fd), b"w")
        show(stream)
        c.fclose(stream)
        return os.pread(fd, 1 << 20, 0).decode("utf-8", "replace")
    finally:
        os.close(fd)


def unknown(flags: str) -> list[str]:
    """What librdkafka would refuse of `cgrp,fetch`; nothing where it could not be asked."""
    contexts = known()
    return [flag for flag in split(flags) if contexts and flag not in contexts]


def split(flags: str) -> list[str]:
    """The names in `cgrp, fetch`, each once."""
    return list(dict.fromkeys(flag.strip() for flag in flags.split(",") if flag.strip()))


def _libraries() -> Iterator[str]:
    """The library of confluent-kafka's wheel, or the extension module that holds it; else the system's."""
    found = []
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("confluent-kafka") or []:
            if file.name.startswith(("librdkafka", "cimpl.")) and ".so" in file.name:
                found.append(str(file.locate()))
    yield from sorted(found, key=lambda path: "librdkafka" not in path.rpartition("/")[2])
    if system := ctypes.util.find_library("rdkafka"):
        yield system
