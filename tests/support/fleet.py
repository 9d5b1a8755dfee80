"""Many hosts in one consumer group, in simulated time: each with a supervisor that asks the real `decide`, and one coordinator.

What it costs when workers and hosts die or are replaced: rebalances, and partition-seconds in which nobody served a partition. Starts no
process and knows no Kafka: how the coordinator answers is a model of what docs/design.md has measured. `python -m tests.support.fleet`
prints the tables of docs/scale.md.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from swarm.supervisor.policy import (
    PLANNED,
    Dump,
    Finish,
    Fork,
    Kill,
    Limits,
    Reason,
    RestartPolicy,
    SwarmView,
    Terminate,
    WorkerView,
    decide,
)

# Seconds. The first four were measured on three members (docs/design.md); the others are assumptions about an application.
BOOT: Final = 0.2  # from a fork to the first poll
REBALANCE: Final = 1.2  # classic: every member hears of it at its next heartbeat (1 s), then they join
HANDOVER: Final = 0.2  # cooperative: the second round, for what moves from one live member to another
HEARTBEAT: Final = 5.0  # KIP-848: the broker's interval, in which a member hears of a change
DRAIN: Final = 2.0  # of a worker that is told to go: the batch in hand, and its commit
LOAD: Final = 5.0  # of a host's supervisor, until it forks: interpreter and application


@dataclass(frozen=True, slots=True)
class Setting:
    """What a fleet is set to. `session`: session.timeout.ms in seconds."""

    name: str
    static: bool = True
    on_stop: str = "leave"
    session: float = 45.0
    protocol: str = "classic"


SETTINGS: Final = (
    Setting("static, leave, 45 s (default)"),
    Setting("static, keep, 45 s", on_stop="keep"),
    Setting("static, keep, 120 s", on_stop="keep", session=120.0),
    Setting("dynamic, 45 s", static=False),
    Setting("dynamic, 45 s, KIP-848", static=False, protocol="consumer"),
)


class Clock:
    """What is to happen, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (when, self._count, what))

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        self.at(self.now + seconds, what)

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, _, what = heapq.heappop(self._due)
            what()
        self.now = until


@dataclass(slots=True)
class Seat:
    """A member as the coordinator knows it: it holds its partitions also while nobody sits there."""

    partitions: int = 0
    taken: bool = True
    died: int = 0
    """Counts the deaths, so that an old session's end is not taken for the new one's."""


