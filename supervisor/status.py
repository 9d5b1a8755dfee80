"""The snapshot of a swarm that `swarmctl status --json` prints and the observer reads. Reads facts, changes nothing but caches."""

from __future__ import annotations

import datetime
import functools
import os
import time
from typing import TYPE_CHECKING, Any, Final

from swarm import __version__, allocator
from swarm.scoreboard import BATCHES, ERRORS, FENCED, MESSAGES, NO_START, REBALANCES, GroupView, JobView, Scoreboard
from swarm.supervisor import memory
from swarm.supervisor.findings import findings

if TYPE_CHECKING:
    from swarm.supervisor.loop import Supervisor
    from swarm.supervisor.record import Worker

FULL_MEMORY_AGE: Final = 5.0
"""Seconds for which an exact measurement of memory serves again: it costs the kernel a walk over all pages."""
SLOW_SHARE: Final = 0.5
"""A job is called slow when it has used this share of its time limit."""


_allocator = functools.cache(allocator.described)
"""That of this process does not change."""


def groups_of(supervisor: Supervisor) -> list[str]:
    """The consumer groups; without preloading, those that workers have told of."""
    return supervisor.groups or sorted({g.group for w in supervisor.workers for g in w.board.groups()})


def snapshot(supervisor: Supervisor, *, full: bool) -> dict[str, Any]:
    """The status of the contract; ages and times in seconds, memory in bytes, None for what is not known."""
    now = time.monotonic()
    groups = groups_of(supervisor)
    return {
        "name": supervisor.name,
        "pid": os.getpid(),
        "state": supervisor.state,
        "version": __version__,
        "started_at": datetime.datetime.fromtimestamp(supervisor.started_at, datetime.UTC).isoformat(
            timespec="seconds"
        ),
        "uptime": now - supervisor.began,
        "run_dir": str(supervisor.run_dir),
        "state_dir": str(supervisor.state_dir),
        "groups": groups,
        "reload_error": supervisor.reload_error or None,
        "under_way": supervisor.under_way or None,
        "suspects": [
            {
                "group": each["group"],
                "topic": each["topic"],
                "partition": each["partition"],
                "first_offset": each["first"],
                "last_offset": each["last"],
                "deaths": each["deaths"],
                "condemned": each["condemned"],
            }
            for each in supervisor.partitions.suspects.facts()
        ],
        "allocator": _allocator(),
        "paused": supervisor.partitions.pauses.facts(),
        "unowned": supervisor.partitions.unowned.facts(now),
        "ownership": {
            "checked": now - supervisor.partitions.unowned.looked_at
            if supervisor.partitions.unowned.looked_at is not None
            else None,
            "error": supervisor.partitions.unowned.error,
        },
        "findings": list(findings(supervisor, now)),
        "limits": {
            "poll_timeout": supervisor.limits.poll_timeout,
            "report_timeout": supervisor.limits.report_timeout,
            "memory_limit": supervisor.limits.memory_limit,
            "memory_kill": supervisor.limits.memory_kill,
        },
        "workers": [_worker(supervisor, worker, now, full=full) for worker in supervisor.workers],
    }


def _worker(supervisor: Supervisor, worker: Worker, now: float, *, full: bool) -> dict[str, Any]:
    board = worker.board
    alive = worker.process is not None
    jobs = board.jobs() if alive else []
    groups = board.groups() if alive else []
    polls = [group.poll_at for group in groups if group.poll_at]
    state = state_of(supervisor, worker)
    result: dict[str, Any] = {
        "index": worker.index,
        "pid": worker.process.pid if worker.process is not None else None,
        "state": state,
        "state_for": max(0.0, now - worker.state_at) if worker.state_at and state == worker.state_seen else 0.0,
        "health": _health(worker, jobs, groups, now),
        "uptime": now - worker.started_at if alive else None,
        "restarts": max(0, worker.restarts),
        "restarts_by_reason": worker.restarts_by_reason,
        "failures": worker.deaths_in_a_row(now, supervisor.restart_policy.reset_after),
        "restart_in": max(0.0, worker.restart_at - now) if not alive and not supervisor.stopping else None,
        "last_exit": worker.last_exit,
        # Never below 0: a worker may have written since we took the time, while the memory of others was measured.
        "report_age": max(0.0, now - board.report_at) if alive and board.report_at else None,
        "poll_age": max(0.0, now - min(polls)) if polls else None,
        "job_age": max((max(0.0, now - job.started_at) for job in jobs), default=None),
        "messages": int(board.ints[MESSAGES]),
        "batches": int(board.ints[BATCHES]),
        "errors": int(board.ints[ERRORS]),
        "cpu_percent": round(worker.cpu_percent, 1) if alive else None,
        "cpu_before": worker.cpu_before,
        "memory": _memory(worker, now, full=full),
    }
    if full:
        result["errors_by_kind"] = board.errors_by_kind()
        result["rebalances"] = int(board.ints[REBALANCES])
        result["durations"] = _durations(board)
        result["assignment"] = [
            {
                "group": view.group,
                "topic": view.topic,
                "partition": view.partition,
                "position": view.position,
                "committed": view.committed if view.committed >= 0 else None,
                "lag": view.lag,
                "paused": view.paused,
                "standing": now - view.stands_since if view.stands_since else None,
            }
            for view in (sorted(board.assigned(), key=lambda v: (v.group, v.topic, v.partition)) if alive else [])
            if not view.condition.bits & NO_START
        ]
    return result


def _durations(board: Scoreboard) -> dict[str, float]:
    """How long batches took, over the index's whole life; `longest` is what the longest took at least."""
    seconds, sizes = board.histogram("batch_duration_seconds"), board.histogram("batch_size")
    slowest = max((number for number, count in enumerate(seconds.buckets) if count), default=0)
    return {
        "batches": seconds.count,
        "messages": sizes.sum,
        "seconds": seconds.sum,
        "longest": seconds.bounds[slowest - 1] if slowest else 0.0,
    }


def state_of(supervisor: Supervisor, worker: Worker) -> str:
    """In the words of docs/operations.md."""
    if worker.process is None:
        return "stopped" if supervisor.stopping else "backoff"
    if worker.terminated_at:
        return "stopping"
    state = worker.board.state
    return "starting" if state == "none" else state


def _health(worker: Worker, jobs: list[JobView], groups: list[GroupView], now: float) -> str:
    if worker.process is None:
        return "ok"
    if worker.reason in ("report_timeout", "poll_timeout", "consume_timeout", "partition_stands", "join_stuck"):
        return "stuck"
    if worker.board.ints[FENCED] or worker.reason == "fenced":
        return "fenced"
    if any(job.limit and now - job.started_at > SLOW_SHARE * job.limit for job in jobs):
        return "slow"
    if worker.board.state == "running" and not any(group.partitions for group in groups):
        return "standby"
    return "ok"


def _memory(worker: Worker, now: float, *, full: bool) -> dict[str, int | None]:
    if worker.process is None:
        return {"rss": None, "uss": None, "pss": None}
    pid = worker.process.pid
    if full and (worker.full_memory is None or now - worker.full_memory[0] > FULL_MEMORY_AGE):
        found = memory.full(pid)
        if found is not None:
            worker.full_memory = (now, found)
    exact = worker.full_memory[1] if worker.full_memory is not None else memory.Memory(0)
    rss = memory.resident(pid) if full or worker.rss is None else worker.rss
    return {"rss": rss, "uss": exact.uss, "pss": exact.pss}
