# ruff: noqa: PLW0603, RUF006  # what handlers should not do is what this is about
"""Handlers that hand their messages over and return, read from their code; and many that do nothing of the kind, of which nothing is said."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed, wait
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any, ClassVar

import pytest

from swarm import Consumer, Message, Messages
from swarm.doctor.handoffs import handoffs

log = logging.getLogger(__name__)
JOBS: queue.Queue[Any] = queue.Queue()
DONE: queue.SimpleQueue[Any] = queue.SimpleQueue()
POOL = ThreadPoolExecutor(2)  # starts no thread before it has work
LATER: ThreadPoolExecutor | None = None
LOOP: asyncio.AbstractEventLoop | None = None
ASYNC_JOBS: asyncio.Queue[Any] = asyncio.Queue()
MADE_BY_A_HOOK: Any = None
PROCESSES: Any = None
MANY: Any = None
MAYBE_AN_EXECUTOR: Any = None
SLOTS = threading.Semaphore(4)
background: set[Any] = set()
totals: defaultdict[Any, int] = defaultdict(int)
recent: deque[Any] = deque(maxlen=10)
unknown: Any = None


def connect(worker: int) -> None:
    """As an after_fork hook does."""
    global MADE_BY_A_HOOK, PROCESSES, MANY
    MADE_BY_A_HOOK = ThreadPool(4)
    PROCESSES = multiprocessing.Queue()
    MANY = multiprocessing.Pool(4)


def charge(order: Any) -> Any:
    return order


async def charge_async(order: Any) -> Any:
    return order


class Gateway:
    """An application's own class around a queue and its thread."""

    def __init__(self) -> None:
        self.jobs: queue.Queue[Any] = queue.Queue()

    def enqueue(self, order: Any) -> None:
        self.jobs.put(order)

    def enqueue_and_wait(self, order: Any) -> None:
        self.jobs.put(order)
        self.jobs.join()

    def count(self, message: Any) -> None:
        self.jobs.put(("count", message.topic, len(message.raw)))

    def handle(self, messages: Messages) -> None:
        self.enqueue(messages)

    def handle_and_wait(self, messages: Messages) -> None:
        self.enqueue_and_wait(messages)


GATEWAY = Gateway()

# -- what is clear ---------------------------------------------------------------------------------------------------


def puts(messages: Messages) -> None:
    for message in messages:
        JOBS.put(message)


def puts_a_message(message: Message) -> None:
    JOBS.put_nowait(message.value)


def puts_all_at_once(messages: Messages) -> None:
    DONE.put(messages.raw_values())


def puts_what_it_has_decoded(messages: Messages) -> None:
    for n, message in enumerate(messages):
        order = json.loads(message.raw or b"{}")
        if order["amount"] > 0:
            log.info("order %s", n)
            JOBS.put((message.offset, order))


def puts_what_it_has_gathered(messages: Messages) -> None:
    batch = []
    for message in messages:
        batch.append(message.value)
        if len(batch) == 100:
            JOBS.put(batch)
            batch = []
    if batch:
        JOBS.put(batch)


def puts_by_key(messages: Messages) -> None:
    by_key: defaultdict[Any, list[Any]] = defaultdict(list)
    for message in messages:
        by_key[message.key].append(message.value)
    for orders in by_key.values():
        JOBS.put(orders)


def puts_in_a_function(messages: Messages) -> None:
    for message in messages:
        _enqueue(message.value)


def _enqueue(order: Any) -> None:
    JOBS.put(order)


def puts_through_an_object(messages: Messages) -> None:
    for message in messages:
        GATEWAY.enqueue(message)


def puts_into_what_a_hook_makes(messages: Messages) -> None:
    for message in messages:
        PROCESSES.put(message.raw)


def submits(messages: Messages) -> None:
    for message in messages:
        POOL.submit(charge, message.value)


def submits_to_what_a_hook_makes(messages: Messages) -> None:
    for message in messages:
        MADE_BY_A_HOOK.apply_async(charge, (message.value,))


