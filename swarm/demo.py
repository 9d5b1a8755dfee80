"""`swarmctl demo`: a broker, a producer and a swarm as processes of their own; one worker is killed, and then everything is counted.

This module starts, watches and ends them. What came out is worked out in `swarm.demo_balance`, from what the producer and the
workers wrote into files; the swarm itself is only asked through its control socket, like any other.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Final, Protocol

from swarm import control, demo_app, demo_balance, display
from swarm.demo_balance import Evidence, Kill, Place
from swarm.errors import SwarmError
from swarm.wording import counted

RATE: Final = 250.0
"""Orders a second."""
PARTITIONS_PER_WORKER: Final = 2
SESSION_TIMEOUT: Final = 1.5
"""Seconds, on the embedded broker only: as there is no static membership, this is how long a dead member's partitions lie idle."""
COMMIT_INTERVAL: Final = 1.0
LOOK_EVERY: Final = 0.2
BOOT_PATIENCE: Final = 40.0
"""Seconds until all workers have to be running; a real cluster may take some for the first member of a new group."""
DRAIN_PATIENCE: Final = 60.0
"""Seconds for what was produced to be processed, once nothing more is produced. More than a session timeout of 45 s."""
SHUTDOWN_TIMEOUT: Final = 10.0

_PR_SET_PDEATHSIG: Final = 1
_MOST_EVENTS: Final = 10
_PLAIN_EVERY: Final = 2.0


def run(*, seconds: float, workers: int, bootstrap: str | None) -> int:
    """Run the demo and print it; returns 1 if a message was lost, else 0. Ctrl-C ends it early, a second one at once.

    Raises SwarmError where it cannot run. Blocks for `seconds`, and for as long as it then takes to drain.
    """
    with contextlib.ExitStack() as stack:
        hurry = stack.enter_context(_Hurry())
        directory = stack.enter_context(_temporary_directory())
        screen = stack.enter_context(_screen())
        stage = _Stage(directory, stack, workers, bootstrap)
        return _Show(stage, screen, hurry, seconds).run()


# -- the processes ---------------------------------------------------------------------------------------------------


