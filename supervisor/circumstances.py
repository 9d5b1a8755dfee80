"""What `swarmctl why` asks the supervisor for: all that can be seen without a worker's cooperation. Reads facts, changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from swarm.circumstances import Exit, Failure, Job, Limits, Member, Partition, Worker
from swarm.loading import secrets_of
from swarm.scoreboard import (
    CLOSING,
    FULL,
    LEADERLESS,
    MESSAGES,
    NO_START,
    OUT_OF_RANGE,
    PAUSED,
    SEEKS,
    SUCCEEDS,
    WITHHELD,
    AssignedView,
)
from swarm.supervisor import memory, record
from swarm.supervisor.backtraces import process_state
from swarm.supervisor.status import groups_of, snapshot

if TYPE_CHECKING:
    from swarm.plan import Plan
    from swarm.scoreboard import Scoreboard
    from swarm.supervisor.loop import Supervisor

OLDEST: Final = 900.0
"""Seconds for which a failure is told."""
POLL_INTERVAL: Final = 300.0
"""Seconds: librdkafka's default for max.poll.interval.ms."""


def circumstances(supervisor: Supervisor) -> dict[str, Any]:
    """The facts of `swarm.circumstances.Swarm`, as JSON."""
    now = time.monotonic()
    status = snapshot(supervisor, full=True)
    settings = supervisor.loaded.settings
    hide = secrets_of(settings, supervisor.app)
    limits = supervisor.limits
    return {
        **{name: status[name] for name in ("name", "pid", "state", "uptime", "suspects", "state_dir")},
        "quiet": supervisor.quiet,
        "concurrency": settings.worker.concurrency,
        "groups": groups_of(supervisor),
        "app": settings.swarm.app or "",
        "bootstrap": hide(str(settings.kafka.get("bootstrap.servers", ""))),
        "reload_error": hide(supervisor.reload_error),
        "under_way": supervisor.under_way,
        "limits": asdict(
            Limits(
                limits.report_timeout,
                limits.poll_timeout,
                settings.supervision.consume_timeout,
                limits.shutdown_timeout,
                limits.standing_timeout,
                limits.join_timeout,
                limits.memory_limit,
                limits.memory_kill,
            )
        ),
        "pauses": supervisor.partitions.pauses.facts(),
        "unowned": [
            {
                "group": each["group"],
                "topic": each["topic"],
                "partition": each["partition"],
                "seconds": each["for"],
                "bound": any(plan.is_direct for plan in _plans(supervisor, each["group"])),
            }
            for each in status["unowned"]
        ],
        "ownership_age": status["ownership"]["checked"],
        "workers": [
            asdict(_worker(supervisor, worker, shown, now, hide))
            for worker, shown in zip(supervisor.workers, status["workers"], strict=True)
        ],
    }


def _worker(
    supervisor: Supervisor, worker: record.Worker, shown: Mapping[str, Any], now: float, hide: Callable[[str], str]
) -> Worker:
    board, process = worker.board, worker.process
    alive = process is not None
    pid = process.pid if process is not None else None
    last = worker.last_exit
    used = shown["memory"]
    return Worker(
        worker.index,
        pid,
        shown["state"],
        shown["health"],
        process_state(pid) if pid is not None else "",
        shown["uptime"],
        shown["report_age"],
        max(0, worker.restarts),
        worker.failures,
        worker.boot_failures,
        shown["restart_in"],
        worker.reason or "",
        now - worker.terminated_at if worker.terminated_at else None,
        max(0.0, worker.stop_deadline - now) if worker.terminated_at else None,
        worker.retired,
        worker.blind,
        Exit(last["reason"], hide(last["detail"]), last["code"], last["signal"], max(0.0, time.time() - last["at"]))
        if last is not None
        else None,
        hide(board.error),
        memory_of(used, supervisor.loaded.settings.supervision.memory_metric),
        supervisor.history.memory_trend(pid) if pid is not None else None,
        shown["cpu_percent"],
        int(board.ints[MESSAGES]),
        supervisor.debugging.flags_of(worker.index),
        tuple(board.native_threads().items()) if alive else (),
        tuple(_jobs(board, now)) if alive else (),
        tuple(_members(supervisor, board, now)) if alive else (),
        tuple(_partition(supervisor, view, now) for view in _in_order(board)),
        tuple(_failures(board, now, hide)),
        shown["state_for"],
    )


