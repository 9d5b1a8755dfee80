"""Signals to children: never to one that was reaped, whoever has the number of its descriptor now."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from swarm.supervisor.processes import Process, reap, send


def child() -> subprocess.Popen[bytes]:
    """One that waits to be signalled."""
    return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])


def test_a_reaped_process_gets_no_signal_although_its_descriptors_number_is_anothers() -> None:
    """A backtrace is asked for now and signalled later; meanwhile the process may have ended, and another one begun."""
    first, second = child(), child()
    process = Process(first.pid, os.pidfd_open(first.pid))
    number = process.pidfd
    first.kill()
    while reap(process) is None:
        os.waitid(os.P_PIDFD, number, os.WEXITED | os.WNOWAIT)
    process.close()
    other = os.pidfd_open(second.pid)
    os.dup2(other, number)
    try:
        assert send(process, signal.SIGKILL) is False
        assert second.poll() is None
    finally:
        for fd in {other, number}:
            os.close(fd)
        second.kill()
        second.wait()
        first.wait()
