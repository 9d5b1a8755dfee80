"""Threads that handlers leave behind: told from those that they wait for, that a library keeps, or that are started once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from swarm.strays import ENOUGH, FIRST, INTERVAL, Job, Strays

done = threading.Event()


def wait() -> None:
    done.wait(30.0)


def handler(_: object) -> None:
    """Stands for one of this module; threads that run its functions are the application's own."""


@pytest.fixture(autouse=True)
def _no_thread_outlives_a_test() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    done.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(10.0)
    done.clear()


class Jobs:
    """A worker's table of jobs, and what was said of them."""

    def __init__(self) -> None:
        self.running: set[Job] = set()
        self.told: list[tuple[str, str, int]] = []
        self.now = 100.0
        self.strays = Strays(
            lambda: frozenset(self.running),
            lambda *what: self.told.append(what),
            lambda: self.now,
            lambda _: None,
        )

    @contextmanager
    def job(self, thread: int = 1) -> Iterator[None]:
        """A job that is looked at, if it is to be."""
        self.now += 1.0
        mine = (thread, self.now)
        before = self.strays.begin(self.now)
        self.running.add(mine)
        yield
        self.running.discard(mine)
        if before is not None:
            self.strays.end(before, "subscription to orders", handler, mine)

    def run(self, body: Callable[[], Any], times: int = ENOUGH) -> None:
        for _ in range(times):
            with self.job():
                body()


def started(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, name="later")
    thread.start()
    return thread


def test_threads_that_run_on_are_told_of_after_some_jobs() -> None:
    jobs = Jobs()
    jobs.run(lambda: started(wait), ENOUGH - 1)
    assert not jobs.told

    jobs.run(lambda: started(wait), 1)

    assert jobs.told == [("subscription to orders", "thread 'later'", ENOUGH)]


def test_threads_that_are_waited_for_are_not() -> None:
    jobs = Jobs()

    jobs.run(lambda: started(int).join())

    assert not jobs.told


def test_a_thread_that_is_started_once_is_not() -> None:
    jobs = Jobs()
    jobs.run(lambda: [started(wait) for _ in range(5)], 1)
    jobs.run(lambda: None, 5)

    assert not jobs.told


def test_threads_of_a_library_are_not() -> None:
    jobs = Jobs()

    jobs.run(lambda: started(threading.Event().wait if done.is_set() else done.wait))

    assert not jobs.told


def test_a_thread_may_belong_to_a_job_beside_until_that_is_over() -> None:
    jobs = Jobs()
    for number in range(ENOUGH):
        with jobs.job(thread=2):
            with jobs.job():
                thread = started(wait)
            if number == 0:
                done.set()
                thread.join()
                done.clear()
        jobs.strays.look_again()
    assert not jobs.told, "the first was waited for by the other job, as far as one can know"

    with jobs.job():
        started(wait)

    assert [count for _, _, count in jobs.told] == [ENOUGH]


def test_work_in_an_executor_is_told_of_where_nobody_waits_for_it() -> None:
    jobs = Jobs()
    with ThreadPoolExecutor(2) as pool:
        jobs.run(lambda: pool.submit(wait))
        assert jobs.told == [("subscription to orders", "work in an executor that it did not wait for", ENOUGH)]
        done.set()


def test_work_in_an_executor_that_is_waited_for_is_not() -> None:
    jobs = Jobs()
    with ThreadPoolExecutor(2) as pool:

        def both() -> None:
            futures: list[Future[int]] = [pool.submit(int) for _ in range(4)]
            for future in futures:
                future.result(10.0)
            # what a thread does between its result and the next wait takes no time that counts
            while pool._idle_semaphore._value < len(pool._threads):
                pass

        jobs.run(both, 6)

    assert not jobs.told


def test_one_job_a_second_is_looked_at_after_the_first_ones() -> None:
    jobs = Jobs()
    looked = [jobs.strays.begin(100.0) is not None for _ in range(FIRST + 5)]
    later = [jobs.strays.begin(100.0 + INTERVAL) is not None for _ in range(2)]

    assert looked == [True] * FIRST + [False] * 5
    assert later == [True, False]
