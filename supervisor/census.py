"""Asking the broker who has which partition: the supervisor's side of a short-lived child, and what that child does.

Not in a worker: the client that can ask this ended its process when its network was cut (an assertion in librdkafka's admin requests, met
in chaos), and with it what the worker had in hand. Such a child may die, and nobody misses it. It is forked when there is something to
ask, and shares what the supervisor has loaded.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from swarm import exits
from swarm.supervisor.backtraces import make_dump_file
from swarm.supervisor.processes import Process, end, reap

PATIENCE: Final = 30.0
"""Seconds that the child has for all groups: each question is given up after some 10 s by itself."""
SHARE: Final = 0.02
"""Of a core, at most, that may go into asking: where `preload = false`, each child imports the app."""

Found = dict[str, Any]
"""`{"group": name, "unowned": {topic: partitions} or None}`, or `{"group": name, "error": why}`."""


class Census:
    """At most one child at a time."""

    def __init__(
        self,
        ask: Callable[[Callable[[Found], None]], None],
        fork: Callable[[Callable[[socket.socket], int], int], Process],
        selector: selectors.BaseSelector,
        hear: Callable[[Found], None],
    ) -> None:
        """ask: what the child does (`swarm.admin.tell_owners`), with what tells us of each group. fork: `processes.fork_helper`, which gets the file for
        the child's backtrace. hear: is told what was found, in the supervisor."""
        self._ask = ask
        self._fork = fork
        self._selector = selector
        self._hear = hear
        self._dump_fd = make_dump_file("census")
        self.process: Process | None = None
        self._began = 0.0
        self._cost = 0.0
        """Seconds of processor time that the last one took."""

    @property
    def pause(self) -> float:
        """Seconds to leave, at least, between two."""
        return self._cost / SHARE

    def begin(self) -> bool:
        """Fork the child. False: one is still asking, or it cannot be forked now."""
        if self.process is not None:
            return False
        try:
            process = self._fork(self._run, self._dump_fd)
        except OSError:
            return False
        self.process, self._began = process, time.monotonic()
        assert process.channel is not None
        self._selector.register(process.pidfd, selectors.EVENT_READ, lambda _: self._ended())
        self._selector.register(process.channel, selectors.EVENT_READ, lambda _: self._listen())
        return True

    def keep(self, now: float) -> None:
        """End one that takes too long. Once a pass."""
        if self.process is not None and now - self._began > PATIENCE:
            self.close()
            self._hear({"group": "", "error": f"the broker was asked, and nothing was known after {PATIENCE:g} s"})

    def close(self) -> None:
        """End the child that there may be, whatever it is doing. Blocks until the kernel has ended it."""
        if self.process is not None:
            end(self.process)
            self._forget(self.process)

    def _run(self, channel: socket.socket) -> int:
        def tell(found: Found) -> None:
            channel.send(json.dumps(found).encode())

        self._ask(tell)
        tell({"cost": time.process_time()})
        return 0

    def _listen(self) -> None:
        process = self.process
        if process is None or process.channel is None:
            return
        try:
            while data := process.channel.recv(1 << 20):
                found = json.loads(data)
                if "cost" in found:
                    self._cost = float(found["cost"])
                else:
                    self._hear(found)
        except BlockingIOError:
            return
        except OSError:
            pass
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(process.channel)

    def _ended(self) -> None:
        process = self.process
        if process is None:
            return
        exit_ = reap(process)
        if exit_ is None:
            return
        self._listen()  # its last words
        self._forget(process)
        if exit_.code != 0:
            said = exits.in_words(exit_.code, exit_.signal)
            self._hear({"group": "", "error": f"the process that asks the broker ended: {said}"})

    def _forget(self, process: Process) -> None:
        self._selector.unregister(process.pidfd)
        if process.channel is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(process.channel)
        self.process = None
        process.close()
