"""Keeping the observer alive: it may die without harm, and is started again. Knows no HTTP; `observer` does that, in the child."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from swarm import events, exits
from swarm.bus import Bus
from swarm.supervisor.backtraces import make_dump_file
from swarm.supervisor.processes import Process, adopt, end, reap, send

FIRST_DELAY: Final = 1.0
"""Seconds before an observer that could not listen is tried again; doubled each time."""
LONGEST_DELAY: Final = 60.0


class Observing:
    """The supervisor's side of the observer."""

    def __init__(
        self, host: str, port: int, fork: Callable[[int], Process], selector: selectors.BaseSelector, bus: Bus
    ) -> None:
        self._host = host
        self._port = port
        self._fork = fork
        self._selector = selector
        self._bus = bus
        self.dump_fd = make_dump_file("observer")
        self.process: Process | None = None
        self._start_at = 0.0
        self._delay = FIRST_DELAY
        self._said = ""
        self._renewing = False
        self._retired = False

    def keep(self, now: float) -> None:
        """Start it if it should run and does not. Once a pass, while the swarm is not stopping."""
        if self._port == 0 or self._retired or self.process is not None or now < self._start_at:
            return
        try:
            process = self._fork(self.dump_fd)
        except OSError as error:
            self._gone(f"could not be forked: {error.strerror}")
            return
        self._take(process)

    def _take(self, process: Process) -> None:
        self.process = process
        assert process.channel is not None
        self._selector.register(process.pidfd, selectors.EVENT_READ, lambda _: self._reap(report=True))
        self._selector.register(process.channel, selectors.EVENT_READ, lambda _: self._hear())

    def renew(self) -> None:
        """Let a new one take its place, for it has to see other scoreboards. Some 0.2 s without answers."""
        if self.process is not None and not self._renewing and not self._retired:
            self._renewing = send(self.process, signal.SIGTERM)

    def bequeath(self) -> dict[str, Any] | None:
        """What a successor of the supervisor needs to know: until it forks another one, this one serves on."""
        process = self.process
        if process is None or process.channel is None:
            return None
        return {"pid": process.pid, "channel": process.channel.fileno(), "dump": self.dump_fd}

    def adopt(self, facts: dict[str, Any]) -> None:
        """The one from before this process executed itself anew: it goes as soon as another one can take its place."""
        os.close(self.dump_fd)
        self.dump_fd = facts["dump"]
        process = adopt(facts["pid"], facts["channel"])
        if process is not None:
            self._take(process)
            self._renewing = True
            send(process, signal.SIGTERM)

    def retire(self) -> None:
        """The swarm stops: serve on to the end, but an observer that dies is no longer missed."""
        self._retired = True

    def end(self) -> None:
        """At the swarm's end: TERM, then KILL. Blocks for at most 2 s."""
        if self.process is None:
            return
        send(self.process, signal.SIGTERM)
        deadline = time.monotonic() + 2.0
        while self.process is not None and time.monotonic() < deadline:
            self._reap(report=False)
            time.sleep(0.005)
        if self.process is not None:
            end(self.process)
            self._reap(report=False)

    def _hear(self) -> None:
        process = self.process
        if process is None or process.channel is None:
            return
        try:
            data = process.channel.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(process.channel)
            return
        said = json.loads(data)
        if said.get("event") == "listening":
            self._delay = FIRST_DELAY
            self._bus.publish(events.ObserverStarted(process.pid, self._host, int(said["port"])))
        else:
            self._said = str(said.get("error", ""))

    def _reap(self, *, report: bool) -> None:
        process = self.process
        if process is None:
            return
        exit_ = reap(process)
        if exit_ is None:
            return
        with contextlib.suppress(KeyError, ValueError):
            self._hear()  # its last words
        self._selector.unregister(process.pidfd)
        if process.channel is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(process.channel)
        self.process = None
        process.close()
        if self._renewing:
            self._renewing = False
            self._start_at = 0.0
        elif report:
            self._gone(self._said or exits.in_words(exit_.code, exit_.signal))
            self._said = ""

    def _gone(self, why: str) -> None:
        if self._retired:
            return
        self._bus.publish(events.ObserverFailed(why, self._delay))
        self._start_at = time.monotonic() + self._delay
        self._delay = min(self._delay * 2, LONGEST_DELAY)
