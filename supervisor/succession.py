"""The supervisor's re-execution in place: new code and settings, same pid, and the workers live on. What it leaves to itself, and how.

A reload goes: a *rehearsal* (a child that starts as this process did, loads settings and app, and says what is wrong), then, if it
loads, execve(2). Children, memfds, sockets, the pid file's lock and the signal mask survive that; memory, pidfds and handlers do
not. So signals are blocked before (a HUP in between would kill), descriptors are made inheritable, and what is known of the
workers is written into a memfd, the *heritage*. The successor reopens pidfds, installs handlers, and only then unblocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from swarm.errors import SwarmError
from swarm.supervisor.processes import HANDLED, Process, spawn

if TYPE_CHECKING:
    from swarm.config import Loaded

HERITAGE: Final = "_KAFKA_SWARM_HERITAGE"
"""The number of the descriptor that holds the heritage. Not SWARM_…: those are settings."""
REHEARSAL: Final = "_KAFKA_SWARM_REHEARSAL"
"""In a rehearsal: what must not change at a reload, as JSON."""
REHEARSAL_TIMEOUT: Final = 120.0
"""Seconds that new code may take to load."""
_MOST: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Heritage:
    """What a supervisor leaves to its successor. Numbers of descriptors, instants of the monotonic clock, and plain facts."""

    settings: dict[str, Any]
    """Those before the reload, for the case that the new ones do not load after all."""
    base_dir: str
    path: str | None
    groups: list[str]
    run_dir: str
    state_dir: str
    started_at: float
    began: float
    quiet: bool
    ever_came_up: bool
    suspects: list[dict[str, Any]]
    pid_file: int
    control: int
    waiters: list[int]
    """Connections of those who wait for the reload to be done."""
    workers: list[dict[str, Any]]
    environment: dict[str, str] = field(default_factory=dict)
    """What was taken out of the environment (the service manager's variables)."""


def fixed(loaded: Loaded, run_dir: Path) -> dict[str, str]:
    """What a reload cannot change, because the running workers and the commands rely on it."""
    swarm = loaded.settings.swarm
    return {"swarm.name": swarm.name, "swarm.host": swarm.host, "swarm.run_dir": str(run_dir)}


def command() -> list[str]:
    """How this process was started."""
    return [sys.executable, *sys.orig_argv[1:]]


class Rehearsal:
    """A child that finds out whether the new code and settings load. `result` is None while it runs."""

    def __init__(self, must_stay: Mapping[str, str]) -> None:
        self._out = os.memfd_create("swarm-rehearsal", os.MFD_CLOEXEC)
        environment = {**os.environ, REHEARSAL: json.dumps(dict(must_stay))}
        self.process: Process = spawn(command(), environment, self._out)

    def said(self) -> str:
        """What it wrote, its last lines."""
        size = os.fstat(self._out).st_size
        return os.pread(self._out, _MOST, max(0, size - _MOST)).decode("utf-8", "replace").strip()

    def close(self) -> None:
        """After it was reaped."""
        self.process.close()
        os.close(self._out)


def rehearse(loaded: Loaded) -> int:
    """In the rehearsal: raise SwarmError for what would not load, or not work as a reload; returns 0. Starts nothing."""
    from swarm.config import choose_run_dir
    from swarm.preflight import check

    must_stay = json.loads(os.environ.pop(REHEARSAL))
    for name, value in fixed(loaded, choose_run_dir(loaded.settings)).items():
        if value != must_stay[name]:
            raise SwarmError(
                f"{name} cannot change at a reload: it is {must_stay[name]}, and would be {value}. Restart the daemon for that."
            )
    problems = check(loaded)
    if problems:
        raise SwarmError("\n".join(str(problem) for problem in problems))
    return 0


def is_rehearsal() -> bool:
    """Whether this process was started only to find out whether it would start."""
    return REHEARSAL in os.environ


def succeed(heritage: Heritage, descriptors: list[int]) -> NoReturn:
    """Become the successor. Raises OSError where the program cannot be executed, with everything as before."""
    memory = os.memfd_create("swarm-heritage", 0)
    os.pwrite(memory, json.dumps(asdict(heritage)).encode(), 0)
    environment = {**os.environ, **heritage.environment, HERITAGE: str(memory)}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    signal.set_wakeup_fd(-1)
    for fd in descriptors:
        os.set_inheritable(fd, True)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, command(), environment)  # noqa: S606  # ourselves
    finally:  # only where it failed
        for fd in descriptors:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)
        os.close(memory)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heritage() -> Heritage | None:
    """What the predecessor has left, if there is one. Its descriptors are not inherited by further programs."""
    number = os.environ.pop(HERITAGE, None)
    if number is None:
        return None
    memory = int(number)
    data = json.loads(os.pread(memory, os.fstat(memory).st_size, 0))
    os.close(memory)
    left = Heritage(**data)
    for fd in (left.pid_file, left.control, *left.waiters):
        os.set_inheritable(fd, False)
    for worker in left.workers:
        for name in ("board", "dump", "channel"):
            if worker.get(name) is not None:
                os.set_inheritable(worker[name], False)
    return left


def load_as_before(left: Heritage, load: Callable[[], Loaded]) -> tuple[Loaded, str]:
    """The new settings; or the old ones, and why."""
    from swarm.config import Loaded, Settings

    try:
        return load(), ""
    except SwarmError as error:
        settings = Settings.model_validate(left.settings)
        path = Path(left.path) if left.path is not None else None
        return Loaded(settings, path, Path(left.base_dir), {}, []), str(error)