class Group:
    """The coordinator: seats, sessions, rebalances; and the sum of what nobody served."""

    def __init__(self, clock: Clock, setting: Setting, partitions: int) -> None:
        self._clock = clock
        self._setting = setting
        self._partitions = partitions
        self._orphans = partitions
        self._moving = 0
        self._stranded = 0  # partitions of seats that are not taken
        self._rebalancing = False
        self._awaited: set[tuple[str, int]] = set()
        self._since = 0.0
        self.seats: dict[str, Seat] = {}
        self.rebalances = 0
        self.unserved = 0.0  # partition-seconds
        self.most_unserved = 0  # partitions at one instant

    @property
    def unserved_now(self) -> int:
        return self._orphans + self._moving + self._stranded

    def count(self) -> None:
        """Add what nobody has served since the last time."""
        self.unserved += self.unserved_now * (self._clock.now - self._since)
        self._since = self._clock.now

    def forget(self) -> None:
        """Begin to count here."""
        self.count()
        self.rebalances, self.unserved, self.most_unserved = 0, 0.0, 0

    def _changed(self) -> None:
        self.most_unserved = max(self.most_unserved, self.unserved_now)

    def join(self, member: str) -> None:
        """A static member takes its seat again and nobody else notices; anybody else makes a rebalance."""
        self.count()
        seat = self.seats.get(member)
        if seat is not None:
            seat.taken = True
            self._stranded -= seat.partitions
        else:
            self.seats[member] = Seat()
            self._rebalance()

    def vanish(self, member: str) -> None:
        """It died, or closed without leaving: its seat stays until the session is over."""
        self.count()
        seat = self.seats[member]
        seat.taken = False
        self._stranded += seat.partitions
        self._changed()
        self._hold(member, seat)

    def _hold(self, member: str, seat: Seat) -> None:
        """Until the session is over, counted from now."""
        seat.died += 1
        died = seat.died
        self._clock.after(self._setting.session, lambda: self._expire(member, died))

    def leave(self, member: str) -> None:
        """For good: its partitions are given to others."""
        self.count()
        self._remove(member)

    def _expire(self, member: str, died: int) -> None:
        seat = self.seats.get(member)
        if seat is not None and not seat.taken and seat.died == died:
            self.count()
            self._remove(member)

    def _remove(self, member: str) -> None:
        seat = self.seats.pop(member)
        if not seat.taken:
            self._stranded -= seat.partitions
        self._orphans += seat.partitions
        self._changed()
        self._rebalance()

    def _rebalance(self) -> None:
        if self._rebalancing:
            return
        self._rebalancing = True
        if self._setting.protocol == "classic":
            self._clock.after(REBALANCE, self._await_the_dead)
        else:
            self._clock.after(HEARTBEAT, self._assign)

    def _await_the_dead(self) -> None:
        """By now all the living have joined. Whoever has not, is waited for until its session is over; who dies later is not, having joined."""
        self._awaited = {(member, seat.died) for member, seat in self.seats.items() if not seat.taken}
        self._assign()

    def _assign(self) -> None:
        """Balanced and sticky: orphans go to whoever has too few, and as few as possible move."""
        classic = self._setting.protocol == "classic"
        dead = {(member, seat.died) for member, seat in self.seats.items() if not seat.taken}
        if classic and self._awaited & dead:
            self._clock.after(REBALANCE, self._assign)
            return
        self.count()
        self._rebalancing = False
        self.rebalances += 1
        if not self.seats:
            return
        least, more = divmod(self._partitions, len(self.seats))
        moved = 0
        for rank, (member, seat) in enumerate(sorted(self.seats.items(), key=lambda each: -each[1].partitions)):
            wanted = least + (rank < more)
            moved += max(0, seat.partitions - wanted)
            if not seat.taken:
                self._stranded += wanted - seat.partitions
                if classic:
                    self._hold(member, seat)  # it has joined, so its session begins here
            seat.partitions = wanted
        self._orphans = 0
        self._moving += moved
        self._changed()
        self._clock.after(HANDOVER if classic else HEARTBEAT, lambda: self._moved(moved))

    def _moved(self, count: int) -> None:
        self.count()
        self._moving -= count


@dataclass(slots=True)
class Slot:
    """What a supervisor knows of one worker index: supervisor/record.py in small."""

    index: int
    pid: int | None = None
    started_at: float = 0.0
    up: bool = False
    frozen_at: float = 0.0
    """When it was stopped in its tracks; 0.0: it was not."""
    terminated_at: float = 0.0
    stop_deadline: float = 0.0
    reason: Reason | None = None
    dumped: bool = False
    killed: bool = False
    restart_at: float = 0.0
    restart_due: bool = False
    settling: bool = False
    failures: int = 0
    member: str = ""