class _Stage:
    """The processes of the demo and their files. Everything ends with `stack`, also after an error."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack, workers: int, bootstrap: str | None) -> None:
        token = secrets.token_hex(4)
        self.workers = workers
        self.partitions = workers * PARTITIONS_PER_WORKER
        self.embedded = bootstrap is None
        self.topic = "orders" if self.embedded else f"swarm-demo-{token}"
        self.group = "swarm-demo" if self.embedded else f"swarm-demo-{token}"
        self.run_dir = directory / "run"
        self.log = directory / "swarm.log"
        self._directory = directory
        self._stack = stack
        self._bootstrap = bootstrap
        self._confirmed = _Lines(directory / "confirmed")
        self._runs: dict[Path, _Lines] = {}
        self.produced: set[Place] = set()
        self.runs: list[demo_app.Run] = []

    def start_broker(self) -> str:
        """The embedded one, or the topic on somebody's own; returns bootstrap.servers."""
        if self._bootstrap is not None:
            try:
                self._orders("create", self._bootstrap, self.topic, str(self.partitions))
            except SwarmError as error:
                raise SwarmError(f"{self._bootstrap}: no topic could be made for the demo: {error}") from None
            self._stack.callback(self._delete_topic, self._bootstrap)
            return self._bootstrap
        options = ("--topic", f"{self.topic}:{self.partitions}", "--session-timeout", str(SESSION_TIMEOUT))
        process = self._spawn("swarm.cli", "broker", *options, stdout=subprocess.PIPE)
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], BOOT_PATIENCE)
        name, _, servers = process.stdout.readline().decode().partition(" = ") if readable else ("", "", "")
        if name != "bootstrap.servers":
            raise SwarmError("the embedded broker did not start.")
        self._bootstrap = servers.strip()
        return self._bootstrap

    def start_swarm(self) -> subprocess.Popen[bytes]:
        """`swarmctl start` on the demo's own app."""
        settings = self._directory / "swarm.toml"
        settings.write_text(self._settings())
        log = self._stack.enter_context(self.log.open("wb"))
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SWARM_")}
        environ |= {demo_app.TOPIC_VARIABLE: self.topic, demo_app.DIRECTORY_VARIABLE: str(self._directory)}
        return self._spawn("swarm.cli", "start", "--config", str(settings), stdout=log, stderr=log, env=environ)

    def _settings(self) -> str:
        # The embedded broker refuses commits during a classic group's rebalance, which makes duplicates that a real one would
        # not: its groups of the newer protocol have no such time. On a real one the demo runs with the defaults.
        kafka = {"group.protocol": "consumer"} if self.embedded else {}
        properties = "\n".join(f'"{name}" = {json.dumps(value)}' for name, value in kafka.items())
        return f"""\
[swarm]
app = "swarm.demo_app:app"
name = "demo"
group_id = "{self.group}"
workers = {self.workers}
run_dir = {json.dumps(str(self.run_dir))}
state_dir = {json.dumps(str(self._directory / "state"))}
shutdown_timeout = {SHUTDOWN_TIMEOUT}
[kafka]
"bootstrap.servers" = {json.dumps(self._bootstrap)}
{properties}
[worker]
commit_interval = {COMMIT_INTERVAL}
[supervision]
static_membership = {"false" if self.embedded else "true"}
[observer]
port = 0
[log]
format = "json"
"""

    def start_producer(self) -> subprocess.Popen[bytes]:
        """Orders at a steady rate, until SIGTERM."""
        assert self._bootstrap is not None
        return self._spawn(
            "swarm.demo_orders", "produce", self._bootstrap, self.topic, str(self._confirmed.path), str(RATE)
        )

    def _spawn(self, module: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 our own interpreter and modules
            # -P: not the current directory, which may hold a folder called swarm.
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the demo: the order in which the others end is its affair
            preexec_fn=_end_with_parent,  # noqa: PLW1509 this process has one thread
            **options,
        )
        self._stack.callback(_end, process)
        return process

    def _orders(self, *arguments: str) -> None:
        done = subprocess.run(  # noqa: S603 as above
            [sys.executable, "-P", "-m", "swarm.demo_orders", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            what = done.stderr.strip().splitlines()
            raise SwarmError(what[-1] if what else "no reason was given")

    def _delete_topic(self, servers: str) -> None:
        try:
            self._orders("delete", servers, self.topic)
        except SwarmError as error:
            print(f"{servers}: topic {self.topic} was not deleted: {error}", file=sys.stderr)

    def read(self) -> list[demo_app.Run]:
        """Take in what was written since the last time; returns the new runs."""
        for line in self._confirmed.new():
            partition, offset = line.split()
            self.produced.add((int(partition), int(offset)))
        new: list[demo_app.Run] = []
        for path in self._directory.glob(demo_app.RUNS_PREFIX + "*"):
            lines = self._runs.setdefault(path, _Lines(path))
            new += demo_app.parse_runs(lines.new())
        self.runs += new
        return new

    def evidence(self) -> Evidence:
        """What the swarm's log says of partitions that were taken away and of commits that were refused."""
        taken: set[tuple[int, int]] = set()
        refused: dict[tuple[int, int], int] = {}
        troubles: Counter[str] = Counter()
        for line in self._log_lines():
            if line.get("level") in ("warning", "error"):
                troubles[str(line.get("event"))] += 1
            match line:
                case {"event": "partitions_lost" | "revocation_given_up", "pid": pid, "partitions": partitions}:
                    taken |= {(pid, partition) for _, partition in partitions}
                case {"event": "commit_failed", "pid": pid, "offsets": offsets}:
                    for _, partition, following in offsets:
                        refused[pid, partition] = max(following, refused.get((pid, partition), 0))
        return Evidence(frozenset(taken), refused, dict(troubles))

    def _log_lines(self) -> Iterator[dict[str, Any]]:
        for line in self.log.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                parsed = json.loads(line)
                if isinstance(parsed, dict):
                    yield parsed

    def last_words(self) -> str:
        """The last lines of the swarm's log, for what did not work."""
        lines = self.log.read_bytes().decode("utf-8", "replace").splitlines() if self.log.exists() else []
        return "\n".join(line[:300] for line in lines[-4:])


def _end_with_parent() -> None:
    # A demo that is killed with SIGKILL cleans nothing up: the kernel then sends TERM to what it started.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that is still there: TERM, and KILL where that does not help."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(SHUTDOWN_TIMEOUT + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


class _Lines:
    """A file that grows, read line by line; a line that is not whole yet waits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0
        self._rest = b""

    def new(self) -> list[bytes]:
        """Whole lines that were not there the last time."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return []
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines


@contextlib.contextmanager
def _temporary_directory() -> Iterator[Path]:
    # A socket's path has at most 107 bytes, and some systems' TMPDIR nearly as many.
    place = None if len(tempfile.gettempdir()) < 60 else "/tmp"  # noqa: S108 mkdtemp makes it private
    path = Path(tempfile.mkdtemp(prefix="swarm-demo-", dir=place))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class _Hurry:
    """INT and TERM: the first is taken down, the second interrupts."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def _handle(self, _: int, __: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> _Hurry:
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


# -- the course of events --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _View:
    """What the screen shows."""

    status: dict[str, Any] | None = None
    produced: int = 0
    processed: int = 0
    now: str = "starting"
    events: list[tuple[float, str]] = field(default_factory=list)


class _Show:
    """The demo from its begin to its balance."""

    def __init__(self, stage: _Stage, screen: Screen, hurry: _Hurry, seconds: float) -> None:
        self._stage = stage
        self._screen = screen
        self._hurry = hurry
        self._seconds = seconds
        self._began = time.monotonic()
        self._view = _View()
        self._places: set[Place] = set()
        self._kill: Kill | None = None
        self._recovering: set[int] = set()
        self._pids: dict[int, int] = {}

    def run(self) -> int:
        """Returns the exit code."""
        stage = self._stage
        servers = stage.start_broker()
        whose = "embedded broker (newer group protocol)" if stage.embedded else "broker"
        self._say(f"{whose} at {servers}")
        producer = stage.start_producer()
        self._say(f"{RATE:g} orders a second go into topic {stage.topic}, {counted(stage.partitions, 'partition')}")
        swarm = stage.start_swarm()
        self._watch(lambda: self._is_up(swarm), BOOT_PATIENCE, "starting")
        if not self._is_up(swarm) and not self._hurry.asked:
            raise SwarmError(
                f"the swarm did not come up within {BOOT_PATIENCE:g} s. Its log ends with:\n{stage.last_words()}"
            )
        self._say(f"all {stage.workers} workers are running")

        left = self._seconds - self._elapsed()
        self._watch(lambda: False, max(self._seconds / 2 - self._elapsed(), 1.5), "running")
        if not self._hurry.asked:
            self._kill_one()
        self._watch(lambda: False, max(self._seconds - self._elapsed(), min(left, 1.0)), "running")

        self._say("the producer stops" + (", early as asked" if self._hurry.asked else ""))
        _end(producer)
        self._hurry.asked = False  # from here on, a Ctrl-C ends the waiting
        self._watch(self._is_drained, DRAIN_PATIENCE, "draining")
        restarts = self._restarts()
        self._watch_stop(swarm)
        stage.read()
        return self._conclude(restarts)

    def _watch(self, until: Callable[[], bool], within: float, now: str) -> None:
        """Look, show and wait until it is so, time is up or somebody is in a hurry."""
        deadline = time.monotonic() + within
        self._view.now = now
        while not self._hurry.asked:
            self._look()
            if until() or time.monotonic() >= deadline:
                return
            time.sleep(max(0.0, min(LOOK_EVERY, deadline - time.monotonic())))

    def _look(self) -> None:
        view, stage = self._view, self._stage
        with contextlib.suppress(control.ControlError):
            view.status = control.request([stage.run_dir], "status")["result"]
            self._notice_replacements()
        for run in stage.read():
            self._places.add((run.partition, run.offset))
            self._notice_recovery(run)
        view.produced, view.processed = len(stage.produced), len(self._places)
        self._screen.show(view, self._elapsed(), self._seconds)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _say(self, text: str, at: float | None = None) -> None:
        self._view.events.append(((time.monotonic() if at is None else at) - self._began, text))
        self._screen.show(self._view, self._elapsed(), self._seconds)

    def _workers(self) -> list[dict[str, Any]]:
        return list((self._view.status or {}).get("workers", []))

    def _is_up(self, swarm: subprocess.Popen[bytes]) -> bool:
        if swarm.poll() is not None:
            raise SwarmError(
                f"the swarm ended (code {swarm.returncode}). Its log ends with:\n{self._stage.last_words()}"
            )
        workers = self._workers()
        return bool(workers) and all(worker["state"] == "running" for worker in workers)

    def _is_drained(self) -> bool:
        return self._stage.produced <= self._places

    def _kill_one(self) -> None:
        """SIGKILL to the worker that holds most, of those the one with the highest index."""
        self._look()
        alive = [worker for worker in self._workers() if worker["pid"] is not None]
        if not alive:
            return
        chosen = max(alive, key=lambda worker: (len(worker["assignment"]), worker["index"]))
        held = tuple(sorted(place["partition"] for place in chosen["assignment"]))
        self._kill = Kill(chosen["index"], chosen["pid"], time.monotonic(), held)
        self._recovering = set(held)
        os.kill(chosen["pid"], signal.SIGKILL)
        where = f"{self._stage.topic}/{display.ranges(held)}" if held else "no partition"
        self._say(f"kill -9 of worker {chosen['index']} (pid {chosen['pid']}), which holds {where}", self._kill.at)

    def _notice_replacements(self) -> None:
        for worker in self._workers():
            index, pid = worker["index"], worker["pid"]
            if pid is None:
                continue
            if self._pids.get(index, pid) != pid:
                self._say(f"worker {index} was replaced: pid {pid}")
            self._pids[index] = pid

    def _notice_recovery(self, run: demo_app.Run) -> None:
        kill = self._kill
        if kill is None or run.partition not in self._recovering or run.pid == kill.pid or run.at <= kill.at:
            return
        self._recovering.discard(run.partition)
        self._say(
            f"{self._stage.topic}/{run.partition} goes on in worker {run.worker}, {run.at - kill.at:.2f} s after the kill",
            run.at,
        )

    def _restarts(self) -> int | None:
        workers = self._workers()
        return sum(worker["restarts"] for worker in workers) if workers else None

    def _watch_stop(self, swarm: subprocess.Popen[bytes]) -> None:
        self._view.now = "stopping"
        self._screen.show(self._view, self._elapsed(), self._seconds)
        try:
            control.stop([self._stage.run_dir], patience=SHUTDOWN_TIMEOUT + 20)
        except control.ControlError:
            _end(swarm)
        code = swarm.wait(SHUTDOWN_TIMEOUT + 20)
        self._view.now = "done"
        self._say("the swarm has stopped" + ("" if code == 0 else f" with exit code {code}"))

    def _conclude(self, restarts: int | None) -> int:
        stage = self._stage
        result = demo_balance.balance(stage.produced, stage.runs, self._kill, stage.evidence())
        text = demo_balance.render(
            result,
            self._kill,
            topic=stage.topic,
            restarts=restarts,
            session_timeout=SESSION_TIMEOUT if stage.embedded else None,
            gave_up_after=DRAIN_PATIENCE if result.lost else None,
        )
        self._screen.end(self._view, self._elapsed(), self._seconds, text)
        return 1 if result.lost or not result.produced else 0


# -- the screen ------------------------------------------------------------------------------------------------------


class Screen(Protocol):
    """Where the demo is seen."""

    def show(self, view: _View, elapsed: float, seconds: float) -> None:
        """Show the state of things; called often."""

    def end(self, view: _View, elapsed: float, seconds: float, balance: str) -> None:
        """Show the last state, and the balance."""


@contextlib.contextmanager
def _screen() -> Iterator[Screen]:
    if not sys.stdout.isatty():
        yield _PlainScreen(sys.stdout)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        yield _TerminalScreen(live)


class _PlainScreen:
    """Lines as things happen, and now and then the counts."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._told = 0
        self._counted_at = 0.0

    def show(self, view: _View, elapsed: float, seconds: float) -> None:
        for at, text in view.events[self._told :]:
            self._line(at, text)
        self._told = len(view.events)
        if elapsed - self._counted_at >= _PLAIN_EVERY and view.status is not None:
            self._counted_at = elapsed
            self._line(elapsed, _counts(view))

    def _line(self, at: float, text: str) -> None:
        print(f"{at:5.1f} s  {text}", file=self._out, flush=True)

    def end(self, view: _View, elapsed: float, seconds: float, balance: str) -> None:
        self.show(view, elapsed, seconds)
        print(f"\n{balance}", file=self._out, flush=True)


class _TerminalScreen:
    """A live table of workers, the counts and the events."""

    def __init__(self, live: Any) -> None:
        self._live = live

    def show(self, view: _View, elapsed: float, seconds: float) -> None:
        self._live.update(self._drawing(view, elapsed, seconds), refresh=True)

    def _drawing(self, view: _View, elapsed: float, seconds: float) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        parts: list[Any] = []
        if view.status is not None:
            parts += [display.table(view.status), Text()]
        parts += [
            Text(f"{_counts(view)}   {view.now}, {min(elapsed, seconds):.0f} of {seconds:.0f} s"),
            ProgressBar(total=seconds, completed=min(elapsed, seconds), width=78),
            Text(),
        ]
        for at, text in view.events[-_MOST_EVENTS:]:
            style = "bold red" if text.startswith("kill") else ""
            parts.append(Text(f"{at:5.1f} s  {text}", style=style))
        return Group(*parts)

    def end(self, view: _View, elapsed: float, seconds: float, balance: str) -> None:
        self.show(view, elapsed, seconds)
        self._live.stop()
        self._live.console.print(f"\n{balance}", soft_wrap=True)


def _counts(view: _View) -> str:
    waiting = max(0, view.produced - view.processed)
    return (
        f"produced {display.count(view.produced)}  processed {display.count(view.processed)}  "
        f"waiting {display.count(waiting)}"
    )
