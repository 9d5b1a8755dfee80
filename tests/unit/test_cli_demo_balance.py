"""The balance of `swarmctl demo`: it must not call anything explained that is not."""

from __future__ import annotations

import pytest

from swarm.demo_app import Run, parse_runs
from swarm.demo_balance import Balance, Evidence, Kill, balance, render

KILL = Kill(worker=1, pid=100, at=10.0, partitions=(0,))
NOTHING = Evidence()


def run(offset: int, pid: int, at: float, *, partition: int = 0, attempt: int = 1) -> Run:
    """An order processed once."""
    return Run(partition, offset, order=offset, worker=1 if pid == 100 else 2, pid=pid, attempt=attempt, at=at)


def balance_of(*runs: Run, produced: int = 3, evidence: Evidence = NOTHING) -> Balance:
    """Offsets 0 to `produced` - 1 of partition 0 were produced."""
    return balance([(0, offset) for offset in range(produced)], runs, KILL, evidence)


def test_a_confirmed_order_that_nobody_processed_is_lost() -> None:
    """Lost is what the broker confirmed and no worker wrote down."""
    result = balance_of(run(0, 100, 1.0), run(2, 200, 12.0))

    assert result.lost == ((0, 1),)
    assert "orders/0@1" in render(result, KILL, topic="orders", restarts=1, session_timeout=1.5, gave_up_after=60.0)


@pytest.mark.parametrize(
    ("first", "second", "evidence", "cause"),
    [
        (run(0, 100, 9.0), run(0, 200, 12.0), NOTHING, "crash"),
        (run(0, 100, 9.0), run(0, 100, 9.5, attempt=2), NOTHING, "retry"),
        (run(0, 300, 9.0), run(0, 200, 12.0), Evidence(taken=frozenset({(300, 0)})), "rebalance"),
        (run(0, 300, 9.0), run(0, 200, 12.0), Evidence(refused={(300, 0): 1}), "commit"),
        (run(0, 300, 9.0), run(0, 200, 12.0), Evidence(refused={(300, 0): 0}), "unexplained"),
        (run(0, 300, 9.0), run(0, 200, 12.0), NOTHING, "unexplained"),
        (run(0, 100, 8.0), run(0, 200, 9.0), NOTHING, "unexplained"),  # both before the kill
        (run(0, 300, 9.0), run(0, 300, 9.5), NOTHING, "unexplained"),
    ],
)
def test_a_repetition_is_explained_only_by_what_is_known(
    first: Run, second: Run, evidence: Evidence, cause: str
) -> None:
    """A kill explains only what its own process had done before it; without evidence it is said to be unexplained."""
    result = balance_of(first, second, produced=1, evidence=evidence)

    assert [repeat.cause for repeat in result.repeats] == [cause]
    text = render(result, KILL, topic="orders", restarts=1, session_timeout=None)
    assert ("UNEXPLAINED" in text) == (cause == "unexplained")


def test_neighbouring_repetitions_are_one_range() -> None:
    """The balance shows ranges of offsets, and the count of orders in them."""
    runs = [run(offset, 100, 9.0) for offset in range(3)] + [run(offset, 200, 12.0 + offset) for offset in range(3)]

    result = balance_of(*runs)

    assert [(repeat.first, repeat.last, repeat.orders) for repeat in result.repeats] == [(0, 2, 3)]
    assert result.processed_twice == 3
    assert (result.processed, result.runs) == (3, 6)


def test_recovery_counts_per_partition_and_only_from_other_processes() -> None:
    """Seconds run from the kill to the first message that another process handled; a partition without any has none."""
    kill = Kill(worker=1, pid=100, at=10.0, partitions=(0, 1))
    runs = [run(0, 100, 9.0), run(1, 100, 10.001), run(2, 200, 12.5), run(3, 200, 13.0)]

    result = balance([], runs, kill, NOTHING)

    assert result.recovery == {0: 2.5, 1: None}
    assert "never" in render(result, kill, topic="orders", restarts=1, session_timeout=1.5)


def test_the_balance_fits_80_columns() -> None:
    """It is read on a terminal."""
    runs = [run(offset, 100, 9.0) for offset in range(0, 40, 2)] + [
        run(offset, 200, 12.0) for offset in range(0, 40, 2)
    ]
    result = balance_of(*runs, produced=40, evidence=Evidence(troubles={"client_error": 7}))

    text = render(result, KILL, topic="swarm-demo-00112233", restarts=1, session_timeout=1.5, gave_up_after=60.0)

    assert max(map(len, text.splitlines())) <= 80


def test_a_run_is_read_as_it_was_written() -> None:
    """The file of a worker that was killed is evidence: what was written comes back the same."""
    written = [run(7, 100, 9.25, partition=3, attempt=2), run(8, 100, 9.5)]

    assert list(parse_runs(run.line() for run in written)) == written