class Host:
    """One machine or pod: a supervisor, and its workers."""

    def __init__(self, clock: Clock, group: Group, setting: Setting, name: str, workers: int) -> None:
        self._clock = clock
        self._group = group
        self._setting = setting
        self._limits = Limits()
        self._restarts = RestartPolicy()
        self._life = 0  # counts the supervisors: what was meant for an earlier one is dropped
        self._then: Callable[[], None] = lambda: None
        self.name = name
        self.size = workers
        self.slots: list[Slot] = []
        self.stopping = False
        self.forks = 0
        self.doomed: set[int] = set()
        """Indexes whose workers die as soon as they are up."""

    def start(self) -> None:
        """The supervisor is executed."""
        self._life += 1
        self.stopping = False
        self.slots = [Slot(index) for index in range(self.size)]
        self._later(LOAD, self.look)

    def stop(self, then: Callable[[], None]) -> None:
        """As systemctl stop; `then` when it is over."""
        self.stopping = True
        self._then = then
        self.look()

    def restart(self) -> None:
        """As swarmctl restart or reload: its workers one by one."""
        for slot in self.slots:
            slot.restart_due = slot.pid is not None
        self.look()

    def lose_power(self) -> None:
        """All of it is gone, and nobody said goodbye."""
        self._life += 1
        for slot in self.slots:
            if slot.up and not slot.frozen_at:
                self._group.vanish(slot.member)
        self.slots = []

    def kill(self, index: int) -> None:
        """kill -9 of a worker."""
        if index < len(self.slots) and self.slots[index].up and not self.slots[index].terminated_at:
            self._exit(self.slots[index], "killed")

    def freeze(self, index: int) -> None:
        """SIGSTOP of a worker: it no longer reports, and its heartbeats end."""
        if index < len(self.slots) and self.slots[index].up and not self.slots[index].terminated_at:
            slot = self.slots[index]
            slot.frozen_at = self._clock.now
            self._group.vanish(slot.member)
            self._later(self._limits.report_timeout + 1.0, self.look)

    def look(self) -> None:
        """One pass of the supervisor's loop. (Its other passes, once a second, find nothing to do.)"""
        now = self._clock.now
        for action in decide(self.view(), self._limits, now):
            match action:
                case Fork(index):
                    self._fork(self.slots[index])
                case Dump(index, _, reason):
                    slot = self.slots[index]
                    slot.reason, slot.dumped = slot.reason or reason, True
                    self._later(0.2, self.look)
                case Terminate(index, _, reason):
                    self._terminate(self.slots[index], reason)
                case Kill(index, _, reason):
                    self.slots[index].killed = True
                    self._exit(self.slots[index], reason)
                case Finish():
                    self._life += 1
                    self.slots = []
                    self._then()

    def view(self) -> SwarmView:
        return SwarmView(tuple(self._views()), stopping=self.stopping, ever_came_up=True)

    def _views(self) -> Iterator[WorkerView]:
        for slot in self.slots:
            heard = slot.frozen_at or self._clock.now
            yield WorkerView(
                slot.index,
                slot.pid,
                started_at=slot.started_at,
                report_at=heard,
                poll_at=heard if slot.up else 0.0,
                came_up=slot.up,
                terminated_at=slot.terminated_at,
                stop_deadline=slot.stop_deadline,
                killed=slot.killed,
                reason=slot.reason,
                dump="done" if slot.dumped else "none",
                restart_at=slot.restart_at,
                restart_due=slot.restart_due,
                settling=slot.settling,
            )

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        life = self._life
        self._clock.after(seconds, lambda: what() if life == self._life else None)

    def _fork(self, slot: Slot) -> None:
        self.forks += 1
        fresh = Slot(slot.index, self.forks, self._clock.now, settling=slot.settling, failures=slot.failures)
        fresh.member = f"{self.name}.{slot.index}" + ("" if self._setting.static else f"#{self._life}.{self.forks}")
        self.slots[slot.index] = fresh
        self._later(BOOT, lambda: self._come_up(fresh))

    def _come_up(self, slot: Slot) -> None:
        if slot.pid is None or slot.terminated_at:
            return
        slot.up, slot.settling = True, False
        self._group.join(slot.member)
        if slot.index in self.doomed:
            self._later(0.1, lambda: self.kill(slot.index))
        self.look()  # the next one's turn to be replaced

    def _terminate(self, slot: Slot, reason: Reason) -> None:
        slot.terminated_at, slot.reason = self._clock.now, reason
        slot.stop_deadline = self._clock.now + self._limits.shutdown_timeout
        if slot.frozen_at:
            self._later(self._limits.shutdown_timeout, self.look)
        else:
            self._later(DRAIN if slot.up else 0.0, lambda: self._exit(slot, reason))

    def _exit(self, slot: Slot, reason: Reason) -> None:
        """supervisor/loop.py's `_reap`: when the next process may start."""
        if slot.pid is None:
            return
        now, slot.pid = self._clock.now, None
        if slot.up and not slot.frozen_at:
            died = reason == "killed"
            goes = self.stopping and self._setting.on_stop == "leave"
            if not died and (goes or not self._setting.static):
                self._group.leave(slot.member)
            else:
                self._group.vanish(slot.member)
        slot.up = False
        slot.settling = slot.settling or reason in PLANNED
        if now - slot.started_at >= self._restarts.reset_after:
            slot.failures = 0
        delay = 0.0
        if reason not in PLANNED:
            slot.failures += 1
            delay = self._restarts.delay(slot.failures)
        slot.restart_at = now + delay
        self._later(delay, self.look)


@dataclass(frozen=True, slots=True)
class Result:
    """What an hour cost."""

    rebalances: int
    unserved: float
    most_unserved: int
    forks: int