def submits_to_what_is_annotated(messages: Messages) -> None:
    assert LATER is not None
    for message in messages:
        LATER.submit(charge, message.value)


def submits_a_closure(messages: Messages) -> None:
    for message in messages:
        POOL.submit(lambda: charge(message))  # noqa: B023


def submits_a_function_of_its_own(messages: Messages) -> None:
    def work() -> None:
        for message in messages:
            charge(message)

    POOL.submit(work)


def submits_a_partial(messages: Messages) -> None:
    POOL.submit(partial(charge, messages))


def submits_after_a_slot_is_free(messages: Messages) -> None:
    for message in messages:
        SLOTS.acquire()
        POOL.submit(charge, message).add_done_callback(lambda _: SLOTS.release())


def keeps_futures_and_forgets_them(messages: Messages) -> None:
    futures = [POOL.submit(charge, message) for message in messages]  # noqa: F841


def keeps_futures_in_a_list(messages: Messages) -> None:
    kept = []
    for message in messages:
        kept.append(POOL.submit(charge, message))


def maps_and_takes_no_result(messages: Messages) -> None:
    POOL.map(charge, messages)


def maps_in_a_pool_and_takes_no_result(messages: Messages) -> None:
    MANY.map_async(charge, messages.raw_values())


def puts_under_a_lock(messages: Messages) -> None:
    for message in messages:
        with SLOTS:
            JOBS.put(message)


def gives_to_a_loop(messages: Messages) -> None:
    assert LOOP is not None
    for message in messages:
        asyncio.run_coroutine_threadsafe(charge_async(message), LOOP)


def calls_in_a_loop(messages: Messages) -> None:
    assert LOOP is not None
    for message in messages:
        LOOP.call_soon_threadsafe(charge, message)


async def makes_tasks(messages: Messages) -> None:
    for message in messages:
        asyncio.create_task(charge_async(message))


async def makes_tasks_as_the_manual_keeps_them(messages: Messages) -> None:
    for message in messages:
        task = asyncio.create_task(charge_async(message.value))
        background.add(task)
        task.add_done_callback(background.discard)


async def puts_async(message: Message) -> None:
    await ASYNC_JOBS.put(message)


async def runs_in_an_executor(message: Message) -> None:
    asyncio.get_running_loop().run_in_executor(None, charge, message)


class OfTheClass(Consumer):
    pool: ClassVar[Any] = POOL

    def consume(self, messages: Messages) -> None:
        for message in messages:
            self.pool.submit(charge, message)


class OfTheInstance(Consumer):
    def __init__(self) -> None:
        self.jobs: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self.work, daemon=True)

    def consume(self, messages: Messages) -> None:
        for message in messages:
            self.give(message)

    def give(self, message: Message) -> None:
        self.jobs.put(message)

    def work(self) -> None:
        while True:
            charge(self.jobs.get())


def _made() -> Callable[[Messages], None]:
    pool = ThreadPoolExecutor(1)

    def handle(messages: Messages) -> None:
        for message in messages:
            pool.submit(charge, message)

    return handle


CLEAR: list[tuple[Any, str, str]] = [
    (puts, "queue", "JOBS"),
    (puts_a_message, "queue", "JOBS"),
    (puts_all_at_once, "queue", "DONE"),
    (puts_what_it_has_decoded, "queue", "JOBS"),
    (puts_what_it_has_gathered, "queue", "JOBS"),
    (puts_by_key, "queue", "JOBS"),
    (puts_in_a_function, "queue", "JOBS"),
    (puts_through_an_object, "queue", "self.jobs"),
    (puts_into_what_a_hook_makes, "queue", "PROCESSES"),
    (submits, "pool", "POOL"),
    (submits_to_what_a_hook_makes, "pool", "MADE_BY_A_HOOK"),
    (submits_to_what_is_annotated, "pool", "LATER"),
    (submits_a_closure, "pool", "POOL"),
    (submits_a_function_of_its_own, "pool", "POOL"),
    (submits_a_partial, "pool", "POOL"),
    (submits_after_a_slot_is_free, "pool", "POOL"),
    (keeps_futures_and_forgets_them, "pool", "POOL"),
    (keeps_futures_in_a_list, "pool", "POOL"),
    (maps_and_takes_no_result, "pool", "POOL"),
    (maps_in_a_pool_and_takes_no_result, "pool", "MANY"),
    (puts_under_a_lock, "queue", "JOBS"),
    (gives_to_a_loop, "loop", "asyncio.run_coroutine_threadsafe"),
    (calls_in_a_loop, "loop", "LOOP"),
    (makes_tasks, "loop", "asyncio.create_task"),
    (makes_tasks_as_the_manual_keeps_them, "loop", "asyncio.create_task"),
    (puts_async, "queue", "ASYNC_JOBS"),
    (runs_in_an_executor, "loop", "asyncio.get_running_loop()"),
    (GATEWAY.handle, "queue", "self.jobs"),
    (OfTheClass, "pool", "self.pool"),
    (OfTheInstance, "queue", "self.jobs"),
    (_made(), "pool", "pool"),
]

