"""What an operator has to mend, as far as the supervisor sees it by itself; in the form that `doctor` has for it. Reads facts only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from swarm.supervisor.waiting import is_up
from swarm.wording import counted

if TYPE_CHECKING:
    from swarm.supervisor.loop import Supervisor
    from swarm.supervisor.record import Worker

Finding = dict[str, str]
"""`rule` (of `swarm.doctor`), `severity` (info, warning, error), `what`, `cause`, `fix`, `evidence`."""

CRASH_LOOP: Final = 5
"""Deaths in a row after which it is one: by default the waits are 8 s and more from then on."""


def findings(supervisor: Supervisor, now: float) -> Iterator[Finding]:
    """All there is to say at this instant of the monotonic clock."""
    for worker in supervisor.workers:
        yield from _contested(supervisor, worker)
        deaths = worker.deaths_in_a_row(now, supervisor.restart_policy.reset_after)
        if deaths >= CRASH_LOOP and not worker.retired and not supervisor.stopping:
            yield _crash_loop(supervisor, worker)
    if supervisor.dies_together:
        yield {
            "rule": "oom_group",
            "severity": "warning",
            "what": "where one worker runs out of memory the kernel kills the whole swarm",
            "cause": "The cgroup of this daemon has memory.oom.group = 1, as Kubernetes sets it for containers (from 1.28 on), and systemd for "
            "OOMPolicy=kill.",
            "fix": "Keep supervision.memory_kill well below the cgroup's limit, so that a worker is replaced before; or unset it "
            "(the kubelet's singleProcessOOMKill: true, OOMPolicy=continue in the unit).",
            "evidence": "memory.oom.group is 1.",
        }
    yield from supervisor.observed.findings()


def _contested(supervisor: Supervisor, worker: Worker) -> Iterator[Finding]:
    swarm = supervisor.loaded.settings.swarm
    for group in worker.board.groups() if worker.process is not None and worker.board.is_contested else ():
        if group.contested:
            seat = f"{swarm.name}.{swarm.host}.{worker.index}"
            yield {
                "rule": "seat_contested",
                "severity": "error",
                "what": f"another process uses the group.instance.id {seat} in the group {group.group}",
                "cause": f"Most likely a second daemon runs with the name {swarm.name} and the host {swarm.host}.",
                "fix": "Give one of the two another swarm.name or swarm.host, or stop it.",
                "evidence": f"Worker {worker.index} met it {counted(group.contested, 'time')} of late, and the supervisor has started "
                "no other process under this id.",
            }


def _crash_loop(supervisor: Supervisor, worker: Worker) -> Finding:
    last = worker.last_exit or {"reason": "crashed", "detail": ""}
    held = sorted({(view.topic, view.partition) for view in worker.board.assigned()})
    what = f"worker {worker.index} keeps dying"
    if held and not is_up(worker) and supervisor.loaded.settings.supervision.static_membership:
        named = ", ".join(f"{topic}/{partition}" for topic, partition in held[:8]) + (", …" if len(held) > 8 else "")
        what += f", and nobody serves its partitions while it is away: {named}"
    return {
        "rule": "crash_loop",
        "severity": "error",
        "what": what,
        "cause": f"Its last end: {last['reason']}: {last['detail']}.",
        "fix": "Mend what ends it, and swarmctl reload. Until then: swarmctl scale hands the partitions of the highest workers to the others, "
        "and swarmctl pause sets a topic aside; a seat is free when session.timeout.ms (45 s by default) has passed without it.",
        "evidence": f"{counted(worker.failures, 'death')} in a row, none of them after {supervisor.restart_policy.reset_after:g} s or more of life.",
    }
