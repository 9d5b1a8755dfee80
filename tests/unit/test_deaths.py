"""What a worker's end is called, and whether the message that it had in hand may be to blame for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from swarm import exits
from swarm.scoreboard import Scoreboard
from swarm.supervisor import memory
from swarm.supervisor.deaths import explain, own_fault
from swarm.supervisor.exposition import RESTART_REASONS
from swarm.supervisor.memory import Memory
from swarm.supervisor.policy import Reason
from swarm.supervisor.processes import Exit, Process
from swarm.supervisor.record import Worker

MIB = 1 << 20


@pytest.fixture
def worker() -> Iterator[Worker]:
    board = Scoreboard.create(0)
    board.set_state("running")
    yield Worker(0, board, -1)
    board.close()


@pytest.mark.parametrize(
    ("code", "signal", "asked", "reason", "blamed"),
    [
        (None, "SIGSEGV", None, "killed", True),
        (None, "SIGABRT", None, "killed", True),
        (None, "SIGKILL", None, "killed", False),  # somebody's kill -9
        (None, "SIGTERM", None, "killed", False),
        (7, None, None, "crashed", True),  # os._exit in the application
        (0, None, None, "finished", True),
        (None, "SIGKILL", "consume_timeout", "consume_timeout", True),
        (None, "SIGKILL", "memory_kill", "memory_kill", True),
        (None, "SIGKILL", "report_timeout", "report_timeout", False),
        (0, None, "requested", "requested", False),
        (None, "SIGSEGV", "requested", "requested", False),
    ],
)
def test_a_message_is_only_blamed_for_what_its_process_died_of_by_itself(
    code: int | None, signal: str | None, asked: Reason | None, reason: Reason, blamed: bool, worker: Worker
) -> None:
    """A kill from outside, and an end that was asked for, say nothing of the message in hand."""
    worker.reason = asked

    assert own_fault(worker, Exit(code, signal), reason) is blamed


@pytest.mark.parametrize(("code", "blamed"), [(exits.BOOT_ERROR, False), (exits.THREAD_DIED, False), (9, True)])
def test_who_says_why_it_gives_up_blames_no_message(code: int, blamed: bool, worker: Worker) -> None:
    """The runtime's own exit codes come with an error."""
    worker.board.set_error("thread 'poller' died: ValueError")

    assert own_fault(worker, Exit(code, None), "crashed") is blamed


@pytest.mark.parametrize(
    ("exit_", "out_of_memory", "reason", "words"),
    [
        (Exit(None, "SIGKILL"), False, "killed", "killed by SIGKILL from outside: perhaps out of memory"),
        (Exit(None, "SIGKILL"), True, "killed", "killed by the kernel for its memory (the cgroup's memory.events"),
        (Exit(None, "SIGSEGV"), False, "killed", "killed by SIGSEGV: a crash in native code"),
        (Exit(None, "SIGTERM"), False, "killed", "killed by SIGTERM"),
        (Exit(13, None), False, "crashed", "exited with code 13"),
        (
            Exit(0, None),
            False,
            "finished",
            "exited with code 0 in the middle of its work: os._exit in the application?",
        ),
    ],
)
def test_an_end_is_told_in_words(exit_: Exit, out_of_memory: bool, reason: Reason, words: str, worker: Worker) -> None:
    """For people who know neither wait statuses nor signals."""
    found, text = explain(worker, exit_, out_of_memory=out_of_memory)

    assert found == reason
    assert text.startswith(words)


def test_each_reason_is_a_label_of_the_metric_from_the_beginning() -> None:
    """A counter that appears with its first event hides that event from `increase()`."""
    assert set(RESTART_REASONS) == set(get_args(Reason))


@pytest.mark.parametrize(
    ("limit", "kill", "metric", "expected"),
    [
        (100, 125, "uss", 40),
        (0, 125, "uss", 40),  # only the hard limit is set
        (0, 125, "pss", 60),
        (0, 125, "rss", 300),
        (0, 0, "uss", 300),  # nothing to compare with: the cheap figure
        (400, 500, "uss", 300),  # RSS is an upper bound, so that is enough
    ],
)
def test_limits_are_compared_with_the_metric_that_was_chosen(
    limit: int, kill: int, metric: str, expected: int, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that share a preloaded application would else be replaced for what costs nothing."""
    facts: dict[str, Any] = {
        "resident": lambda _: 300 * MIB,
        "full": lambda _: Memory(300 * MIB, 40 * MIB, 60 * MIB),
        "cpu_seconds": lambda _: 0.0,
    }
    for name, fact in facts.items():
        monkeypatch.setattr(memory, name, fact)
    worker.process = Process(os.getpid(), -1)

    worker.sample(1000.0, limit * MIB, kill * MIB, metric)

    assert worker.memory == expected * MIB