# -- what may well be meant ------------------------------------------------------------------------------------------


def does_it_and_tells_of_it(messages: Messages) -> None:
    for message in messages:
        charge(message.value)
        JOBS.put(message.value)


def puts_results(messages: Messages) -> None:
    for message in messages:
        JOBS.put(charge(message.value))


def adds_up_and_tells_of_it(messages: Messages) -> None:
    for message in messages:
        totals[message.key] += message.value["amount"]
        POOL.submit(charge, message)


def keeps_what_it_did(messages: Messages) -> None:
    for message in messages:
        receipt = charge(message.value)
        log.info("%s", receipt)
        POOL.submit(charge, message.value)


PERHAPS = [does_it_and_tells_of_it, puts_results, adds_up_and_tells_of_it, keeps_what_it_did]

# -- what is well ----------------------------------------------------------------------------------------------------


def does_it(messages: Messages) -> None:
    for message in messages:
        charge(message.value)


def puts_and_joins(messages: Messages) -> None:
    for message in messages:
        JOBS.put(message)
    JOBS.join()


def puts_and_takes_answers(messages: Messages) -> None:
    for message in messages:
        JOBS.put(message)
    for _ in messages:
        DONE.get()


def puts_with_a_place_for_the_answer(messages: Messages) -> None:
    for message in messages:
        answer: queue.Queue[Any] = queue.Queue()
        JOBS.put((message, answer))
        answer.get(timeout=5)


def puts_with_a_future(messages: Messages) -> None:
    promised = []
    for message in messages:
        future: Future[Any] = Future()
        JOBS.put((message, future))
        promised.append(future)
    for future in promised:
        future.result()


def puts_and_waits_for_an_event(messages: Messages) -> None:
    done = threading.Event()
    JOBS.put((messages, done))
    done.wait()


def puts_and_looks_until_it_is_empty(messages: Messages) -> None:
    JOBS.put(messages)
    while not JOBS.empty():
        time.sleep(0.1)


def puts_and_counts_down(messages: Messages) -> None:
    for message in messages:
        JOBS.put(message)
    for _ in messages:
        SLOTS.acquire()


def puts_through_an_object_that_waits(messages: Messages) -> None:
    for message in messages:
        GATEWAY.enqueue_and_wait(message)


def puts_and_waits_in_a_function(messages: Messages) -> None:
    for message in messages:
        JOBS.put(message)
    _until_all_is_done()


def _until_all_is_done() -> None:
    JOBS.join()


def counts_in_a_queue(messages: Messages) -> None:
    DONE.put((messages.topic, messages.partition, len(messages)))
    for message in messages:
        JOBS.put(time.time() - (message.timestamp or 0) / 1000)
        GATEWAY.count(message)
        charge(message)


def wakes_another(messages: Messages) -> None:
    JOBS.put("refresh")
    POOL.submit(connect, 1)
    charge(messages)


def submits_and_waits(messages: Messages) -> None:
    wait([POOL.submit(charge, message) for message in messages])


def submits_and_waits_by_module(messages: Messages) -> None:
    pending = {POOL.submit(charge, message) for message in messages}
    futures.wait(pending)


