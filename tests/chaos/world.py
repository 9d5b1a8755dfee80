"""A cluster and two daemons on it, and the accidents that befall them. Knows how to carry each of them out; chooses and judges nothing."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.accidents import Accident
from tests.support.cluster import Cluster
from tests.support.daemon import SWARMCTL, Daemon
from tests.support.kafka import Broker
from tests.support.project import Sections, write_project
from tests.support.proxy import Proxy

APPLICATION = Path(__file__).with_name("application.py")
WORKERS = {"first": 3, "second": 2}

_NOBODY_CAME = 25.0  # s after which a supervisor would have ended a worker that is stopped

CLUSTER = {
    # The new group protocol: a killed member's seat is free after this, instead of the 45 s that are the least otherwise.
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "6000",
    "group.consumer.heartbeat.interval.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "1000",
}


@dataclass(frozen=True, slots=True)
class Exit:
    """How a supervisor ended that was told to stop. smooth: nothing was done to its processes meanwhile."""

    daemon: str
    code: int
    smooth: bool


@dataclass(frozen=True, slots=True)
class Worker:
    daemon: str
    pid: int
    title: str


class World:
    """The cluster runs already. `first` runs all the time, but for accidents; `second` joins its groups now and then."""

    def __init__(self, folder: Path, cluster: Cluster, groups: list[str], say: Callable[[str], None]) -> None:
        self.folder = folder
        self.cluster = cluster
        self._say = say
        (folder / "seen").mkdir()
        self.daemons = {name: self._project(name, groups) for name in WORKERS}
        self.hurt: dict[int, list[tuple[float, str]]] = defaultdict(list)
        """pid -> when and what was done to this process that it cannot be blamed for."""
        self.killed: dict[int, float] = {}
        self.exits: list[Exit] = []
        self._steps: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._frozen: dict[int, int] = {}  # pid -> pidfd, which can never mean another process
        self._started: set[str] = set()
        self._commands: list[subprocess.Popen[bytes]] = []
        self._stopping: dict[str, float] = {}  # daemon -> when it was told to
        self._broker: Broker | None = None  # the one that is away
        self._broker_returns = True  # whether whoever took it away has begun it again
        self._begin = 0.0
        self._healing = False

    def _project(self, name: str, groups: list[str]) -> Daemon:
        folder = self.folder / name
        settings: Sections = {
            "swarm": {
                "app": "app:app",
                "name": name,
                "group_id": "chaos",
                "workers": WORKERS[name],
                "run_dir": folder / "run",
                "state_dir": folder / "state",
                "shutdown_timeout": 10,
            },
            "kafka": {"bootstrap.servers": self.cluster.bootstrap, "max.poll.interval.ms": 30000},
            # Long-running jobs of several partitions must not keep all others from running.
            "worker": {"commit_interval": 1.0, "concurrency": 12},
            "supervision": {
                "report_timeout": 6.0,
                "poll_timeout": 10.0,
                "consume_timeout": 30.0,
                # Deaths are the rule here, and a worker that waits is no test.
                "restart_backoff": {"initial": 0.0, "factor": 1.5, "maximum": 2.0, "reset_after": 5.0},
            },
            "observer": {"port": 0},
            "log": {"level": "debug", "format": "json"},
        }
        config = write_project(folder, APPLICATION.read_text(), settings)
        (folder / "groups").write_text("\n".join(groups))
        return Daemon(config, settings)

    # -- time ------------------------------------------------------------------------------------------

    def run(self, accidents: list[Accident], seconds: float) -> None:
        """Carries out each when it is due, and what it leads to later; returns after `seconds`."""
        self._begin = time.monotonic()
        for accident in accidents:
            self._at(accident.at, lambda accident=accident: self._happen(accident))  # type: ignore[misc]
        while (now := time.monotonic() - self._begin) < seconds:
            self._due(now)
            time.sleep(0.02)

    def daemons_begin(self) -> None:
        """Starts the first one and returns when it runs."""
        self._begin = time.monotonic()
        self._start("first")
        self.daemons["first"].until_running(180)

    def _at(self, at: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._steps, (at, next(self._number), step))

    def _after(self, seconds: float, step: Callable[[], None]) -> None:
        self._at(time.monotonic() - self._begin + seconds, step)

    def _due(self, now: float) -> None:
        due = []
        while self._steps and self._steps[0][0] <= now:
            due.append(heapq.heappop(self._steps)[2])
        for step in due:
            try:
                step()
            except ProcessLookupError:
                self._tell("… which has gone already")

    def _tell(self, text: str) -> None:
        self._say(f"{time.monotonic():.3f} {time.monotonic() - self._begin:7.2f}  {text}")

    def heal(self) -> None:
        """All that accidents have left is undone now; returns when the cluster is whole and `first` runs."""
        self._tell("everything is healed")
        self._healing = True
        while self._steps:
            self._due(float("inf"))
            time.sleep(0.05)
        for pidfd in self._frozen.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        self.cluster.heal()
        if not self._runs("first"):
            self._start("first")

    # -- the accidents ---------------------------------------------------------------------------------

    def _happen(self, accident: Accident) -> None:
        if self._healing:
            return
        step = getattr(self, "_" + accident.kind.replace(" ", "_"))
        step(accident.lasts, accident.chance)

    def _worker_killed(self, _: float, chance: float) -> None:
        for worker in self._choose(chance):
            self._tell(f"kill -9: {worker}")
            self._kill(worker.pid)

    def _worker_crashed(self, _: float, chance: float) -> None:
        for worker in self._choose(chance):
            self._tell(f"SIGSEGV: {worker}")
            self._hurt(worker.pid, "crashed")
            os.kill(worker.pid, signal.SIGSEGV)

    def _worker_told_to_go(self, _: float, chance: float) -> None:
        for worker in self._choose(chance):
            self._tell(f"TERM: {worker}")
            os.kill(worker.pid, signal.SIGTERM)

    def _worker_frozen(self, lasts: float, chance: float) -> None:
        for worker in self._choose(chance):
            self._tell(f"SIGSTOP for {lasts:.2f} s: {worker}")
            self._freeze(worker.pid, lasts)

    def _worker_stopped_for_good(self, _: float, chance: float) -> None:
        for worker in self._choose(chance):
            self._tell(f"SIGSTOP for good: {worker}")
            self._hurt(worker.pid, "stopped for good")
            self._frozen.setdefault(worker.pid, os.pidfd_open(worker.pid))
            os.kill(worker.pid, signal.SIGSTOP)
            self._after(_NOBODY_CAME, lambda pid=worker.pid: self._end_stopped(pid))  # type: ignore[misc]

    def _all_workers_of_a_daemon_killed(self, _: float, __: float) -> None:
        for worker in self.workers():
            if worker.daemon == "first":
                self._tell(f"kill -9, all of them: {worker}")
                self._kill(worker.pid)

    def _backtraces(self, _: float, __: float) -> None:
        self._signal("first", signal.SIGTTIN, "backtraces")

    def _second_daemon(self, lasts: float, chance: float) -> None:
        if self._runs("second"):
            self._tell("the second daemon is still there")
            return
        self._start("second")
        ending = self._stop_second if chance < 0.5 else self._kill_second if chance < 0.75 else self._lose_second
        self._after(lasts, ending)

    def _stop_second(self) -> None:
        self._stop("second", None)

    def _kill_second(self) -> None:
        self._kill_supervisor("second")

    def _lose_second(self) -> None:
        workers = [worker for worker in self.workers() if worker.daemon == "second"]
        self._kill_supervisor("second")
        self._tell("and its workers with it")
        for worker in workers:
            self._kill(worker.pid)

    def _supervisor_killed(self, lasts: float, _: float) -> None:
        if self._is_up("first"):
            self._kill_supervisor("first")
            self._after(lasts, lambda: self._start("first"))

    def _supervisor_frozen(self, lasts: float, _: float) -> None:
        if self._is_up("first"):
            pid = self.daemons["first"].pid
            self._tell(f"SIGSTOP for {lasts:.2f} s: the first supervisor, {pid}")
            self._freeze(pid, lasts)

    def _swarm_restarted(self, lasts: float, _: float) -> None:
        if self._is_up("first"):
            self._stop("first", lambda: self._after(lasts, lambda: self._start("first")))

    def _swarm_quiet(self, lasts: float, _: float) -> None:
        if self._is_up("first"):
            self._signal("first", signal.SIGTSTP, f"quiet for {lasts:.2f} s")
            self._after(lasts, lambda: self._signal("first", signal.SIGCONT, "no longer quiet"))

    def _swarm_scaled(self, lasts: float, chance: float) -> None:
        if self._is_up("first"):
            self._command("scale", str(1 + int(chance * 5)))
            self._after(lasts, lambda: self._command("scale", str(WORKERS["first"])))

    def _workers_replaced(self, _: float, __: float) -> None:
        if self._is_up("first"):
            self._command("restart")

    def _swarm_reloaded(self, _: float, __: float) -> None:
        if self._is_up("first"):
            self._command("reload")

    def _broker_restarted(self, lasts: float, chance: float) -> None:
        if broker := self._choose_broker(chance):
            self._tell(f"TERM, and a start after {lasts:.2f} s or more: {broker.bootstrap}")
            os.kill(broker.pid, signal.SIGTERM)
            self._begin_later(broker, lasts)

    def _broker_killed(self, lasts: float, chance: float) -> None:
        if broker := self._choose_broker(chance):
            self._tell(f"kill -9, and a start after {lasts:.2f} s: {broker.bootstrap}")
            broker.kill()
            self._begin_later(broker, lasts)

    def _broker_frozen(self, lasts: float, chance: float) -> None:
        if broker := self._choose_broker(chance):
            self._tell(f"SIGSTOP for {lasts:.2f} s: {broker.bootstrap}")
            os.kill(broker.pid, signal.SIGSTOP)
            self._after(lasts, lambda: os.kill(broker.pid, signal.SIGCONT))

    def _network_slow(self, lasts: float, chance: float) -> None:
        delay = 0.02 + 0.3 * (chance * 10 % 1)
        for proxy in self._choose_network(chance, f"{delay:.2f} s slower", lasts):
            proxy.slow(delay)
            self._after(lasts, proxy.heal)

    def _network_held(self, lasts: float, chance: float) -> None:
        for proxy in self._choose_network(chance, "held", lasts):
            proxy.hold()
            self._after(lasts, proxy.heal)

    def _network_cut(self, lasts: float, chance: float) -> None:
        for proxy in self._choose_network(chance, "cut", lasts):
            proxy.cut()
            self._after(lasts, proxy.heal)

    def _connections_reset(self, _: float, chance: float) -> None:
        for proxy in self._choose_network(chance, "reset", 0.0):
            proxy.reset()

    # -- whom ------------------------------------------------------------------------------------------

    def workers(self) -> list[Worker]:
        """Those that live, of both daemons, in the order of daemon and index. Orphans are nobody's."""
        found = []
        for name, daemon in self.daemons.items():
            if self._runs(name):
                children = ((pid, title) for pid, title in _children(daemon.pid) if "[worker" in title)
                found += [Worker(name, pid, title) for pid, title in sorted(children, key=lambda child: child[1])]
        return found

    def _choose(self, chance: float) -> Iterator[Worker]:
        workers = self.workers()
        if workers:
            yield workers[int(chance * len(workers))]
        else:
            self._tell("no worker is there")

    def _choose_broker(self, chance: float) -> Broker | None:
        away = self._broker
        # One that was told to go may run, and have started, for as long as a loaded machine needs to end it.
        if away is not None and not (self._broker_returns and away.is_running and away.is_started):
            self._tell("a broker is still away")
            return None
        self._broker = self.cluster.brokers[int(chance * len(self.cluster.brokers))]
        return self._broker

    def _choose_network(self, chance: float, what: str, lasts: float) -> list[Proxy]:
        proxies = self.cluster.proxies
        chosen = proxies if chance < 0.3 else [proxies[int((chance - 0.3) / 0.7 * len(proxies))]]
        named = ", ".join(str(proxy.port) for proxy in chosen)
        self._tell(f"network {what} for {lasts:.2f} s: {named}")
        return chosen

    # -- what is done to them --------------------------------------------------------------------------

    def _hurt(self, pid: int, what: str) -> None:
        self.hurt[pid].append((time.monotonic(), what))

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.killed[pid] = time.monotonic()
            self._hurt(pid, "killed")

    def _freeze(self, pid: int, lasts: float) -> None:
        self._hurt(pid, f"frozen for {lasts:.2f} s")
        self._frozen.setdefault(pid, os.pidfd_open(pid))
        os.kill(pid, signal.SIGSTOP)
        self._after(lasts, lambda: self._thaw(pid))

    def _end_stopped(self, pid: int) -> None:
        """Its supervisor may be gone; then whoever looks after the machine ends it."""
        if _is_stopped(pid):
            self._tell(f"kill -9: {pid}, which is still stopped")
            self._kill(pid)

    def _thaw(self, pid: int) -> None:
        self._tell(f"SIGCONT: {pid}")
        signal.pidfd_send_signal(self._frozen[pid], signal.SIGCONT)

    def _start(self, name: str) -> None:
        daemon = self.daemons[name]
        self._stopping.pop(name, None)
        self._started.add(name)
        daemon.start()
        self._tell(f"the {name} daemon starts as {daemon.pid}")

    def _is_up(self, name: str) -> bool:
        up = self._runs(name) and name not in self._stopping
        if not up:
            self._tell(f"the {name} daemon is not there, or about to go")
        return up

    def _runs(self, name: str) -> bool:
        return name in self._started and self.daemons[name].exit_code is None

    def _signal(self, name: str, signum: signal.Signals, what: str) -> None:
        daemon = self.daemons[name]
        if daemon.exit_code is None:
            self._tell(f"{what}: the {name} daemon")
            os.kill(daemon.pid, signum)

    def _command(self, *args: str) -> None:
        """To the first daemon; nobody waits for it, and where the supervisor is away it fails."""
        self._tell(f"swarmctl {' '.join(args)}")
        config = str(self.daemons["first"].config)
        self._commands.append(
            subprocess.Popen(
                [str(SWARMCTL), *args, "--no-wait", "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def _kill_supervisor(self, name: str) -> None:
        daemon = self.daemons[name]
        if daemon.exit_code is not None:
            return
        self._tell(f"kill -9: the {name} supervisor, {daemon.pid}")
        daemon.signal(signal.SIGKILL)
        while daemon.exit_code is None:
            time.sleep(0.005)

    def _stop(self, name: str, then: Callable[[], None] | None) -> None:
        """TERM, and `then` when it has ended."""
        daemon = self.daemons[name]
        if daemon.exit_code is not None:
            return
        self._tell(f"TERM: the {name} supervisor, {daemon.pid}")
        self._stopping[name] = time.monotonic()
        daemon.signal(signal.SIGTERM)
        self._when_ended(name, {worker.pid for worker in self.workers() if worker.daemon == name}, then)

    def _when_ended(self, name: str, workers: set[int], then: Callable[[], None] | None) -> None:
        daemon = self.daemons[name]
        workers |= {worker.pid for worker in self.workers() if worker.daemon == name}
        if daemon.exit_code is None:
            self._after(0.1, lambda: self._when_ended(name, workers, then))
            return
        self._tell(f"the {name} daemon has ended, exit code {daemon.exit_code}")
        if daemon.exit_code != -signal.SIGTERM or workers:  # else Python had not even come to its handlers
            self.exits.append(Exit(name, daemon.exit_code, workers.isdisjoint(self.hurt)))
        if then is not None:
            then()

    def _begin_later(self, broker: Broker, lasts: float) -> None:
        self._broker_returns = False
        self._after(lasts, lambda: self._begin_broker(broker))

    def _begin_broker(self, broker: Broker) -> None:
        if broker.is_running and not self._healing:
            self._after(0.1, lambda: self._begin_broker(broker))
            return
        if broker.is_running:
            self._tell(f"kill -9, for it has not ended: {broker.bootstrap}")
            broker.kill()
        self._tell(f"it starts: {broker.bootstrap}")
        broker.begin()
        self._broker_returns = True

    # -- the end ---------------------------------------------------------------------------------------

    def end(self) -> list[str]:
        """Stops both daemons; returns what was still running afterwards and had to be killed."""
        for name in self.daemons:
            if self._runs(name) and name not in self._stopping:
                self._stop(name, None)
        deadline = time.monotonic() + 60
        while self._steps and time.monotonic() < deadline:
            self._due(float("inf"))
            time.sleep(0.05)
        for pid, pidfd in self._frozen.items():
            if _is_stopped(pid):  # an orphan that is stopped cannot leave, and nobody is there to kill it
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        self._frozen.clear()
        for command in self._commands:
            with contextlib.suppress(subprocess.TimeoutExpired):
                command.wait(10)
        problems = [f"{command.args!r}" for command in self._commands if command.poll() is None]
        for name in self._started:
            try:
                self.daemons[name].close()
            except AssertionError as problem:
                problems.append(str(problem))
        return problems

    def keep(self, where: Path, *, data: bool) -> None:
        """Copies all that a failed run's reader may want; `data`: also what Kafka holds (for `kafka.tools.DumpLogSegments`)."""
        shutil.copytree(self.folder, where, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run", "*.sock"))
        for broker in self.cluster.brokers:
            (where / f"broker-{broker.port}.log").write_text(broker.log)
            if data:
                unread = shutil.ignore_patterns("*index", "*.snapshot")
                shutil.copytree(broker.data, where / f"broker-{broker.port}", ignore=unread)


def _children(parent: int) -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                state, ppid = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(ppid) == parent and state != "Z":
                    title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    yield int(entry.name), title


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
