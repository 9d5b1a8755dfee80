"""The answer to `swarmctl memory`: what the supervisor measures of each worker, and what the workers say of themselves when asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from swarm.supervisor.asking import Answers, Asking
from swarm.supervisor.status import snapshot

if TYPE_CHECKING:
    from swarm.supervisor.control import Connection
    from swarm.supervisor.loop import Supervisor
    from swarm.supervisor.record import Worker

PATIENCE: Final = 5.0
"""Seconds for a worker to answer what it knows at once."""
SURVEY: Final = 60.0
"""More of them where it is to count its objects: 2 s on an idle machine, and longer where it is traced or shares its processor."""
EFFORT: Final = 120.0
"""More of them where it is to collect, to dump, or to say what was traced, which takes as long as it holds objects."""


Tell = Callable[["Worker", dict[str, Any]], bool]
"""Sends a worker a command; False: it has no process, or does not read."""


def answer(supervisor: Supervisor, asking: Asking, tell: Tell, request: dict[str, Any], connection: Connection) -> None:
    """Carry out `{"command": "memory", "worker", "types", "most", "collect", "trace": "on" | "off", "dump": path}`; all but the first
    are optional. The answer comes when all workers have answered, or their time is up."""
    problem = _problem(supervisor, request)
    if problem:
        connection.refuse(problem)
        return
    only = request.get("worker")
    chosen = [worker for worker in supervisor.workers if only in (None, worker.index)]
    question = {name: request.get(name) for name in ("types", "most", "collect", "trace", "dump")}
    efforts = bool(question["collect"] or question["dump"]) * EFFORT + bool(question["types"]) * SURVEY

    def send(worker: Worker) -> Callable[[int], bool]:
        return lambda number: tell(worker, {"command": "memory", "ask": number, **question})

    def done(answers: Answers) -> None:
        connection.answer(_facts(supervisor, chosen, answers))

    ask = {each.index: (each.process.pid, send(each)) for each in chosen if each.process is not None}
    asking.ask(ask, time.monotonic(), PATIENCE + efforts, done)


def _problem(supervisor: Supervisor, request: dict[str, Any]) -> str:
    only, dump, most, trace = (request.get(name) for name in ("worker", "dump", "most", "trace"))
    if only is not None and not (type(only) is int and 0 <= only < len(supervisor.workers)):
        return f"there is no worker {only!r}: they are numbered 0 to {len(supervisor.workers) - 1}"
    if dump is not None and not (isinstance(dump, str) and os.path.isabs(dump)):
        return f"memory: dump: expected an absolute path, got {dump!r}"
    if dump is not None and only is None:
        return "memory: dump: of which worker?"
    if not (most is None or (type(most) is int and most > 0)):
        return f"memory: most: expected a number from 1 on, got {most!r}"
    if trace not in (None, "on", "off"):
        return f'memory: trace: expected "on" or "off", got {trace!r}'
    return ""


def _facts(supervisor: Supervisor, chosen: list[Worker], answers: Answers) -> dict[str, Any]:
    seen = {worker["index"]: worker for worker in snapshot(supervisor, full=True)["workers"]}
    workers = []
    for worker in chosen:
        about = seen.get(worker.index)
        if about is None:  # it was scaled away meanwhile
            continue
        said = answers.get(worker.index, {"unanswered": "it has no process at the moment"})
        workers.append(
            {
                **{name: about[name] for name in ("index", "pid", "state", "health", "uptime", "memory")},
                "samples": worker.history.samples(),
                "report": said.get("result"),
                "unanswered": said.get("unanswered"),
            }
        )
    limits = {"memory_limit": supervisor.limits.memory_limit, "memory_kill": supervisor.limits.memory_kill}
    return {"name": supervisor.name, "limits": limits, "workers": workers}
