"""Threads that a handler starts and leaves behind: what they work on is marked as consumed before they have done it.

Looked for around single jobs: all of the first ones, then one a second. A thread counts if the application's own code runs in it, it
began while the job ran, and it is still alive when that job and all that ran beside it are over. So those that a handler waits for,
those of libraries, and those of ours are none; and a background thread that is started once, at the first message say, is not
reported either: it takes `ENOUGH` jobs that each leave something behind. Of an executor it is the work that counts: more of it
outstanding after a job than before, with no other job beside it.

`sys._current_frames` would tell more, and can bring a process with threads to a standstill before Python 3.11.9 (gh-106883).
"""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

ENOUGH: Final = 3
"""Jobs that have left something behind, until it is said."""
FIRST: Final = 20
"""Jobs that are all looked at."""
INTERVAL: Final = 1.0
"""Seconds between two looks from then on."""
SETTLE: Final = 0.005
"""Seconds until a thread of an executor, whose work is done, has said so."""

Job = tuple[int, float]
"""A slot of the table of jobs, and when its job began: the same job as long as both are the same."""


class Before(NamedTuple):
    """What there was when a job began."""

    threads: frozenset[threading.Thread]
    outstanding: int
    alone: bool


@dataclass
class _Suspect:
    """A thread that outlived the job in which it began. others: jobs beside it, which may have started it and wait for it."""

    thread: threading.Thread
    where: str
    job: Job
    others: frozenset[Job]


@dataclass
class _Left:
    jobs: set[Job] = field(default_factory=set)
    count: int = 0


class Strays:
    """The looks of one worker. `jobs` names those that are running; `tell(where, example, count)` hears of what was found."""

    def __init__(
        self,
        jobs: Callable[[], frozenset[Job]],
        tell: Callable[[str, str, int], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._jobs = jobs
        self._tell = tell
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._looks = 0
        self._next = 0.0
        self._suspects: list[_Suspect] = []
        self._seen: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._left: dict[str, _Left] = {}

    def begin(self, now: float) -> Before | None:
        """A job begins: what there is now; None where it is not looked at. Its processing thread."""
        if self._looks >= FIRST and now < self._next:
            return None
        self._looks += 1
        self._next = now + INTERVAL
        threads = frozenset(threading.enumerate())
        return Before(threads, _outstanding(threads), not self._jobs())

    def end(self, before: Before, where: str, handler: Any, job: Job) -> None:
        """The same job is over, and not in the table of jobs any more. Blocks for `SETTLE` where an executor looks busy."""
        own = _package(handler)
        others = self._jobs() - {job}
        threads = frozenset(threading.enumerate())
        with self._lock:  # one that began while several jobs ran is a suspect once
            fresh = [t for t in threads - before.threads if t not in self._seen and _is_own(t, own)]
            self._seen.update(fresh)
            self._suspects += [_Suspect(thread, where, job, others) for thread in fresh]
        if before.alone and not others and _outstanding(threads) > before.outstanding:
            self._sleep(SETTLE)
            if not self._jobs() and _outstanding(threads) > before.outstanding:
                self._leaves(where, "work in an executor that it did not wait for", job)
        self.look_again()

    def look_again(self) -> None:
        """Tell of threads that have outlived every job that may wait for them. Any thread."""
        if not self._suspects:
            return
        running = self._jobs()
        with self._lock:
            alive = [suspect for suspect in self._suspects if suspect.thread.is_alive()]
            sure = [suspect for suspect in alive if not (suspect.others & running)]
            self._suspects = [suspect for suspect in alive if suspect not in sure]
        for suspect in sure:
            self._leaves(suspect.where, f"thread {suspect.thread.name!r}", suspect.job)

    def _leaves(self, where: str, example: str, job: Job) -> None:
        with self._lock:
            left = self._left.setdefault(where, _Left())
            if job in left.jobs:
                return
            left.jobs = {job} | (left.jobs if len(left.jobs) < ENOUGH else set())
            left.count += 1
            count = left.count
        if count >= ENOUGH:
            self._tell(where, example, count)


def _is_own(thread: threading.Thread, own: str) -> bool:
    """Whether the application's own code runs in a thread."""
    target: Any = getattr(thread, "_target", None)
    if isinstance(thread, threading.Timer):
        target = thread.function
    if target is None:
        target = type(thread).run
    return bool(own) and _package(target) == own


def _package(target: Any) -> str:
    """The package of what is called, "" where that cannot be known."""
    while isinstance(target, functools.partial):
        target = target.func
    module = getattr(target, "__module__", None)
    return module.partition(".")[0] if isinstance(module, str) else ""


def _outstanding(threads: frozenset[threading.Thread]) -> int:
    """Work that executors (concurrent.futures) have in hand or in their queues; 0 where a Python keeps it elsewhere."""
    total = 0
    executors: dict[int, Any] = {}
    for thread in threads:
        if getattr(getattr(thread, "_target", None), "__module__", "") == "concurrent.futures.thread":
            for argument in getattr(thread, "_args", ()):
                executor = argument() if callable(argument) else None
                if hasattr(executor, "_work_queue"):
                    executors[id(executor)] = executor
    for executor in executors.values():
        try:
            idle = executor._idle_semaphore._value
            total += executor._work_queue.qsize() + max(0, len(executor._threads) - idle)
        except AttributeError:
            continue
    return total
