"""What `status` tells an operator to mend, without anybody asking."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from swarm.config import Settings
from swarm.scoreboard import Scoreboard
from swarm.supervisor.findings import CRASH_LOOP, findings
from swarm.supervisor.policy import RestartPolicy
from swarm.supervisor.record import Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    """One that has died again and again, and had a partition."""
    board = Scoreboard.create(1)
    board.set_assigned([(board.string("shop"), board.string("orders"), 3, 7, 7, 9, 0.0, False, 0.0)])
    exit_ = {"reason": "crashed", "detail": "exited with code 9"}
    yield Worker(1, board, -1, failures=CRASH_LOOP, last_exit=exit_)
    board.close()


def said(worker: Worker, now: float = 1000.0, **more: Any) -> list[dict[str, str]]:
    """The findings of a swarm of this worker."""
    facts: dict[str, Any] = {
        "workers": [worker],
        "stopping": False,
        "dies_together": False,
        "observed": SimpleNamespace(findings=lambda: iter(())),
        "restart_policy": RestartPolicy(),
        "loaded": SimpleNamespace(settings=Settings()),
        **more,
    }
    return list(findings(cast(Any, SimpleNamespace(**facts)), now))


def test_a_worker_that_keeps_dying_is_named_with_the_partitions_that_its_seat_holds(worker: Worker) -> None:
    """Static membership keeps them for it while it waits: nobody else gets them."""
    [found] = said(worker)

    assert found["severity"] == "error"
    assert found["what"] == "worker 1 keeps dying, and nobody serves its partitions while it is away: orders/3"
    assert found["cause"] == "Its last end: crashed: exited with code 9."
    assert found["evidence"].startswith(f"{CRASH_LOOP} deaths in a row")


def test_a_few_deaths_and_a_sound_while_are_no_finding(worker: Worker) -> None:
    """Nor one that is scaled away, nor any while the swarm stops; and without a seat nothing is said of partitions."""
    dynamic = Settings.model_validate({"supervision": {"static_membership": False}})
    [without_seat] = said(worker, loaded=SimpleNamespace(settings=dynamic))
    stopping = said(worker, stopping=True)
    worker.retired = True
    retired = said(worker)
    worker.retired = False
    worker.process = cast(Any, object())
    worker.started_at = 1000.0
    young, sound = said(worker, 1059.0), said(worker, 1060.0)
    worker.failures = CRASH_LOOP - 1
    few = said(worker, 1001.0)

    assert without_seat["what"] == "worker 1 keeps dying"
    assert len(young) == 1
    assert stopping == retired == sound == few == []


def test_a_cgroup_that_dies_as_one_is_said(worker: Worker) -> None:
    """One worker out of memory would take all of them, and the supervisor, along."""
    worker.failures = 0

    [found] = said(worker, time.monotonic(), dies_together=True)

    assert (found["severity"], found["evidence"]) == ("warning", "memory.oom.group is 1.")