@dataclass(slots=True)
class Fleet:
    """All of it, up and settled; counting begins after that."""

    setting: Setting
    hosts: int = 100
    workers: int = 20
    partitions: int = 4000
    clock: Clock = field(default_factory=Clock)
    group: Group = field(init=False)
    all: list[Host] = field(init=False)

    def __post_init__(self) -> None:
        self.group = Group(self.clock, self.setting, self.partitions)
        self.all = [
            Host(self.clock, self.group, self.setting, f"host{number}", self.workers) for number in range(self.hosts)
        ]
        for host in self.all:
            host.start()
        self.clock.run(100.0)
        assert self.group.unserved_now == 0, "the fleet did not settle"
        self.group.forget()
        for host in self.all:
            host.forks = 0

    def run(self, scenario: Callable[[Fleet], None], seconds: float = 3600.0) -> Result:
        """Let the scenario plan its accidents, and this much time pass."""
        scenario(self)
        self.clock.run(self.clock.now + seconds)
        self.group.count()
        forks = sum(host.forks for host in self.all)
        return Result(self.group.rebalances, self.group.unserved, self.group.most_unserved, forks)


# -- what happens ------------------------------------------------------------------------------------------------------


def _anywhere(fleet: Fleet, count: int, what: Callable[[Host, int], None]) -> None:
    chance = random.Random(1)
    for _ in range(count):
        host, index = chance.choice(fleet.all), chance.randrange(fleet.workers)
        fleet.clock.after(chance.uniform(0.0, 3000.0), lambda host=host, index=index: what(host, index))  # type: ignore[misc]


def workers_die(fleet: Fleet) -> None:
    """200 workers die one at a time (kill -9, a crash)"""
    _anywhere(fleet, 200, Host.kill)


def workers_freeze(fleet: Fleet) -> None:
    """20 workers freeze (SIGSTOP, a device that hangs)"""
    _anywhere(fleet, 20, Host.freeze)


def _hosts_die(fleet: Fleet, seconds: float) -> None:
    for number, host in enumerate(random.Random(1).sample(fleet.all, min(10, fleet.hosts))):
        fleet.clock.after(250.0 * number, host.lose_power)
        fleet.clock.after(250.0 * number + seconds, host.start)


def hosts_reboot(fleet: Fleet) -> None:
    """10 hosts die, each is back after 30 s"""
    _hosts_die(fleet, 30.0)


def hosts_are_gone(fleet: Fleet) -> None:
    """10 hosts die, each is back after 10 min"""
    _hosts_die(fleet, 600.0)


def hosts_are_replaced(fleet: Fleet) -> None:
    """Rollout, host by host: stop, 15 s away, start; the next 10 s later"""
    waiting = list(fleet.all)

    def next_one() -> None:
        if waiting:
            host = waiting.pop()
            host.stop(lambda: fleet.clock.after(15.0, lambda: begin(host)))

    def begin(host: Host) -> None:
        host.start()
        fleet.clock.after(10.0, next_one)

    next_one()


def workers_are_replaced(fleet: Fleet) -> None:
    """Rollout in place: `swarmctl reload` on all hosts at once"""
    for host in fleet.all:
        host.restart()


def workers_crash_forever(fleet: Fleet) -> None:
    """One worker on each of 10 hosts dies whenever it is up"""
    for host in fleet.all[:10]:
        host.doomed.add(0)
        host.kill(0)


SCENARIOS: Final = (
    workers_die,
    workers_freeze,
    hosts_reboot,
    hosts_are_gone,
    hosts_are_replaced,
    workers_are_replaced,
    workers_crash_forever,
)


def table_of(scenario: Callable[[Fleet], None], hosts: int = 100) -> str:
    """One scenario in Markdown, a row per setting."""
    rows = [
        f"**{scenario.__doc__}**",
        "",
        "| setting | rebalances | partition-seconds unserved | most partitions at once | processes started |",
        "| --- | --- | --- | --- | --- |",
    ]
    for setting in SETTINGS:
        result = Fleet(setting, hosts).run(scenario)
        costs = f"{result.rebalances:,} | {result.unserved:,.0f} | {result.most_unserved:,} | {result.forks:,}"
        rows.append(f"| {setting.name} | {costs} |")
    return "\n".join(rows)


def main() -> int:
    """Print every table; 1 where docs/scale.md has another one."""
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    differ = []
    for scenario in SCENARIOS:
        print(table := table_of(scenario), end="\n\n", flush=True)
        differ += [scenario.__doc__] if table not in page else []
    for name in differ:
        print(f"docs/scale.md has another table of: {name}", file=sys.stderr)
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
