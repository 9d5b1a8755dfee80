"""What `why` says of threads that wait, on real ones: their backtrace by faulthandler, their source as it is in this file."""

from __future__ import annotations

import faulthandler
import os
import queue
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from swarm.stacks import Stack, read
from swarm.stalls import waits_at
from tests.support.waiting import wait_for

PLAIN, AGAIN, SLOTS = threading.Lock(), threading.RLock(), threading.Semaphore(1)
READY = threading.Condition()
MESSAGES: queue.Queue[Any] = queue.Queue()
SIMPLE: queue.SimpleQueue[Any] = queue.SimpleQueue()
ANSWER: Future[Any] = Future()
OVER = threading.Event()


HELD = threading.Semaphore(0)


def hold(lock: Any) -> None:
    with lock:
        HELD.release()
        OVER.wait()


def at_a_lock() -> None:
    with PLAIN:
        pass


def at_a_lock_that_its_owner_may_take_again() -> None:
    with AGAIN:
        pass


def at_a_semaphore() -> None:
    with SLOTS:
        pass


def at_a_condition() -> None:
    with READY:
        pass


def at_a_lock_by_name() -> None:
    PLAIN.acquire()
    PLAIN.release()


def at_a_queue() -> None:
    MESSAGES.get()


def at_a_simple_queue() -> None:
    SIMPLE.get()


def at_a_future() -> None:
    ANSWER.result()


def at_an_event() -> None:
    OVER.wait()


def reads_in_the_block(end: int) -> None:
    with PLAIN:
        os.read(end, 1)


def backtrace() -> list[Stack]:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return read(file.read(), {each.ident: each.name for each in threading.enumerate() if each.ident is not None})


def seen(name: str) -> str:
    stacks = backtrace()
    stack = next((each for each in stacks if each.name == name), None)
    return waits_at(stack, stacks) if stack is not None else ""


@pytest.mark.parametrize(
    ("wait", "statement", "go_on"),
    [
        (at_a_lock, "with PLAIN:", OVER.set),
        (at_a_lock_that_its_owner_may_take_again, "with AGAIN:", OVER.set),
        (at_a_semaphore, "with SLOTS:", OVER.set),
        (at_a_condition, "with READY:", OVER.set),
        (at_a_lock_by_name, "PLAIN.acquire()", OVER.set),
        (at_a_queue, "MESSAGES.get()", lambda: MESSAGES.put(1)),
        (at_a_simple_queue, "SIMPLE.get()", lambda: SIMPLE.put(1)),
        (at_a_future, "ANSWER.result()", lambda: ANSWER.set_result(1)),
        (at_an_event, "OVER.wait()", OVER.set),
    ],
)
def test_a_thread_that_waits_is_seen_to_wait_at_its_statement(
    wait: Callable[[], None], statement: str, go_on: Callable[[], None]
) -> None:
    """A thread that has the lock is not said to hold it where the code calls it by another name."""
    OVER.clear()
    holders = [threading.Thread(target=hold, args=(lock,), daemon=True) for lock in (PLAIN, AGAIN, SLOTS, READY)]
    waiting = threading.Thread(target=wait, name="the one", daemon=True)
    for each in holders:
        each.start()
    assert all(HELD.acquire(timeout=10.0) for _ in holders)
    waiting.start()
    try:
        said = wait_for(lambda: seen("the one"), 10.0, "it to wait")
    finally:
        OVER.set()
        go_on()
        for each in (*holders, waiting):
            each.join(10.0)

    line = wait.__code__.co_firstlineno + 1
    assert said == f"`{statement}` (test_a_waiting_thread_is_told_from_one_that_runs.py line {line})"


def test_the_thread_in_the_block_is_named_and_does_not_itself_wait() -> None:
    """It is in a call of C, whose line is inside the block."""
    reads, writes = os.pipe()
    holding = threading.Thread(target=reads_in_the_block, args=(reads,), name="processing 2", daemon=True)
    waiting = threading.Thread(target=at_a_lock, name="the one", daemon=True)
    holding.start()
    wait_for(PLAIN.locked, 10.0, "the lock to be held")
    waiting.start()
    try:
        said = wait_for(lambda: found if "held" in (found := seen("the one")) else None, 10.0, "it to wait")
        other = seen("processing 2")
    finally:
        os.write(writes, b"x")
        for each in (holding, waiting):
            each.join(10.0)
        os.close(reads)
        os.close(writes)

    line = reads_in_the_block.__code__.co_firstlineno + 2
    assert said.endswith(
        "perhaps held by thread processing 2, in test_a_waiting_thread_is_told_from_one_that_runs.py "
        f"line {line} (reads_in_the_block -> os.read)"
    )
    assert other == ""