def memory_of(used: Mapping[str, int | None], metric: str) -> int | None:
    """What the limits are compared with; RSS where the finer ones were not measured."""
    return used.get(metric) or used.get("rss")


def _in_order(board: Scoreboard) -> list[AssignedView]:
    return sorted(board.assigned(), key=lambda view: (view.group, view.topic, view.partition))


def _jobs(board: Scoreboard, now: float) -> Iterator[Job]:
    threads = board.threads()
    batches = board.histogram("batch_duration_seconds")
    usual = batches.sum / batches.count if batches.count else None
    for job in board.jobs():
        yield Job(
            job.group,
            job.topic,
            job.partition,
            job.first_offset,
            job.last_offset,
            job.attempt,
            now - job.started_at,
            job.limit or None,
            threads.get(job.thread, ""),
            usual,
        )


def _members(supervisor: Supervisor, board: Scoreboard, now: float) -> Iterator[Member]:
    for group in board.groups():
        yield Member(
            group.group,
            now - group.poll_at if group.poll_at else None,
            now - group.joined_at if group.joined_at else None,
            group.partitions,
            now - group.stuck_since if group.stuck_since else None,
            group.rebuilds,
            group.contested,
            now - group.error_at if group.error_at else None,
            _poll_interval(supervisor, group.group),
        )


def _plans(supervisor: Supervisor, group: str) -> Sequence[Plan]:
    """A group's subscriptions; none where workers import the application by themselves."""
    if supervisor.app is None:
        return ()
    return supervisor.app.groups(supervisor.loaded.settings.swarm.group_id).get(group, ())


def _poll_interval(supervisor: Supervisor, group: str) -> float:
    properties: dict[str, Any] = dict(supervisor.loaded.settings.kafka)
    for plan in _plans(supervisor, group):
        properties.update(plan.kafka)
    try:
        return float(properties["max.poll.interval.ms"]) / 1000
    except (KeyError, ValueError):
        return POLL_INTERVAL


def _partition(supervisor: Supervisor, view: AssignedView, now: float) -> Partition:
    condition = view.condition
    key = (view.group, view.topic, view.partition)
    moved = supervisor.history.movement(view, now)
    return Partition(
        *key,
        view.position if view.position >= 0 else None,
        view.committed if view.committed >= 0 else None,
        view.lag,
        condition.phase,
        now - condition.since if condition.since else None,
        condition.waits_for,
        max(0.0, condition.until - now) if condition.until else None,
        condition.attempt,
        condition.buffered,
        bool(condition.bits & PAUSED) or supervisor.partitions.pauses.holds(*key),
        bool(condition.bits & OUT_OF_RANGE),
        bool(condition.bits & NO_START),
        bool(condition.bits & CLOSING),
        bool(condition.bits & SUCCEEDS),
        bool(condition.bits & FULL),
        bool(condition.bits & SEEKS),
        bool(condition.bits & LEADERLESS),
        bool(condition.bits & WITHHELD),
        now - view.stands_since if view.stands_since else None,
        moved.still_for,
        moved.rate,
        moved.lag_trend,
        moved.watched,
    )


def _failures(board: Scoreboard, now: float, hide: Callable[[str], str]) -> Iterator[Failure]:
    """The newest first."""
    for trouble in sorted(board.troubles().values(), key=lambda each: -each.last_at):
        if now - trouble.last_at <= OLDEST:
            yield Failure(
                trouble.kind,
                hide(trouble.text),
                trouble.group,
                trouble.topic,
                trouble.partition,
                trouble.first_offset,
                trouble.last_offset,
                trouble.attempt,
                now - trouble.first_at,
                now - trouble.last_at,
                trouble.times,
                trouble.until - now if trouble.until > now else None,
            )


def look(supervisor: Supervisor, now: float) -> None:
    """Take the supervisor's own short history further; in each pass, and mostly does nothing."""
    if not supervisor.history.due(now):
        return
    living = [worker for worker in supervisor.workers if worker.process is not None]
    supervisor.history.look(
        now,
        (view for worker in living for view in worker.board.assigned()),
        ((worker.process.pid, worker.memory or memory.resident(worker.process.pid) or 0) for worker in living),  # type: ignore[union-attr]
    )
