"""Exit codes of our processes, and a wait status in words. Pure."""

from __future__ import annotations

import signal
from typing import Final

SMOOTH: Final = 0
"""Supervisor: stopped as asked. Worker: went as asked."""
NOT_BOOTED: Final = 1
"""Supervisor: a user's mistake, or no worker ever came up."""
HAD_TO_KILL: Final = 2
"""Supervisor: a worker did not stop within `shutdown_timeout` and was killed."""
ORPHANED: Final = 3
"""Worker: its supervisor was gone; it finished and committed the job in hand and left."""
BOOT_ERROR: Final = 70
"""Worker: the app, a hook or a client could not be set up (EX_SOFTWARE of sysexits.h)."""
THREAD_DIED: Final = 71
"""Worker: a thread of the runtime ended unexpectedly."""
HELD_UP: Final = 72
"""Worker: it was to go, its jobs did not end in its share of `shutdown_timeout`, and it ended itself; they are not committed."""

OWN_FAULTS: Final = frozenset({"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"})
"""Signals by which a process dies of its own code."""


def signal_name(number: int) -> str:
    """SIGKILL for 9; a number that has no name stays a number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def in_words(code: int | None, signal_: str | None) -> str:
    """What an exit code or a signal's name probably means, for people."""
    if signal_ == "SIGKILL":
        return "killed by SIGKILL from outside: perhaps out of memory (see the kernel's log), or somebody's kill -9"
    if signal_ in OWN_FAULTS:
        return f"killed by {signal_}: a crash in native code"
    if signal_ is not None:
        return f"killed by {signal_}"
    match code:
        case 0:
            return "went by itself"
        case 3:
            return "its supervisor was gone"
        case 70:
            return "could not be set up"
        case 71:
            return "a thread of the runtime died"
        case 72:
            return "its jobs did not end in time, so it ended itself"
        case _:
            return f"exited with code {code}"
