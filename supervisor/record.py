"""What the supervisor knows of one worker index, and how it looks to the policy. Knows no signal and no decision."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from swarm.scoreboard import MESSAGES, PREPARED_AT, STANDS_SINCE, AssignedView, Scoreboard
from swarm.supervisor import memory
from swarm.supervisor.history import History
from swarm.supervisor.memory import Memory
from swarm.supervisor.policy import Reason, WorkerView
from swarm.supervisor.processes import Process, adopt

CPU_EVERY: Final = 5.0
"""Seconds between two looks at a worker's processor time, for which the kernel adds up all of its threads."""
BEQUEATHED: Final = (
    "index",
    "dump_from",
    "started_at",
    "lifetime",
    "message_limit",
    "messages_before",
    "terminated_at",
    "stop_deadline",
    "killed",
    "reason",
    "ready_said",
    "state_seen",
    "state_at",
    "restarts",
    "restarts_by_reason",
    "failures",
    "boot_failures",
    "restart_at",
    "exited_once",
    "last_exit",
    "settling",
    "retired",
    "restart_due",
    "join_tried",
    "memory_over",
    "blind",
    "cpu_before",
)
"""What outlives the supervisor's re-execution. A backtrace under way does not: it is asked for again."""


@dataclass(slots=True)
class Worker:
    """What the supervisor knows of one index. Fields down to `dump` belong to the process that holds it now."""

    index: int
    board: Scoreboard
    dump_fd: int
    dump_from: int = 0
    """Size of the dump file at the fork: what is below was written by predecessors."""
    process: Process | None = None
    started_at: float = 0.0
    lifetime: float = 0.0
    message_limit: int = 0
    messages_before: int = 0
    """The index's count when this process began."""
    terminated_at: float = 0.0
    stop_deadline: float = 0.0
    killed: bool = False
    reason: Reason | None = None
    dump: Literal["none", "pending", "done"] = "none"
    backtrace: str = ""
    ready_said: bool = False
    state_seen: str = ""
    state_at: float = 0.0
    """Since when it has been seen in that state; 0.0: not looked at yet."""
    memory: int = 0
    memory_over: int = 0
    rss: int | None = None
    """As of the last sample."""
    sampled_at: float = 0.0
    cpu_at: tuple[float, float] = (0.0, 0.0)
    cpu_percent: float = 0.0
    cpu_before: float = 0.0
    """Seconds of processor time of the index's former processes."""

    restart_due: bool = False
    blind: bool = False
    """It writes to a scoreboard that this release cannot read: silence is no fault."""
    told_quiet: bool = False
    told_suspects: int = 0
    """The version of the suspects that its process knows."""
    told_pauses: int = 0
    """The same of what is paused."""
    told_level: str = ""
    """The log level that its process was told; empty: that of the settings."""

    retired: bool = False
    settling: bool = False
    join_tried: bool = False
    """A process of this index was replaced because its join was stuck, and none has joined since."""
    restarts: int = -1
    restarts_by_reason: dict[str, int] = field(default_factory=dict)
    failures: int = 0
    boot_failures: int = 0
    restart_at: float = 0.0
    exited_once: bool = False
    last_exit: dict[str, Any] | None = None
    full_memory: tuple[float, Memory] | None = None
    history: History = field(default_factory=History)
    """How the memory of its process went."""

    @property
    def reported_at(self) -> float:
        """When its process reported last; infinity where that cannot be read."""
        return self.board.report_at if not self.blind else float("inf")

    @property
    def came_up(self) -> bool:
        """Whether the process that holds (or last held) the index was set up."""
        return self.board.floats[PREPARED_AT] > 0.0

    def notice(self, state: str, now: float) -> bool:
        """Its state as of now, and whether that is new. Once a pass: so exact is the instant of a change."""
        if state == self.state_seen:
            return False
        self.state_seen, self.state_at = state, now
        return True

    def deaths_in_a_row(self, now: float, reset_after: float) -> int:
        """How often it has ended soon and against all plans; 0 again once its process has lived for `reset_after` seconds."""
        sound = self.process is not None and now - self.started_at >= reset_after
        return 0 if sound else self.failures

    def close(self) -> None:
        """Let go of what belongs to the index, which has no process and never will have one again."""
        self.board.close()
        os.close(self.dump_fd)

    def bequeath(self) -> dict[str, Any]:
        """What a successor of the supervisor needs to know; `board`, `dump` and `channel` are descriptors."""
        process = self.process
        return {
            **{name: getattr(self, name) for name in BEQUEATHED},
            "board": self.board.fd,
            "dump": self.dump_fd,
            "channel": process.channel.fileno() if process is not None and process.channel is not None else None,
            "pid": process.pid if process is not None else None,
        }

    @classmethod
    def inherit(cls, facts: dict[str, Any]) -> Worker:
        """What the predecessor knew. A scoreboard of another version's layout is replaced: its worker cannot be seen any more, and
        waits for its turn to be restarted."""
        blind = False
        try:
            board = Scoreboard.attach(facts["board"])
        except ValueError:
            os.close(facts["board"])
            board, blind = Scoreboard.create(facts["index"]), True
        worker = cls(facts["index"], board, facts["dump"])
        for name in BEQUEATHED:
            if name in facts:  # else the predecessor's release did not know it
                setattr(worker, name, facts[name])
        worker.blind = worker.blind or blind
        if facts["pid"] is not None:
            worker.process = adopt(facts["pid"], facts["channel"])
        return worker

    def begin(self, process: Process, now: float, lifetime: float, message_limit: int) -> None:
        """A new process holds the index: forget the former one."""
        self.process = process
        self.started_at = now
        self.lifetime = lifetime
        self.message_limit = message_limit
        self.messages_before = self.board.ints[MESSAGES]
        self.restarts += 1
        self.terminated_at = self.stop_deadline = 0.0
        self.killed = self.restart_due = self.blind = False
        self.reason = None
        self.dump = "none"
        self.backtrace = ""
        self.ready_said = self.told_quiet = False
        self.state_seen, self.state_at = "", 0.0
        self.told_level = ""
        self.memory = self.memory_over = 0
        self.rss, self.sampled_at = None, 0.0
        self.cpu_at = (0.0, 0.0)
        self.full_memory = None
        self.history.clear()

    def standing(self, given_up: Mapping[tuple[str, str, int], int]) -> list[AssignedView]:
        """Partitions that stand still, but for those for which a worker was replaced already: a third process is no better."""
        if self.process is None or not self.board.floats[STANDS_SINCE]:
            return []
        views = self.board.assigned()
        return [
            each for each in views if each.stands_since and (each.group, each.topic, each.partition) not in given_up
        ]

    def view(self, given_up: Mapping[tuple[str, str, int], int]) -> WorkerView:
        """The facts that `decide` needs. `given_up`: as for `standing`."""
        if self.process is None:
            return WorkerView(
                self.index,
                restart_at=self.restart_at,
                retired=self.retired,
                settling=self.settling,
                boot_failures=self.boot_failures,
            )
        board = self.board
        groups = board.groups()
        polls = [group.poll_at for group in groups if group.poll_at]
        return WorkerView(
            self.index,
            self.process.pid,
            self.started_at,
            self.reported_at,
            min(polls, default=0.0),
            tuple((job.started_at, job.limit) for job in board.jobs() if job.limit),
            min((group.stuck_since for group in groups if group.stuck_since), default=0.0),
            self.join_tried,
            max((group.rebuilds for group in groups), default=0),
            self.memory,
            self.memory_over,
            self.lifetime,
            self.board.ints[MESSAGES] - self.messages_before,
            self.message_limit,
            self.came_up,
            self.terminated_at,
            self.stop_deadline,
            self.killed,
            self.reason,
            self.dump,
            retired=self.retired,
            restart_due=self.restart_due,
            settling=self.settling,
            stands_since=min((each.stands_since for each in self.standing(given_up)), default=0.0),
        )

    def sample(self, now: float, limit: int, kill: int, metric: str) -> None:
        """Look at memory, some 20 µs unless the worker is over a limit (0: none) by RSS, and now and then at its processor time."""
        if self.process is None:
            return
        pid = self.process.pid
        self.sampled_at = now
        if now - self.cpu_at[0] >= CPU_EVERY:
            seconds = memory.cpu_seconds(pid)
            if seconds is not None:
                at, before = self.cpu_at
                if at:
                    self.cpu_percent = max(0.0, 100.0 * (seconds - before) / (now - at))
                self.cpu_at = (now, seconds)
        self.rss = memory.resident(pid)
        rss = self.rss or 0
        if rss:
            self.history.add(now - self.started_at, rss, self.board.ints[MESSAGES] - self.messages_before)
        used = rss
        least = min((each for each in (limit, kill) if each), default=0)
        if least and rss > least and metric != "rss":
            # RSS is an upper bound: only who is over by it is worth the expensive look.
            found = memory.full(pid)
            used = (found.uss if metric == "uss" else found.pss) or rss if found else rss
        self.memory = used
        self.memory_over = self.memory_over + 1 if limit and used > limit else 0
