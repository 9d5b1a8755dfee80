"""Supervision as a pure function: `decide(swarm, now) -> actions`. Touches no process, clock, log, file or Kafka.

The words:
- a worker's *index* is its stable number; a *process* holds it for a while. Facts arrive as views, matched by index and pid.
- to *terminate* is SIGTERM (drain, commit, leave) with a deadline; to *kill* is SIGKILL after it.
- a *fault* is a reason for which a worker is replaced: it no longer reports, polls, or gets on with its job, or is over the
  hard memory limit. Its backtrace is taken before it is terminated; over the soft limit it is drained like one that is due.
- slow is no fault, and a broker that is away is none: nothing here looks at lag or at connections. A partition that stands still
  although the broker answers and its log grows is one (`swarm.standing` tells the two apart).
- *came up*: the process was set up and its loop has begun. Where no worker ever came up in three tries each, the swarm gives up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Reason = Literal[
    "finished",
    "requested",
    "crashed",
    "killed",
    "boot_error",
    "report_timeout",
    "poll_timeout",
    "consume_timeout",
    "partition_stands",
    "join_stuck",
    "memory_limit",
    "memory_kill",
    "lifetime",
    "max_messages",
    "fenced",
    "orphaned",
]
"""Why a worker ended, as `last_exit.reason` and the label of `swarm_worker_restarts_total`."""

PLANNED: Final[frozenset[str]] = frozenset({"requested", "memory_limit", "lifetime", "max_messages"})
"""Replacements that are no failure: the next process starts at once and no backoff grows."""

BOOT_TRIES: Final = 3
"""Failed tries of every worker after which a swarm of which none ever came up gives up."""

MOST_REBUILDS: Final = 5
"""Rebuilds of a worker's client within two minutes, each after a fatal error, after which the process is replaced: what is wrong is
perhaps its own, and librdkafka keeps state that only ends with the process."""

MEMORY_SAMPLES: Final = 3
"""Samples in a row over the soft limit before a worker is replaced: one may be a passing batch."""

LAST_WORD: Final = 1.0
"""Seconds before its deadline, at most, at which a worker whose jobs do not end says what holds it up and ends itself: time to say
it, and for the supervisor to learn of its end, so that KILL is for one that cannot even do that."""

WAKE_GAP: Final = 5.0
"""Seconds by which the supervisor's own loop must be late, at most, to conclude that the machine (or the cgroup) stood still: then the
workers stood still too, and get their whole timeouts again."""
LEAST_GAP: Final = 1.0
"""The same at least: so late is a loop on a machine that is merely busy."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The delays between a worker's deaths and its next start, in seconds."""

    initial: float = 0.0
    factor: float = 2.0
    maximum: float = 30.0
    reset_after: float = 60.0

    def delay(self, failures: int) -> float:
        """The wait before the start that follows `failures` deaths in a row (1 or more): at once the first time, by default."""
        if failures <= 1:
            return min(self.initial, self.maximum)
        exponent = min(failures - 1, 64)
        return min(max(self.initial, 0.5) * self.factor**exponent, self.maximum)


