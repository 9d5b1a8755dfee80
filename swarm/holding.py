"""Which thread of a process holds the interpreter's lock (GIL), by what the kernel counts of each. Linux; asks nothing of the process.

Who waits for the lock wakes up every 5 ms to ask for it to be let go (`sys.getswitchinterval`): some 200 voluntary context switches a
second. Who holds it computes, which is processor time, or waits inside C code without letting go, and is switched hardly ever.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

INTERVAL: Final = 0.4
"""Seconds between the two looks."""
ASKING: Final = 50.0
"""Voluntary switches per second from which on a thread is one that waits for the lock."""
COMPUTING: Final = 0.3
"""The part of a processor that a thread uses that computes, on a machine that others use, too."""
RUNNING: Final = 0.05
"""… and that runs at all: two ticks of the kernel's count in an interval."""
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")


class Counts(NamedTuple):
    """Of one thread, since it began: processor time (s), voluntary switches."""

    seconds: float
    switches: int


def holder(
    before: Mapping[int, Counts], after: Mapping[int, Counts], interval: float, suspects: Iterable[int]
) -> int | None:
    """The thread, of these, that seems to hold the lock; None where the counts do not say. Pure."""
    moved = {
        thread: Counts(after[thread].seconds - before[thread].seconds, after[thread].switches - before[thread].switches)
        for thread in before.keys() & after.keys()
    }
    waits = {thread for thread, counts in moved.items() if counts.switches >= ASKING * interval}
    if not waits:
        return None  # nobody asks for it
    asked = [thread for thread in suspects if thread in moved and thread not in waits]
    computing = [thread for thread in asked if moved[thread].seconds >= COMPUTING * interval]
    if computing:
        return max(computing, key=lambda thread: moved[thread].seconds)
    # On a crowded machine it gets little; who waits for something else gets nothing.
    running = [thread for thread in asked if moved[thread].seconds >= RUNNING * interval]
    likely = running or asked
    return likely[0] if len(likely) == 1 else None


def watch(pid: int, suspects: Iterable[int], interval: float = INTERVAL) -> int | None:
    """Look twice at the threads of a process; `suspects` are the kernel's numbers of those that run handlers. Blocks for `interval` s."""
    before = counts(pid)
    time.sleep(interval)
    return holder(before, counts(pid), interval, suspects)


def counts(pid: int) -> dict[int, Counts]:
    """What the kernel has counted of each thread (proc(5)); what has ended meanwhile is left out."""
    found = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (task / "stat").read_text().rpartition(")")[2].split()
                status = (task / "status").read_text()
                switches = int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
                found[int(task.name)] = Counts((int(fields[11]) + int(fields[12])) * _TICK, switches)
    return found