def submits_and_takes_results(messages: Messages) -> None:
    pending = [POOL.submit(charge, message) for message in messages]
    for each in pending:
        each.result()


def submits_and_takes_them_as_they_come(messages: Messages) -> None:
    for future in as_completed([POOL.submit(charge, message) for message in messages]):
        future.exception()


def maps_and_takes_results(messages: Messages) -> None:
    list(POOL.map(charge, messages))


def maps_in_a_pool_that_answers_when_all_is_done(messages: Messages) -> None:
    MADE_BY_A_HOOK.map(charge, messages)


def maps_in_a_pool_of_processes(messages: Messages) -> None:
    MANY.map(charge, messages.raw_values())


def puts_and_asks_until_an_event_is_set(messages: Messages) -> None:
    done = threading.Event()
    JOBS.put((messages, done))
    while not done.is_set():
        time.sleep(0.1)


def puts_and_takes_the_lock_that_it_gave(message: Message) -> None:
    lock = threading.Lock()
    JOBS.put((message, lock))
    with lock:
        pass


async def puts_and_awaits_a_future(messages: Messages) -> None:
    promised = {}
    for message in messages:
        future = asyncio.get_running_loop().create_future()
        await ASYNC_JOBS.put((message, future))
        promised[message.offset] = future
    for message in messages:
        await promised[message.offset]


async def puts_and_awaits_one_future(message: Message) -> None:
    future = asyncio.get_running_loop().create_future()
    ASYNC_JOBS.put_nowait((message, future))
    await future


async def puts_and_awaits_what_a_job_has(message: Message) -> None:
    job = unknown.Job(message)
    ASYNC_JOBS.put_nowait(job)
    await job.over


async def puts_and_takes_the_asyncio_lock_that_it_gave(message: Message) -> None:
    lock = asyncio.Lock()
    ASYNC_JOBS.put_nowait((message, lock))
    async with lock:
        pass


def has_a_pool_of_its_own(messages: Messages) -> None:
    with ThreadPoolExecutor(4) as pool:
        for message in messages:
            pool.submit(charge, message)


def has_a_queue_of_its_own(messages: Messages) -> None:
    order: queue.PriorityQueue[Any] = queue.PriorityQueue()
    for message in messages:
        order.put(message)
    while order.qsize():
        charge(order)


def has_threads_of_its_own(messages: Messages) -> None:
    threads = [threading.Thread(target=charge, args=(message,)) for message in messages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def gives_futures_to_somebody(messages: Messages) -> None:
    unknown.collect([POOL.submit(charge, message) for message in messages])


def gives_the_task_back(messages: Messages) -> Any:
    assert LOOP is not None
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(charge_async(messages), LOOP))


def pauses_and_marks_later(messages: Messages, consumer: Consumer) -> None:
    JOBS.put(messages)
    consumer.pause(1.0, messages.first_offset)


def puts_into_what_nobody_knows(messages: Messages) -> None:
    for message in messages:
        unknown.put(message)
        unknown.submit(charge, message)
        MAYBE_AN_EXECUTOR.submit(charge, message)


def fills_containers(messages: Messages) -> None:
    for message in messages:
        recent.append(message)
        charge(message)


def joins_texts(messages: Messages) -> None:
    charge(", ".join(str(message.value) for message in messages))


