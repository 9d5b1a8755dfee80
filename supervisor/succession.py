"""The supervisor's re-execution in place: new code and settings, same pid, and the workers live on. What it leaves to itself, and how.

A reload goes: a *rehearsal* (a child that starts as this process did, loads settings and app, and says what is wrong), then, if it
loads, execve(2). Children, memfds, sockets, the pid file's lock and the signal mask survive that; memory, pidfds and handlers do
not. So signals are blocked before (a HUP in between would kill), descriptors are made inheritable, and what is known of the
workers is written into a memfd, the *heritage*. The successor reopens pidfds, installs handlers, and only then unblocks. Where the
app does not load in it after all, it executes itself once more and loads none: whatever the app has done to the process is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from swarm import __version__
from swarm.errors import SwarmError
from swarm.supervisor.notify import VARIABLES
from swarm.supervisor.processes import Process, end_group, spawn
from swarm.supervisor.record import BEQUEATHED

if TYPE_CHECKING:
    from swarm.config import Loaded

HERITAGE: Final = "_KAFKA_SWARM_HERITAGE"
"""The number of the descriptor that holds the heritage. Not SWARM_…: those are settings."""
REHEARSAL: Final = "_KAFKA_SWARM_REHEARSAL"
"""In a rehearsal: what must not change at a reload, as JSON."""
Bound = Mapping[str, Mapping[str, int]]
_VERDICT: Final = 3
"""The rehearsal's descriptor for why it would not load: what the app prints is another matter."""
_MOST_SAID: Final = 1 << 20
"""Bytes that are kept of what a rehearsal prints."""
_STARTED_WITH: Final = {name: value for name, value in os.environ.items() if name not in (HERITAGE, REHEARSAL)}
"""The environment before an app, or we, changed it (this module is imported before any app is)."""
try:
    _STARTED_IN = os.getcwd()
except OSError:  # it was removed
    _STARTED_IN = "/"


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
    pauses: list[dict[str, Any]]
    pid_file: int
    control: int
    waiters: list[int]
    """Connections of those who wait for the reload to be done."""
    workers: list[dict[str, Any]]
    observer: dict[str, Any] | None
    """It serves on meanwhile."""
    reload_error: str = ""
    """Why the newest code or settings are not in use."""

    @property
    def descriptors(self) -> list[int]:
        """All that have to outlive the execution."""
        children = [*self.workers, *([self.observer] if self.observer is not None else [])]
        named = [child.get(name) for child in children for name in ("board", "dump", "channel")]
        return [self.pid_file, self.control, *self.waiters, *(fd for fd in named if fd is not None)]


def _form() -> list[str]:
    """What a heritage holds: a release that leaves or takes over other facts cannot follow this one."""
    return [*(each.name for each in fields(Heritage)), *BEQUEATHED]


def fixed(loaded: Loaded, run_dir: Path) -> dict[str, str]:
    """What a reload cannot change, because the running workers and the commands rely on it."""
    from swarm.config import choose_state_dir

    swarm = loaded.settings.swarm
    state_dir = choose_state_dir(loaded.settings, run_dir)
    return {
        "swarm.name": swarm.name,
        "swarm.host": swarm.host,
        "swarm.run_dir": str(run_dir),
        "swarm.state_dir": str(state_dir),
    }


def command() -> list[str]:
    """How this process was started."""
    return [sys.executable, *sys.orig_argv[1:]]


class Rehearsal:
    """A child that finds out whether the new code and settings load. `result` is None while it runs."""

    def __init__(self, must_stay: Mapping[str, str], bound: Bound | None = None) -> None:
        """bound: which worker has which partitions where the app says so (`swarm.selection.bound`); None: it is not known."""
        self._out = os.memfd_create("swarm-rehearsal", os.MFD_CLOEXEC)
        self._verdict = os.memfd_create("swarm-verdict", os.MFD_CLOEXEC)
        # The service manager hears of us only, and the metrics' directory is the running swarm's.
        environment = {name: value for name, value in _STARTED_WITH.items() if name not in VARIABLES}
        environment[REHEARSAL] = json.dumps({"form": _form(), "must_stay": dict(must_stay), "bound": bound})
        try:
            with _where_we_started():
                self.process: Process = spawn(command(), environment, self._out, self._verdict)
        except OSError:
            os.close(self._out)
            os.close(self._verdict)
            raise

    def forget(self) -> None:
        """Let what it prints not fill the memory. Once a pass."""
        if os.fstat(self._out).st_blocks * 512 > _MOST_SAID:
            os.ftruncate(self._out, 0)

    def verdict(self) -> str:
        """Why it does not load; where it could not say so itself, the end of what it printed."""
        found = os.pread(self._verdict, _MOST_SAID, 0).decode("utf-8", "replace").strip()
        if found:
            return found
        size = os.fstat(self._out).st_size
        printed = os.pread(self._out, 4096, max(0, size - 4096)).decode("utf-8", "replace")
        return "\n".join(printed.strip("\0\n ").splitlines()[-4:])

    def end(self) -> None:
        """Kill it, with all that it has started. Blocks until the kernel has ended it."""
        end_group(self.process)

    def close(self) -> None:
        """After it was reaped."""
        self.process.close()
        os.close(self._out)
        os.close(self._verdict)


