"""The facts from which `swarmctl why` concludes what a swarm is doing. Values only: no socket, no process, no clock.

The supervisor fills them in from what it sees without anybody's help (`supervisor/circumstances.py`), they travel as JSON, the command
adds what it finds out by itself, and `swarm.verdict` judges them. Ages and times are seconds, counted from the moment of the look; None
is unknown, or does not apply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Job:
    """A batch in hand. where: the place in the application's code at which its thread was seen, with what it calls there; empty where
    nobody has looked. waits: what it waits for there, empty where it runs. usual: the mean of this worker's batches so far. holds: its thread seems to hold the interpreter's lock."""

    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    attempt: int
    age: float
    limit: float | None = None
    thread: str = ""
    usual: float | None = None
    where: str = ""
    waits: str = ""
    holds: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A membership in one consumer group. joined_for: None while it has not joined. error_age: since the client's last error."""

    group: str
    poll_age: float | None = None
    joined_for: float | None = None
    partitions: int = 0
    join_stuck_for: float | None = None
    rebuilds: int = 0
    contested: int = 0
    error_age: float | None = None
    poll_interval: float = 300.0


@dataclass(frozen=True, slots=True)
class Partition:
    """An assigned partition. Offsets are next offsets. `phase`, `waits_for`: as in the scoreboard. until_in: how long it still waits.

    still_for: for how long, at least, it has not moved, of the time that was watched. rate: messages committed per second; lag_trend: by
    how many messages its lag grows per second (negative: it shrinks); both over `watched` seconds.
    """

    group: str
    topic: str
    partition: int
    position: int | None = None
    committed: int | None = None
    lag: int | None = None
    phase: str = "idle"
    since: float | None = None
    waits_for: str = ""
    until_in: float | None = None
    attempt: int = 1
    buffered: int = 0
    paused: bool = False
    out_of_range: bool = False
    no_start: bool = False
    closing: bool = False
    succeeds: bool = False
    full: bool = False
    seeks: bool = False
    leaderless: bool = False
    withheld: bool = False
    standing: float | None = None
    still_for: float | None = None
    rate: float | None = None
    lag_trend: float | None = None
    watched: float = 0.0

    @property
    def name(self) -> str:
        """`orders/3`."""
        return f"{self.topic}/{self.partition}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that went wrong (`swarm.scoreboard.Trouble`). again_in: when it is tried again."""

    kind: str
    text: str
    group: str = ""
    topic: str = ""
    partition: int = -1
    first_offset: int = -1
    last_offset: int = -1
    attempt: int = 0
    first_age: float = 0.0
    age: float = 0.0
    count: int = 1
    again_in: float | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended."""

    reason: str
    detail: str = ""
    code: int | None = None
    signal: str | None = None
    age: float | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker. process_state: the kernel's letter (proc(5)); fault: why it is being replaced or stopped; kill_in: until it is killed.
    state_for: since when it is in its state."""

    index: int
    pid: int | None = None
    state: str = "running"
    health: str = "ok"
    process_state: str = "S"
    uptime: float | None = None
    report_age: float | None = None
    restarts: int = 0
    failures: int = 0
    boot_failures: int = 0
    restart_in: float | None = None
    fault: str = ""
    stopping_for: float | None = None
    kill_in: float | None = None
    retired: bool = False
    blind: bool = False
    last_exit: Exit | None = None
    error: str = ""
    memory: int | None = None
    memory_trend: float | None = None
    cpu_percent: float | None = None
    messages: int = 0
    debug: str = ""
    threads: tuple[tuple[str, int], ...] = ()
    """Names, and the kernel's numbers."""
    jobs: tuple[Job, ...] = ()
    members: tuple[Member, ...] = ()
    partitions: tuple[Partition, ...] = ()
    failures_seen: tuple[Failure, ...] = ()
    state_for: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Timeouts in seconds, memory in bytes; 0: none."""

    report_timeout: float = 30.0
    poll_timeout: float = 60.0
    consume_timeout: float = 300.0
    shutdown_timeout: float = 30.0
    standing_timeout: float = 60.0
    join_timeout: float = 600.0
    memory_limit: int = 0
    memory_kill: int = 0


@dataclass(frozen=True, slots=True)
class Pause:
    """A word of an operator's (`swarm.pauses`)."""

    paused: bool
    topic: str
    partition: int | None = None
    group: str | None = None

    def speaks_of(self, group: str, topic: str, partition: int) -> bool:
        """Whether that partition is meant."""
        return topic == self.topic and self.partition in (None, partition) and self.group in (None, group)


@dataclass(frozen=True, slots=True)
class Unowned:
    """A partition that no member of the group has; bound: that is bound to no worker, where partitions are (`partitions=`)."""

    group: str
    topic: str
    partition: int
    seconds: float
    bound: bool = False


@dataclass(frozen=True, slots=True)
class Suspect:
    """Messages that were in hand at deaths by a worker's own fault; condemned: one of them, alone, and it never runs again."""

    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    deaths: int
    condemned: bool = False


@dataclass(frozen=True, slots=True)
class Broker:
    """An address of `bootstrap.servers`, and whether something accepts connections there; None: nobody has tried."""

    address: str
    answers: bool | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Swarm:
    """All of it."""

    name: str = "swarm"
    pid: int = 0
    state: str = "running"
    uptime: float | None = None
    quiet: bool = False
    concurrency: int = 4
    groups: tuple[str, ...] = ()
    app: str = ""
    state_dir: str = ""
    bootstrap: str = ""
    reload_error: str = ""
    under_way: str = ""
    limits: Limits = Limits()
    workers: tuple[Worker, ...] = ()
    pauses: tuple[Pause, ...] = ()
    unowned: tuple[Unowned, ...] = ()
    ownership_age: float | None = None
    suspects: tuple[Suspect, ...] = ()
    brokers: tuple[Broker, ...] = ()

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        """From the supervisor's JSON; what this release does not know is left out."""
        workers = []
        for each in answer.get("workers", ()):
            parts: dict[str, Any] = {
                name: tuple(_made(kind, one) for one in each.get(name, ()))
                for name, kind in (
                    ("jobs", Job),
                    ("members", Member),
                    ("partitions", Partition),
                    ("failures_seen", Failure),
                )
            }
            parts["threads"] = tuple((str(name), int(native)) for name, native in each.get("threads", ()))
            parts["last_exit"] = _made(Exit, each["last_exit"]) if each.get("last_exit") else None
            workers.append(_made(Worker, {**each, **parts}))
        lists: dict[str, Any] = {
            name: tuple(_made(kind, one) for one in answer.get(name, ()))
            for name, kind in (("pauses", Pause), ("unowned", Unowned), ("suspects", Suspect), ("brokers", Broker))
        }
        limits = _made(Limits, answer.get("limits", {}))
        groups = tuple(answer.get("groups", ()))
        found: Self = _made(cls, {**answer, **lists, "limits": limits, "groups": groups, "workers": tuple(workers)})
        return found

    def partitions(self) -> Iterator[tuple[Worker, Partition]]:
        """All that are assigned to workers that live, or were when they died."""
        for worker in self.workers:
            for partition in worker.partitions:
                yield worker, partition


def _made(kind: type[Any], values: Mapping[str, Any]) -> Any:
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})