@dataclass(frozen=True, slots=True)
class Limits:
    """Timeouts (s), sizes (bytes) and a number of messages; 0 switches a memory limit or a recycling off."""

    report_timeout: float = 30.0
    poll_timeout: float = 60.0
    join_timeout: float = 0.0
    shutdown_timeout: float = 30.0
    memory_limit: int = 0
    memory_kill: int = 0
    max_lifetime: float = 0.0
    standing_timeout: float = 0.0
    max_messages: int = 0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """Facts about one index at one instant; instants are monotonic seconds, 0.0: never.

    pid None: no process; `restart_at` says when to fork. `fault` is set once a fault was found; `dump` tells how far its
    backtrace is.
    """

    index: int
    pid: int | None = None
    started_at: float = 0.0
    report_at: float = 0.0
    poll_at: float = 0.0
    jobs: tuple[tuple[float, float], ...] = ()
    """(start, limit in seconds) of each job in hand that has a limit."""
    join_stuck_since: float = 0.0
    """Since when its join has not come to an end though the broker answers; 0.0: there is nothing of the kind."""
    join_tried: bool = False
    """Its predecessor was replaced for that, and no process of this index has joined since: to do it again helps no more."""
    rebuilds: int = 0
    """Of its client, of late, after fatal errors that have nothing to do with its seat in the group."""
    memory: int = 0
    memory_over: int = 0
    """Samples in a row over the soft limit."""
    lifetime: float = 0.0
    """This process's own maximum age, jitter included; 0.0: none."""
    messages: int = 0
    """Handled or set aside by this process."""
    message_limit: int = 0
    """How many it may handle, jitter included; 0: any number."""
    came_up: bool = False
    terminated_at: float = 0.0
    stop_deadline: float = 0.0
    """When a terminated process is killed."""
    killed: bool = False
    """KILL was sent: all that is left is to wait for the kernel."""
    reason: Reason | None = None
    """Why it is being stopped."""
    dump: Literal["none", "pending", "done"] = "none"
    restart_at: float = 0.0
    retired: bool = False
    """Scaled away: it leaves its groups, and is not forked again."""
    restart_due: bool = False
    """Somebody asked for this process to be replaced."""
    settling: bool = False
    """The successor of a planned replacement, until it is running: the next replacement waits for it."""
    boot_failures: int = 0
    stands_since: float = 0.0
    """Since when one of its partitions stands still although its log grows (`swarm.standing`); 0.0: none does, or none for which a
    worker was not replaced before."""


@dataclass(frozen=True, slots=True)
class SwarmView:
    """All of it. `at_once`: a second TERM or QUIT. `forgiven_at`: when the machine last woke from standing still."""

    workers: tuple[WorkerView, ...]
    stopping: bool = False
    at_once: bool = False
    ever_came_up: bool = False
    had_to_kill: bool = False
    forgiven_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Fork:
    """Start a process for this index."""

    index: int


@dataclass(frozen=True, slots=True)
class Dump:
    """Take this process's backtrace, because `reason` is about to end it."""

    index: int
    pid: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask this process to drain and leave."""

    index: int
    pid: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Kill:
    """End this process; its backtrace was taken."""

    index: int
    pid: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Finish:
    """End the supervisor with this exit code."""

    code: int
    reason: str


def wake_gap(limits: Limits) -> float:
    """Seconds by which the supervisor's loop must be late to conclude that everything stood still: less than what would make workers that
    stood still beside it look stuck."""
    return max(LEAST_GAP, min(WAKE_GAP, 0.8 * min(limits.report_timeout, limits.poll_timeout)))


def own_share(shutdown_timeout: float) -> float:
    """The seconds of `shutdown_timeout` after which a worker that was told to go ends by itself, whatever runs."""
    return shutdown_timeout - min(LAST_WORD, 0.1 * shutdown_timeout)


Action = Fork | Dump | Terminate | Kill | Finish


def decide(swarm: SwarmView, limits: Limits, now: float) -> list[Action]:
    """What is to be done now. Called again after each event and each `check_interval`; asking twice does no harm."""
    actions: list[Action] = []
    planned = any(_is_planned(worker) for worker in swarm.workers)
    for worker in swarm.workers:
        if worker.pid is None:
            exhausted = worker.boot_failures >= BOOT_TRIES and not swarm.ever_came_up  # it waits for the others' tries
            if not swarm.stopping and not worker.retired and not exhausted and now >= worker.restart_at:
                actions.append(Fork(worker.index))
            continue
        action = _for_process(swarm, worker, worker.pid, limits, now, planned)
        if isinstance(action, Terminate) and action.reason in PLANNED:
            planned = True
        if action is not None:
            actions.append(action)
    finish = _finish(swarm)
    return [finish] if finish is not None else actions


def _is_planned(worker: WorkerView) -> bool:
    """Whether a planned replacement waits for this one: it is going, for whatever reason (one that was asked to go by plan may still run
    into a fault), or its successor by plan is not up yet, or it leaves for good (a reload may want fewer workers and replace the others)."""
    if worker.retired:
        return worker.pid is not None
    return worker.settling or (worker.pid is not None and (worker.terminated_at > 0 or worker.reason in PLANNED))


def _finish(swarm: SwarmView) -> Finish | None:
    if any(w.pid is not None for w in swarm.workers):
        return None
    if swarm.stopping:
        return Finish(2 if swarm.had_to_kill else 0, "stopped")
    wanted = [worker for worker in swarm.workers if not worker.retired]
    if wanted and not swarm.ever_came_up and all(worker.boot_failures >= BOOT_TRIES for worker in wanted):
        return Finish(1, f"no worker came up in {BOOT_TRIES} tries each")
    return None


def _for_process(
    swarm: SwarmView, worker: WorkerView, pid: int, limits: Limits, now: float, planned: bool
) -> Action | None:
    """One line per rule, in the order of their weight; the first that applies is this pass's answer for this worker."""
    if worker.killed:
        return None
    if worker.terminated_at:
        return _for_terminated(swarm, worker, pid, limits, now)
    if swarm.stopping or worker.retired:
        return Terminate(worker.index, pid, "requested")
    if worker.reason is not None:  # a fault was found in an earlier pass
        return _with_backtrace(worker, pid, Terminate(worker.index, pid, worker.reason))
    if 0 < limits.memory_kill < worker.memory:
        return Dump(worker.index, pid, "memory_kill")
    fault = _fault(swarm, worker, limits, now)
    if fault is not None:
        return Dump(worker.index, pid, fault)
    if not planned and worker.restart_due:
        return Terminate(worker.index, pid, "requested")
    if not planned and worker.memory_over >= MEMORY_SAMPLES:
        return Terminate(worker.index, pid, "memory_limit")
    if not planned and worker.lifetime and now - worker.started_at > worker.lifetime:
        return Terminate(worker.index, pid, "lifetime")
    if not planned and 0 < worker.message_limit <= worker.messages:
        return Terminate(worker.index, pid, "max_messages")
    return None