def rehearse(load: Callable[[], Loaded]) -> int:
    """In the rehearsal: find out what would not load, or not work as a reload; returns the exit code. Starts nothing."""
    told = json.loads(os.environ.pop(REHEARSAL))
    os.set_inheritable(_VERDICT, False)
    try:
        if told["form"] != _form():
            raise SwarmError(
                f"this release of kafka-swarm ({__version__}) cannot take over from the running one. Restart the daemon for it."
            )
        _rehearse(load(), told["must_stay"], told.get("bound"))
    except SwarmError as error:
        os.write(_VERDICT, str(error).encode())
        return 1
    return 0


def _rehearse(loaded: Loaded, must_stay: Mapping[str, str], bound: Bound | None) -> None:
    from swarm.config import choose_run_dir
    from swarm.preflight import bound_partitions, check
    from swarm.selection import rebound

    for name, value in fixed(loaded, choose_run_dir(loaded.settings)).items():
        if value != must_stay[name]:
            raise SwarmError(
                f"{name} cannot change at a reload: it is {must_stay[name]}, and would be {value}. Restart the daemon for that."
            )
    problems = check(loaded)
    if problems:
        raise SwarmError("\n".join(str(problem) for problem in problems))
    moved = rebound(bound, bound_partitions(loaded)) if bound is not None else None
    if moved is not None:
        raise SwarmError(
            f"{moved}. While workers are replaced one by one, two would consume it: restart the daemon for that."
        )


def is_rehearsal() -> bool:
    """Whether this process was started only to find out whether it would start."""
    return REHEARSAL in os.environ


def succeed(left: Heritage) -> NoReturn:
    """Become the successor; signals are blocked. Raises OSError where the program cannot be executed, with everything as before."""
    memory = os.memfd_create("swarm-heritage", 0)
    try:
        os.pwrite(memory, json.dumps(asdict(left)).encode(), 0)
        for fd in left.descriptors:
            os.set_inheritable(fd, True)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # a full disk is no reason to stay
                stream.flush()
        with _where_we_started():
            os.execve(sys.executable, command(), {**_STARTED_WITH, HERITAGE: str(memory)})  # noqa: S606  # ourselves
    finally:  # only where it failed
        _keep_to_ourselves(left)
        os.close(memory)


@contextlib.contextmanager
def _where_we_started() -> Iterator[None]:
    """Relative paths of the command line are meant from there, wherever an app has gone since."""
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # it was removed since
            os.chdir(_STARTED_IN)
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def _keep_to_ourselves(left: Heritage) -> None:
    for fd in left.descriptors:
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, False)


def heritage() -> Heritage | None:
    """What the predecessor has left, if there is one. Its descriptors are not inherited by further programs."""
    number = os.environ.pop(HERITAGE, None)
    if number is None:
        return None
    memory = int(number)
    data = json.loads(os.pread(memory, os.fstat(memory).st_size, 0))
    os.close(memory)
    left = Heritage(**data)
    _keep_to_ourselves(left)
    return left


def load_again(left: Heritage, load: Callable[[], Loaded]) -> tuple[Loaded, Heritage]:
    """The new settings; or the old ones, with the reason in the heritage."""
    from swarm.config import Loaded, Settings

    if not left.reload_error:
        try:
            return load(), left
        except SwarmError as error:
            left = replace(left, reload_error=str(error))
    settings = Settings.model_validate(left.settings)
    path = Path(left.path) if left.path is not None else None
    return Loaded(settings, path, Path(left.base_dir), {}, []), left


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise SwarmError in what is inside where it takes longer: code that hangs although it did not in the rehearsal. For the successor,
    whose signals are still blocked."""

    def late(*_: object) -> None:
        raise SwarmError(f"the new code did not load within {seconds:g} s, though it did in the rehearsal.")

    signal.signal(signal.SIGALRM, late)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # and again, for code that takes it for an error of its own
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
