"""Signals as readable bytes: the handlers do nothing, the wakeup descriptor wakes the loop, a table says what each one means."""

from __future__ import annotations

import faulthandler
import os
import signal
from typing import Final, Literal

Meaning = Literal["stop", "stop_at_once", "reload", "quiet", "resume", "backtrace", "child"]

MEANINGS: Final[dict[int, Meaning]] = {
    signal.SIGTERM: "stop",
    signal.SIGINT: "stop",
    signal.SIGQUIT: "stop_at_once",
    signal.SIGHUP: "reload",
    signal.SIGTSTP: "quiet",
    signal.SIGCONT: "resume",
    signal.SIGTTIN: "backtrace",
    signal.SIGCHLD: "child",
}


class Signals:
    """The supervisor's signals. Main thread only."""

    def __init__(self, dump_fd: int) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in MEANINGS:
            signal.signal(number, lambda *_: None)
        for number in (signal.SIGPIPE, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
            signal.signal(
                number, signal.SIG_IGN
            )  # they mean nothing here, and a slip of the finger must not end a daemon
        # The dump is made in C even if the loop is stuck; `chain` then lets Python's own handler wake the loop.
        faulthandler.register(signal.SIGTTIN, file=dump_fd, all_threads=True, chain=True)

    @property
    def fds(self) -> tuple[int, int]:
        """Both ends, for a child to close."""
        return (self.fd, self._write_fd)

    def hear_again(self) -> None:
        """What has come but was not read is sent once more: blocked by now, it waits for whoever has handlers next."""
        for number in self._read():
            signal.raise_signal(number)

    def ignore(self) -> None:
        """The last step: one more INT must not change the exit code. The interpreter gives its handlers back to the system as it ends,
        but leaves alone what is ignored."""
        for number in MEANINGS:
            if number not in (signal.SIGCHLD, signal.SIGCONT):
                signal.signal(number, signal.SIG_IGN)

    def read(self) -> list[Meaning]:
        """What has come since the last reading, in order."""
        return [MEANINGS[number] for number in self._read() if number in MEANINGS]

    def _read(self) -> bytes:
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return b""