def _for_terminated(swarm: SwarmView, worker: WorkerView, pid: int, limits: Limits, now: float) -> Action | None:
    reason = worker.reason or "requested"
    over_hard_limit = 0 < limits.memory_kill < worker.memory
    overdue = now >= worker.stop_deadline + max(0.0, swarm.forgiven_at - worker.terminated_at)
    if not (swarm.at_once or over_hard_limit or overdue):
        return None
    reason = "memory_kill" if over_hard_limit and not swarm.at_once else reason
    return _with_backtrace(worker, pid, Kill(worker.index, pid, reason))


def _with_backtrace(worker: WorkerView, pid: int, action: Terminate | Kill) -> Action | None:
    match worker.dump:
        case "none":
            return Dump(worker.index, pid, action.reason)
        case "pending":
            return None
        case "done":
            if action.reason == "memory_kill":
                return Kill(worker.index, pid, action.reason)
            return action


def _fault(swarm: SwarmView, worker: WorkerView, limits: Limits, now: float) -> Reason | None:
    """The fault of a live process, if it has one. A standstill of the whole machine is nobody's fault."""
    since = max(worker.started_at, swarm.forgiven_at)
    if now - max(worker.report_at, since) > limits.report_timeout:
        return "report_timeout"
    if worker.poll_at and now - max(worker.poll_at, since) > limits.poll_timeout:
        return "poll_timeout"
    if any(now - max(begun, since) > limit for begun, limit in worker.jobs):
        return "consume_timeout"
    # The first timeout was the worker's own: it has sought the partition.
    stands = worker.stands_since and now - max(worker.stands_since, since)
    if limits.standing_timeout and stands > 2 * limits.standing_timeout:
        return "partition_stands"
    if _join_is_stuck(worker, limits, now, since):
        return "join_stuck"
    if worker.rebuilds >= MOST_REBUILDS:
        return "fenced"
    return None


def _join_is_stuck(worker: WorkerView, limits: Limits, now: float, since: float) -> bool:
    if not limits.join_timeout or worker.join_tried or not worker.join_stuck_since:
        return False
    return now - max(worker.join_stuck_since, since) > limits.join_timeout
