"""A swarm to start, watch and end as a user would: `swarmctl`, signals, its log. Knows none of its insides."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.support.project import Sections
from tests.support.tether import tethered
from tests.support.waiting import wait_for

T = TypeVar("T")
Line = dict[str, Any]

SWARMCTL = Path(sys.executable).with_name("swarmctl")

_GONE_WITHIN = 5.0  # s from the supervisor's end until nothing of the swarm is left


class NotRunning(Exception):
    """`swarmctl status` found nobody; inside `wait_for` that only means: not yet."""


class Daemon:
    """The swarm of one project folder. It may be started again after it has ended.

    Its log goes to `folder/stderr`, as JSON lines. What a test leaves running, `close()` ends, and fails the
    test where a TERM to the supervisor was not enough for that.
    """

    def __init__(self, config: Path, settings: Sections) -> None:
        self.config = config
        self.folder = config.parent
        self.settings = settings
        timeout = settings["swarm"].get("shutdown_timeout")
        self._shutdown_timeout = float(timeout) if isinstance(timeout, int | float) else 30.0
        self._process: subprocess.Popen[bytes] | None = None
        self._end_is_wanted = False
        self._pid = 0
        self._sessions: set[int] = set()  # every process of the swarm is in one of these
        self._log = _Log(self.folder / "stderr")
        self._expected_errors: set[str] = set()

    # -- what a user does ------------------------------------------------------------------------------

    def start(self, *args: str, by: Sequence[str] = ()) -> Self:
        """`swarmctl start`, in the foreground unless `args` hold `--detach`. Does not wait: `until_running`.

        by: a command that becomes what its last arguments say, in other surroundings.
        """
        assert self.exit_code is not None or self._process is None, f"it runs already, as pid {self.pid}"
        self._end_is_wanted = False
        command = [*by, str(SWARMCTL), "start", "--config", str(self.config), "-o", "log.format=json", *args]
        with self._log.path.open("ab") as stderr, (self.folder / "stdout").open("ab") as stdout:
            self._process = subprocess.Popen(
                tethered(command, signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,  # in append mode, which many processes may share
                cwd=self.folder,
                env=self._environment(),
                start_new_session=True,
            )
        self._pid = self._process.pid
        self._sessions.add(self._pid)
        return self

    def stop(self, within: float = 60.0) -> int:
        """TERM; waits for the end and returns the exit code."""
        assert self._process is not None, "it was never started"
        self.signal(signal.SIGTERM)
        return wait_for(
            lambda: (self.exit_code,) if self.exit_code is not None else None, within, "its end", self.story
        )[0]

    def signal(self, signum: signal.Signals) -> None:
        """Sends a signal to the supervisor."""
        if signum in {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL}:
            self._end_is_wanted = True
        os.kill(self.pid, signum)

    def run(self, *args: str, within: float = 60.0) -> subprocess.CompletedProcess[str]:
        """`swarmctl ARGS` for this swarm (through SWARM_CONFIG); blocks until it ends."""
        if args[:1] == ("stop",):
            self._end_is_wanted = True
        return subprocess.run(
            [str(SWARMCTL), *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self._environment() | {"SWARM_CONFIG": str(self.config)},
            timeout=within,
            check=False,
        )

    def audit(self, *args: str) -> dict[str, Any]:
        """`swarmctl audit --json ARGS`, with its exit code as `exit`; fails the test where it gave no answer."""
        done = self.run("audit", "--json", *args)
        assert done.stdout, done.stderr
        return {**json.loads(done.stdout), "exit": done.returncode}

    @property
    def journal(self) -> tuple[str, str]:
        """The options by which `audit` reads this daemon's journal, perhaps beside others'."""
        return "--journal", str(self.settings["swarm"]["state_dir"])

    # -- what a user sees ------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The supervisor's: the process that was started or, once there was a `status()`, the one it names."""
        assert self._pid, "it was never started"
        return self._pid

    @property
    def group(self) -> str:
        """Its consumer group, as `[swarm] group_id` says."""
        group = self.settings["swarm"]["group_id"]
        assert isinstance(group, str), "it is called as the application"
        return group

    @property
    def url(self) -> str:
        """Where its observer serves: `http://host:port`."""
        return f"http://127.0.0.1:{self.settings['observer']['port']}"

    @property
    def exit_code(self) -> int | None:
        """None while it runs; as `Popen.returncode`, so a signal that ended it is negative."""
        return self._process.poll() if self._process else None

    def status(self) -> dict[str, Any]:
        """`swarmctl status --json`; raises `NotRunning` with what it said instead."""
        done = self.run("status", "--json")
        if done.returncode != 0:
            raise NotRunning(done.stderr.strip())
        answer: dict[str, Any] = json.loads(done.stdout)
        self._pid = answer["pid"]
        with contextlib.suppress(ProcessLookupError):
            self._sessions.add(os.getsid(self._pid))  # a detached supervisor and its workers have one of their own
        return answer

    def workers(self) -> list[dict[str, Any]]:
        """The workers of `status()`, by index."""
        return sorted(self.status()["workers"], key=lambda worker: int(worker["index"]))

    def events(self, name: str | None = None, **facts: Any) -> list[Line]:
        """The log lines so far, in order; only those of event `name` (snake_case) and with these `facts`."""
        return [
            line
            for line in self._log.lines()
            if name in (None, line["event"]) and all(line.get(key) == fact for key, fact in facts.items())
        ]

    @property
    def log(self) -> str:
        """All of stderr, also what is not a JSON line."""
        return self._log.text()

    def story(self, lines: int = 60) -> str:
        """The end of the log in readable form, for a failure's message."""
        return self._log.story(lines)

    # -- waiting ---------------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], T | None], within: float = 30.0, what: str = "the condition") -> T:
        """Blocks until `condition()` is truthy and returns its value; a failure lists the events seen so far.

        A swarm that has ended without being asked to ends the wait too. `NotRunning` counts as not yet.
        """

        __tracebackhide__ = True

        def tolerant() -> T | None:
            try:
                return condition()
            except NotRunning:
                return None

        return wait_for(tolerant, within, what, self.story, self._unexpected_end)

    def wait_for_event(self, name: str, count: int = 1, within: float = 30.0, **facts: Any) -> list[Line]:
        """Blocks until there are `count` such events in the log and returns them all."""

        __tracebackhide__ = True

        def enough() -> list[Line] | None:
            found = self.events(name, **facts)
            return found if len(found) >= count else None

        wanted = f"{count} x {name} {facts or ''}".strip()
        return self.wait_for(enough, within, wanted)

    def until_running(self, within: float = 30.0) -> Self:
        """Blocks until the swarm and each of its workers are `running`."""

        def running() -> bool:
            status = self.status()
            return status["state"] == "running" and all(worker["state"] == "running" for worker in status["workers"])

        self.wait_for(running, within, "the swarm and its workers to be running")
        return self

    # -- the end of a test -----------------------------------------------------------------------------

    def expect_errors(self, *events: str) -> None:
        """Announces events (snake_case) of level error that the test is about; a scenario fails on others."""
        self._expected_errors.update(events)

    def unannounced_errors(self) -> list[Line]:
        return [line for line in self.events(level="error") if line["event"] not in self._expected_errors]

    def close(self) -> None:
        """Ends what is left, by pid: TERM to the supervisor, KILL to what stays.

        AssertionError where something had to be killed, and where the supervisor had more than one thread: it forks.
        """
        threads = 1
        patience = self._shutdown_timeout + _GONE_WITHIN
        if self.exit_code is not None and self.exit_code >= 0:
            patience = _GONE_WITHIN  # it has ended in good order: its workers must be gone
        for process in self._left():
            _send(process.pid, signal.SIGCONT)  # a test may have stopped it
            if process.pid == self._pid:
                threads = _threads(process.pid)
                patience = self._shutdown_timeout + _GONE_WITHIN
                _send(process.pid, signal.SIGTERM)

        deadline = time.monotonic() + patience
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            for process in left:
                _send(process.pid, signal.SIGKILL)
            wait_for(lambda: not self._left(), _GONE_WITHIN, "killed processes to be gone")
            described = ", ".join(f"{process.pid} ({process.title})" for process in left)
            raise AssertionError(f"still running {patience:g} s after the swarm ended or was told to: {described}")
        assert threads == 1, f"the supervisor had {threads} threads"

    # -- behind it -------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        """Ours, without what would change the daemon's settings or place."""
        unwanted = ("SWARM_", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_")
        return {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}

    def _unexpected_end(self) -> str:
        if self.exit_code is None or self.exit_code == 0 or self._end_is_wanted:
            return ""
        return f"the swarm has ended by itself, exit code {self.exit_code}"

    def _left(self) -> list[_Process]:
        if self._process is not None:
            self._process.poll()  # reaps it
        return _processes(self._sessions)


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    title: str


def _processes(sessions: set[int]) -> list[_Process]:
    """Every process in these sessions, zombies left out.

    By session and not by parent: a worker whose supervisor was killed has another parent.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) in sessions and state != "Z":
                    title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    found.append(_Process(int(entry.name), title))
    return found


def _threads(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    except FileNotFoundError:
        return 1  # it has just ended


def _send(pid: int, signum: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


class _Log:
    """The daemon's stderr. Reads on from where it was: tests ask for events many times a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._lines: list[Line] = []

    def lines(self) -> list[Line]:
        """The complete JSON lines that carry an event."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                fresh = file.read()
            complete = fresh[: fresh.rfind(b"\n") + 1]
            self._read += len(complete)
            self._lines += filter(None, map(_event, complete.splitlines()))
        return self._lines

    def text(self) -> str:
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def story(self, lines: int) -> str:
        known = self.lines()
        shown = [f"  {_readable(line)}" for line in known[-lines:]]
        others = [f"  {line}" for line in self.text().splitlines() if _event(line.encode()) is None]
        parts = [f"events seen so far ({len(known)}, the last {len(shown)}):", *(shown or ["  none"])]
        if others:
            parts += ["and on stderr:", *others[-lines:]]
        return "\n".join(parts)


def _event(line: bytes) -> Line | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None


def _readable(line: Line) -> str:
    facts = {key: value for key, value in line.items() if key not in {"timestamp", "level", "event"}}
    text = " ".join(f"{key}={value!r}" for key, value in facts.items())
    return f"{line.get('timestamp', '')} {line.get('level', ''):7} {line['event']} {text}"[:600]
