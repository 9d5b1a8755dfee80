"""Ties a command to the process that starts it: when the starter dies, however, the command gets a signal.

Run as a script, `tether.py STARTER_PID SIGNAL COMMAND …`; it becomes the command, which so keeps the pid that
`Popen` knows. A script and not a `preexec_fn`, because the starter has threads (librdkafka's) and Python code
between fork and exec may then deadlock.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tethered(command: Sequence[str], signum: signal.Signals) -> list[str]:
    """The argument list that runs `command` tethered to this process.

    The process must be started in the main thread: the kernel sends the signal when the *thread* that forked
    ends.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "start processes from the main thread: one started in another thread would end with that thread"
        )
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(signum)), *command]


def main() -> None:
    starter, signum, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != starter:  # it died before the line above: nobody would tell us
        sys.exit(f"tether: the starter (pid {starter}) is gone; {command[0]} was not started")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