class AtOnce(Executor):
    """Runs what it is given where it is called."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


AT_ONCE = AtOnce()


def submits_to_what_runs_at_once(messages: Messages) -> None:
    for message in messages:
        AT_ONCE.submit(charge, message)


async def gathers(messages: Messages) -> None:
    await asyncio.gather(*(charge_async(message) for message in messages))


async def gathers_tasks(messages: Messages) -> None:
    tasks = [asyncio.create_task(charge_async(message)) for message in messages]
    await asyncio.gather(*tasks)


async def awaits_tasks(messages: Messages) -> None:
    for task in [asyncio.create_task(charge_async(message)) for message in messages]:
        await task


async def awaits_one_task(message: Message) -> None:
    task = asyncio.create_task(charge_async(message))
    await task


async def has_a_group_of_tasks(messages: Messages) -> None:
    async with asyncio.TaskGroup() as group:
        for message in messages:
            group.create_task(charge_async(message))


async def awaits_an_executor(message: Message) -> None:
    await asyncio.get_running_loop().run_in_executor(None, charge, message)


async def awaits_what_it_wraps(message: Message) -> None:
    await asyncio.wrap_future(POOL.submit(charge, message))


class OneBehind(Consumer):
    """Waits for what it gave before; the last batch is not done, but that is too fine for reading."""

    pending: ClassVar[list[Future[Any]]] = []

    def consume(self, messages: Messages) -> None:
        while self.pending:
            self.pending.pop().result()
        self.pending.append(POOL.submit(charge, messages))


class WaitsInAMethod(Consumer):
    def consume(self, messages: Messages) -> None:
        kept = [POOL.submit(charge, message) for message in messages]
        self.all_of(kept)

    def all_of(self, kept: list[Future[Any]]) -> None:
        wait(kept)


class OnlyCountsInHooks(Consumer):
    def consume(self, messages: Messages) -> None:
        charge(messages)

    def on_tick(self) -> None:
        JOBS.put("tick")


WELL = [
    does_it,
    puts_and_joins,
    puts_and_takes_answers,
    puts_with_a_place_for_the_answer,
    puts_with_a_future,
    puts_and_waits_for_an_event,
    puts_and_looks_until_it_is_empty,
    puts_and_counts_down,
    puts_through_an_object_that_waits,
    puts_and_waits_in_a_function,
    counts_in_a_queue,
    wakes_another,
    submits_and_waits,
    submits_and_waits_by_module,
    submits_and_takes_results,
    submits_and_takes_them_as_they_come,
    maps_and_takes_results,
    maps_in_a_pool_that_answers_when_all_is_done,
    maps_in_a_pool_of_processes,
    puts_and_asks_until_an_event_is_set,
    puts_and_takes_the_lock_that_it_gave,
    puts_and_awaits_a_future,
    puts_and_awaits_one_future,
    puts_and_awaits_what_a_job_has,
    puts_and_takes_the_asyncio_lock_that_it_gave,
    has_a_pool_of_its_own,
    has_a_queue_of_its_own,
    has_threads_of_its_own,
    gives_futures_to_somebody,
    gives_the_task_back,
    pauses_and_marks_later,
    puts_into_what_nobody_knows,
    fills_containers,
    joins_texts,
    submits_to_what_runs_at_once,
    GATEWAY.handle_and_wait,
    gathers,
    gathers_tasks,
    awaits_tasks,
    awaits_one_task,
    has_a_group_of_tasks,
    awaits_an_executor,
    awaits_what_it_wraps,
    OneBehind,
    WaitsInAMethod,
    OnlyCountsInHooks,
    len,
    lambda messages: None,
    unknown,
]


@pytest.mark.parametrize(("handler", "kind", "name"), CLEAR, ids=lambda each: getattr(each, "__name__", str(each)))
def test_what_is_handed_over_and_not_waited_for_is_found(handler: Any, kind: str, name: str) -> None:
    found = handoffs(handler)

    assert {(each.kind, each.name, each.sure) for each in found} == {(kind, name, True)}


@pytest.mark.parametrize("handler", PERHAPS)
def test_what_a_handler_has_itself_done_something_with_may_well_be_meant(handler: Any) -> None:
    found = handoffs(handler)

    assert [each.sure for each in found] == [False]


@pytest.mark.parametrize("handler", WELL, ids=lambda each: getattr(each, "__name__", str(each)))
def test_of_healthy_handlers_nothing_is_said(handler: Any) -> None:
    assert handoffs(handler) == []


def test_a_place_is_named_by_file_line_and_code() -> None:
    [found] = handoffs(submits)
    line = submits.__code__.co_firstlineno + 2

    assert (found.where, found.code) == (f"test_doctor_handoffs.py:{line}", "POOL.submit(charge, message.value)")
