"""The C allocator of this process: which one it is, and how many arenas glibc's may use. Knows no worker and no setting."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ARENAS: Final = 2
"""How many arenas a worker uses. glibc's own answer is eight for each core: each keeps what its threads have freed, so that a process
with a dozen of them, as librdkafka makes, holds memory that nobody uses."""
_M_ARENA_MAX: Final = -8  # mallopt(3); <malloc.h>
_OTHERS: Final = {
    "jemalloc": "jemalloc",
    "tcmalloc": "tcmalloc",
    "mimalloc": "mimalloc",
    "ld-musl": "musl",
}
"""Part of a library's file name -> the allocator that it brings."""


def limit_arenas(environment: Mapping[str, str] = os.environ, maps: Path = Path("/proc/self/maps")) -> bool:
    """Let glibc use `ARENAS` arenas in this process. Called in a worker before it has threads, for those that exist stay.

    False: nothing was done, because the user has chosen (MALLOC_ARENA_MAX, or glibc.malloc.arena_max in GLIBC_TUNABLES), or another
    allocator is in use. Does not block.
    """
    if allocator(maps) != "glibc" or chosen_arenas(environment) is not None:
        return False
    return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS))


def chosen_arenas(environment: Mapping[str, str]) -> int | None:
    """What the user has asked glibc for; None: nothing. Pure."""
    found = re.search(r"(?:^|:)glibc\.malloc\.arena_max=(\d+)", environment.get("GLIBC_TUNABLES", ""))
    text = found[1] if found else environment.get("MALLOC_ARENA_MAX", "")
    return int(text) if text.isdigit() else None


def allocator(maps: Path = Path("/proc/self/maps")) -> str:
    """glibc, jemalloc, tcmalloc, mimalloc or musl, by the libraries that are mapped (proc(5)); "unknown" where they cannot be read."""
    try:
        libraries = {os.path.basename(line.split()[-1]) for line in maps.read_text().splitlines() if "/" in line}
    except OSError:
        return "unknown"
    for part, name in _OTHERS.items():
        if any(part in library for library in libraries):
            return name
    return "glibc"


def described(environment: Mapping[str, str] = os.environ, maps: Path = Path("/proc/self/maps")) -> str:
    """What `status` says of the workers' allocator: "glibc, 2 arenas"."""
    name = allocator(maps)
    if name != "glibc":
        return name
    chosen = chosen_arenas(environment)
    return f"glibc, {ARENAS if chosen is None else chosen} arenas"
