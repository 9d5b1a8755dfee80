"""The application that `swarmctl demo` runs: it processes made-up orders, and writes down every single one it processed.

A line is written by one `write` to a file opened with O_APPEND, so it is there for good when the call returns: a SIGKILL of the
process takes nothing back. What is counted at the end is therefore what was really done, not what a worker believed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from swarm import App, Consumer, Messages

TOPIC_VARIABLE: Final = "KAFKA_SWARM_DEMO_TOPIC"
DIRECTORY_VARIABLE: Final = "KAFKA_SWARM_DEMO_DIRECTORY"
RUNS_PREFIX: Final = "runs-"
"""Of the names of files with runs, one for each process."""

_WORK: Final = 0.001  # s for each order: enough that a kill finds something in hand, little enough to keep up


@dataclass(frozen=True, slots=True)
class Run:
    """One order processed once. `at` is CLOCK_MONOTONIC (s), the same clock in all processes of a machine."""

    partition: int
    offset: int
    order: int
    worker: int
    pid: int
    attempt: int
    at: float

    def line(self) -> bytes:
        """As it is written."""
        fields = (self.partition, self.offset, self.order, self.worker, self.pid, self.attempt, f"{self.at:.6f}")
        return (" ".join(map(str, fields)) + "\n").encode()


def parse_runs(lines: Iterable[bytes]) -> Iterator[Run]:
    """What `line` wrote."""
    for line in lines:
        *numbers, at = line.split()
        partition, offset, order, worker, pid, attempt = map(int, numbers)
        yield Run(partition, offset, order, worker, pid, attempt, float(at))


app = App("swarm-demo")
_runs_fd = -1


@app.after_fork
def open_runs(worker: int) -> None:
    """Open this process's file of runs."""
    global _runs_fd  # noqa: PLW0603 one file for the process, as logs have it
    path = os.path.join(os.environ[DIRECTORY_VARIABLE], f"{RUNS_PREFIX}{worker}-{os.getpid()}")
    _runs_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


@app.subscribe(os.environ.get(TOPIC_VARIABLE, "orders"), deserializer=json.loads, initial_offset="earliest")
class Orders(Consumer):
    """Processes the orders of one partition, in their order."""

    def consume(self, messages: Messages) -> None:
        """An order counts as processed when its line is written; what was processed is marked when this returns."""
        for message in messages:
            time.sleep(_WORK)
            run = Run(
                partition=message.partition,
                offset=message.offset,
                order=message.value["order"],
                worker=self.worker,
                pid=os.getpid(),
                attempt=message.attempt,
                at=time.monotonic(),
            )
            os.write(_runs_fd, run.line())
