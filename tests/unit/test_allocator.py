"""Which allocator a process has is read off its libraries, and what the user has chosen is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarm import allocator

LINE = "7f00-7f01 r-xp 00000000 fe:00 1234  /usr/lib/{}\n"


def maps(folder: Path, *libraries: str) -> Path:
    file = folder / "maps"
    file.write_text("55d0-55d1 rw-p 00000000 00:00 0  [heap]\n" + "".join(LINE.format(each) for each in libraries))
    return file


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("libc.so.6", "glibc"),
        ("libjemalloc.so.2", "jemalloc"),
        ("libtcmalloc_minimal.so.4", "tcmalloc"),
        ("libmimalloc.so.2.1", "mimalloc"),
        ("ld-musl-x86_64.so.1", "musl"),
    ],
)
def test_an_allocator_is_known_by_its_library(tmp_path: Path, library: str, name: str) -> None:
    """Also one that was preloaded before glibc's own."""
    assert allocator.allocator(maps(tmp_path, "libc.so.6", library)) == name
    assert allocator.allocator(tmp_path / "missing") == "unknown"


@pytest.mark.parametrize(
    ("environment", "chosen"),
    [
        ({}, None),
        ({"MALLOC_ARENA_MAX": "4"}, 4),
        ({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1", "MALLOC_ARENA_MAX": "4"}, 1),
        ({"MALLOC_ARENA_MAX": "few"}, None),
    ],
)
def test_what_the_user_chose_is_left_alone(tmp_path: Path, environment: dict[str, str], chosen: int | None) -> None:
    """By the variable or the tunable, which wins as it does in glibc; what is no number, glibc does not take either."""
    assert allocator.chosen_arenas(environment) == chosen
    here = maps(tmp_path, "libc.so.6")
    assert allocator.described(environment, here) == f"glibc, {chosen or allocator.ARENAS} arenas"
    if chosen is not None:
        assert not allocator.limit_arenas(environment, here)


PROGRAM = """
import ctypes, sys, threading
from swarm import allocator

if sys.argv[1] == "limited":
    assert allocator.limit_arenas({})
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
gate = threading.Barrier(9)
seen = []

def work():
    place = libc.malloc(1000)
    # An arena begins at a multiple of 64 MiB, among what is mapped; but for the first one, the heap, which begins anywhere below.
    seen.append(place >> 26 if place >> 40 >= 0x70 else 0)
    gate.wait()

for _ in range(8):
    threading.Thread(target=work).start()
gate.wait()
print(len(set(seen)))
"""


def arenas(how: str) -> int:
    # Whatever allocator the tests themselves run with, the child has glibc's as it comes.
    chosen = ("LD_PRELOAD", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    command = [sys.executable, "-c", PROGRAM, how]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(found.stdout)


def test_threads_of_a_worker_share_the_arenas_that_it_may_use() -> None:
    """Eight threads that allocate at once: as many as it says, where glibc by itself makes more."""
    assert arenas("limited") <= allocator.ARENAS
    assert arenas("free") > allocator.ARENAS
