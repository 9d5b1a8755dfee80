"""An application under a real `swarmctl start`, with accidents on request: for tests. Knows swarmctl, signals and the log.

All of it runs on this machine, and nothing outlives the test: `close` ends what is left, by pid.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

from confluent_kafka import Message

from swarm.config import load_settings
from swarm.testing.broker import SwarmBroker, guest_of
from swarm.testing.checker import Event
from swarm.testing.gathering import gather
from swarm.testing.invariants import Violation, check, read_events

Settings = Mapping[str, Mapping[str, Any]]
Place = tuple[str, int, int]
"""Topic, partition, offset."""

PATIENCE: Final = 60.0
"""Seconds for which a wait goes on."""
_LOOK: Final = 0.1
_GONE: Final = 10.0
"""Seconds for processes to end beyond the swarm's own deadline."""

_DEFAULTS: Final[Settings] = {
    "swarm": {"workers": 2, "shutdown_timeout": 10.0},
    "worker": {"commit_interval": 0.5},
}
"""What suits a test; the settings that a test gives, and those of its `swarm.toml`, go before."""
_OURS: Final[Settings] = {"log": {"level": "debug", "format": "json"}}
"""What the judgement needs."""


class SwarmDaemon:
    """A swarm of the application under test. Start it, have accidents, stop it; `violations` says what did not hold.

    app: "module:name", found from `folder` or from where the test's own modules are found; or a path of a `swarm.toml`.
    settings: sections laid over the defaults for tests. Every wait raises AssertionError with the end of the log when it is in vain.
    """

    def __init__(
        self, app: str | Path, broker: SwarmBroker, settings: Settings | None = None, folder: Path | None = None
    ) -> None:
        self.broker = broker
        self._folder = folder or Path.cwd()
        self._home = Path(tempfile.mkdtemp(prefix="swarm-"))  # short: a Unix socket's path has at most 107 bytes
        self._log = self._home / "log"
        self._config, self._app = self._configuration(str(app))
        # Where there is a file of its own, its word counts: only what the test needs is laid over it.
        own = self._config.parent != self._home
        places: Settings = {
            "swarm": {"run_dir": str(self._home / "run"), "state_dir": str(self._home / "state")},
            "observer": {"port": 0},
        }
        self._options = _options([{} if own else _DEFAULTS, places, broker.settings, settings or {}, _OURS])
        self._loaded = load_settings(self._config, environ={}, overrides=self._options[1::2], app=self._app)
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0
        self._events: list[Event] = []
        self._frozen: set[int] = set()
        self._consumed: dict[tuple[str, int], int] | None = None
        self._traces: list[tuple[str | None, Callable[[], Iterable[Place]]]] = []

    def _configuration(self, app: str) -> tuple[Path, str | None]:
        """The settings file and the app, where that is not the file's to say."""
        if app.endswith(".toml"):
            return self._folder / app, None
        file = self._folder / "swarm.toml"
        if not file.exists():
            file = self._home / "swarm.toml"
            file.touch()
        return file, app

    # -- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start it and wait until every worker is running. It may be started again after it has ended."""
        assert not self.is_running, "it runs already"
        app = ["--app", self._app] if self._app is not None else []
        path = os.pathsep.join([str(self._folder), *filter(None, sys.path)])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SWARM_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [*_SWARMCTL, "start", "--config", str(self._config), *app, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,  # in append mode, which the workers share
                cwd=self._folder,
                env=environment | {"PYTHONPATH": path},
                start_new_session=True,
            )
        self.wait_for(self._is_up, "the swarm and its workers to be running")
        return self

    def stop(self) -> int:
        """A graceful stop; returns the exit code (0: smooth)."""
        assert self._process is not None, "it was never started"
        self.thaw()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)
        self.wait_for(lambda: not self.is_running, "its end")
        return self._process.returncode

    @property
    def is_running(self) -> bool:
        """Whether its supervisor lives."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End it, by force where a stop does not do, and remove its files."""
        try:
            if self.is_running:
                self.stop()
        finally:
            if self._process is not None:
                deadline = time.monotonic() + _GONE
                while (left := _session(self._process.pid)) and time.monotonic() < deadline:
                    time.sleep(_LOOK)
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._process.wait()
            shutil.rmtree(self._home, ignore_errors=True)

    # -- what is seen ------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """`swarmctl status --json`; empty while nobody answers."""
        done = subprocess.run(  # noqa: S603
            [*_SWARMCTL, "status", "--json", "-o", f"swarm.run_dir={self._home / 'run'}"],
            capture_output=True,
            text=True,
            cwd=self._home,
            timeout=PATIENCE,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return answer

    def workers(self) -> list[dict[str, Any]]:
        """The workers of `status`, by index."""
        return sorted(self.status().get("workers", ()), key=lambda worker: int(worker["index"]))

    def events(self, name: str | None = None, **facts: Any) -> list[Event]:
        """Its events so far, in order; only those of this name (snake_case) and with these facts."""
        if self._log.exists():
            with self._log.open("rb") as file:
                file.seek(self._read)
                fresh = file.read()
            complete = fresh[: fresh.rfind(b"\n") + 1]
            self._read += len(complete)
            self._events += read_events(complete.splitlines())
        return [
            event
            for event in self._events
            if name in (None, event["event"]) and all(event.get(key) == fact for key, fact in facts.items())
        ]

    def story(self, lines: int = 40) -> str:
        """The end of its log, also of what is no event."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(line[:500] for line in text.splitlines()[-lines:])

    def wait_for(self, condition: Callable[[], Any], what: str = "the condition", within: float = PATIENCE) -> Any:
        """Blocks until `condition()` is true and returns what it said."""
        __tracebackhide__ = True
        deadline = time.monotonic() + within
        while True:
            found = condition()
            if found:
                return found
            ended = self._process is not None and self._process.poll() not in (None, 0)
            if ended or time.monotonic() > deadline:
                why = f"the swarm has ended with {self._process.returncode}" if ended else f"not within {within:g} s"  # type: ignore[union-attr]
                raise AssertionError(f"waited in vain for {what}: {why}.\n{self.story()}")
            time.sleep(_LOOK)

    def wait_for_event(self, name: str, count: int = 1, **facts: Any) -> list[Event]:
        """Blocks until there are so many such events, and returns them."""
        __tracebackhide__ = True

        def enough() -> list[Event] | None:
            found = self.events(name, **facts)
            return found if len(found) >= count else None

        found: list[Event] = self.wait_for(enough, f"{count} x {name} {facts or ''}".strip())
        return found

    def wait_until_consumed(self, within: float = PATIENCE) -> None:
        """Blocks until all groups have committed everything that their topics hold."""
        __tracebackhide__ = True

        def consumed() -> bool:
            groups = self._topics()
            contents = self.broker.contents({topic for topics in groups.values() for topic in topics})
            ends = {place: ranges.end for place, ranges in contents.items()}
            for group, topics in groups.items():
                committed = self.broker.committed(group, topics)
                for place, end in ends.items():
                    if place[0] in topics and committed.get(place, 0) < end:
                        return False
            self._consumed = ends
            return bool(groups)

        self.wait_for(consumed, "everything to be consumed and committed", within)

    # -- accidents ---------------------------------------------------------------------------------------------------

    def kill(self, worker: int | None = None) -> int:
        """kill -9 of a worker (its index; default: one that holds partitions) and returns its pid. It is replaced by itself."""
        pid = self._pid(worker)
        os.kill(pid, signal.SIGKILL)
        self.wait_for_event("worker_exited", pid=pid)
        return pid

    def freeze(self, worker: int | None = None) -> int:
        """SIGSTOP of a worker, until `thaw`; returns its pid. Frozen for long, it loses its partitions, or is killed by the supervisor."""
        pid = self._pid(worker)
        os.kill(pid, signal.SIGSTOP)
        self._frozen.add(pid)
        return pid

    def thaw(self) -> None:
        """SIGCONT to whoever was frozen and still lives."""
        frozen, self._frozen = self._frozen, set()
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def rebalance(self) -> None:
        """Another member joins each group, gets partitions, and leaves again without having touched them. Blocks for both."""
        before = len(self.events("partitions_assigned"))
        with contextlib.ExitStack() as stack:
            for group, topics in self._topics().items():
                guest = stack.enter_context(guest_of(group, sorted(topics), self._loaded.settings.kafka))
                self.wait_for(guest, f"another member of {group} to get partitions")
        self.wait_for(
            lambda: len(self.events("partitions_assigned")) > before, "the partitions to come back after a rebalance"
        )

    def restart_broker(self, seconds: float = 1.0) -> None:
        """The embedded broker is away for so long. AssertionError for a real one: that is yours to restart."""
        self.broker.restart(seconds)

    # -- what it really did ------------------------------------------------------------------------------------------

    def expect_handled(self, read: Callable[[], Iterable[Place]], group: str | None = None) -> None:
        """Judge also by what handlers really did: `read()`, called at the end, gives (topic, partition, offset) of each message that has
        left its trace. Every message that is said to be done must have; with exactly-once, one only. `group`: default: its only one.
        """
        self._traces.append((group, read))

    def expect_outputs(self, topic: str, source: Callable[[Message], Place | None], group: str | None = None) -> None:
        """The same for handlers that produce: `source(message)` says of each message in `topic` what it was made from (None: nothing)."""
        self.expect_handled(lambda: filter(None, map(source, self.broker.read(topic))), group)

    # -- the judgement -----------------------------------------------------------------------------------------------

    def violations(self) -> list[Violation]:
        """What did not hold (`swarm.testing.invariants`), from its log and what the broker holds. Once it has been stopped. Blocks.

        Where `wait_until_consumed` has been through, and nothing was produced since, everything has to be done.
        """
        assert not self.is_running, "stop it first"
        facts = gather({"swarm": self.events()}, self.broker)
        ends = {place: ranges.end for place, ranges in (facts.contents or {}).items()}  # type: ignore[union-attr]
        complete = self._consumed is not None and ends == self._consumed
        return check(replace(facts, complete=complete, outputs=self._outputs()))

    def _outputs(self) -> dict[str, list[Place]]:
        found: dict[str, list[Place]] = {}
        for name, read in self._traces:
            groups = list(self._topics())
            assert name is not None or len(groups) == 1, f"say the group of what is expected: one of {groups}"
            found.setdefault(name or groups[0], []).extend(read())
        return found

    # -- behind it ---------------------------------------------------------------------------------------------------

    def _is_up(self) -> bool:
        status = self.status()
        return status.get("state") == "running" and all(each["state"] == "running" for each in status["workers"])

    def _pid(self, worker: int | None) -> int:
        def found() -> int | None:
            able = [each for each in self.workers() if each["pid"] and each["state"] == "running"]
            wanted = [each for each in able if (each["index"] == worker if worker is not None else each["assignment"])]
            return int(wanted[0]["pid"]) if wanted else None

        pid: int = self.wait_for(found, "a worker with partitions" if worker is None else f"worker {worker}")
        return pid

    def _topics(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for event in self.events("partitions_assigned"):
            found.setdefault(event["group"], set()).update(topic for topic, _, _ in event["partitions"])
        return found


_SWARMCTL: Final = (sys.executable, "-P", "-m", "swarm.cli")


def _options(layers: Sequence[Settings]) -> list[str]:
    """As `-o section.key=value`; later layers go before earlier ones."""
    chosen: dict[str, Any] = {}
    for layer in layers:
        for section, values in layer.items():
            chosen |= {f"{section}.{key}": value for key, value in values.items()}
    return [word for name, value in chosen.items() for word in ("-o", f"{name}={_text(value)}")]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {json.dumps(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def _session(leader: int) -> list[int]:
    """Every live process of the session that `leader` began."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == leader and state != "Z":
                    found.append(int(entry.name))
    return found
