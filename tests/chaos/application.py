"""The application of the chaos run: a group for each semantics, all over the same two topics. Knows nothing of the accidents.

It is copied into each daemon's project as `app.py`. What its handlers see and do goes to `../seen/GROUP`, one line per fact
(`tests/chaos/evidence.py` reads them), each by one write in append mode: what was written outlives a SIGKILL.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swarm import App, Backoff, Consumer, DeadLetter, Message, Messages

ORDERS = "orders"
CLICKS = "clicks"
OUTPUTS = {"exact": "exact-out", "own": "own-out"}
LETTERS = "letters-out"

_HERE = Path(__file__).resolve().parent
_WANTED = (_HERE / "groups").read_text().split() if (_HERE / "groups").exists() else []
_WORK = 0.003  # s for a message, as long as it takes to be killed in the middle of a batch now and then
_SOON = Backoff(initial=0.1, factor=2.0, maximum=1.0)
_CLASSIC = {"session.timeout.ms": 6000}  # the broker gives up a member that is silent for so long

app = App("chaos")
_numbers = itertools.count()
_files: dict[tuple[int, str], int] = {}


# -- evidence ------------------------------------------------------------------------------------------


def note(what: str, group: str, messages: Sequence[Message], consumer: Consumer) -> None:
    """A fact about these messages, which are of one partition: begin, end, fail, mark, refused or strange."""
    topic, partition = messages[0].topic, messages[0].partition
    offsets = ",".join(_ranges([message.offset for message in messages]))
    line = f"{what} {topic} {partition} {offsets} {consumer.attempt} {os.getpid()} {_number(consumer)} {time.monotonic():.4f}\n"
    os.write(_file(group), line.encode())


def _ranges(offsets: list[int]) -> Iterator[str]:
    first = last = offsets[0]
    for offset in [*offsets[1:], -1]:
        if offset != last + 1:
            yield f"{first}-{last}" if last > first else str(first)
            first = offset
        last = offset


def _number(consumer: Consumer) -> str:
    """Of the instance, unique in the process: an instance stands for one assignment."""
    return str(vars(consumer).setdefault("chaos_number", next(_numbers)))


def _file(group: str) -> int:
    key = (os.getpid(), group)
    if key not in _files:
        _files[key] = os.open(_HERE.parent / "seen" / group, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    return _files[key]


@contextmanager
def run(group: str, messages: Sequence[Message], consumer: Consumer) -> Iterator[None]:
    """Notes how a run over these messages begins and ends."""
    for message in messages:
        if (message.topic, message.partition) != (consumer.topic, consumer.partition):
            note("strange", group, [message], consumer)
    note("begin", group, messages, consumer)
    try:
        yield
    except BaseException:
        note("fail", group, messages, consumer)
        raise
    note("end", group, messages, consumer)


# -- what is in a message ------------------------------------------------------------------------------


def is_poison(message: Message) -> bool:
    """No handler with dead letters can do it, however often it tries."""
    return (message.raw or b"").endswith(b"poison")


def is_lengthy(message: Message) -> bool:
    """Takes some seconds in the long-running group."""
    return (message.raw or b"").endswith(b"lengthy")


def stumble(message: Message, consumer: Consumer) -> None:
    """Raises at the first attempt at one message in some 400."""
    if consumer.attempt == 1 and (message.offset * 31 + message.partition * 7) % 397 == 0:
        raise ValueError("now and then a handler fails")


def work(message: Message, consumer: Consumer) -> None:
    time.sleep(_WORK)
    stumble(message, consumer)


# -- the groups ----------------------------------------------------------------------------------------


def subscribe(group: str, *topics: str, each: bool = False, **options: Any) -> Callable[[Any], Any]:
    """As `app.subscribe` and `app.each`, where this run wants the group."""
    if _WANTED and group not in _WANTED:
        return lambda handler: handler
    options = {"backoff": _SOON, "kafka": _CLASSIC, **options}
    return (app.each if each else app.subscribe)(*topics, group=group, **options)


@subscribe("batch", ORDERS, CLICKS, max_messages=50)
class Batch(Consumer):
    """At-least-once, a batch at a time."""

    def consume(self, messages: Messages) -> None:
        with run("batch", messages, self):
            for message in messages:
                work(message, self)


@subscribe("letters", ORDERS, each=True, dead_letter=DeadLetter(LETTERS, max_attempts=2))
def letters(message: Message, consumer: Consumer) -> None:
    """At-least-once, a message at a time, with dead letters."""
    with run("letters", [message], consumer):
        if is_poison(message):
            raise ValueError("poison")
        work(message, consumer)


@subscribe("letters", CLICKS, max_messages=20, dead_letter=DeadLetter(LETTERS, max_attempts=2))
def letters_of_batches(messages: Messages, consumer: Consumer) -> None:
    """The same group with batches: the message that fails has to be found."""
    with run("letters", messages, consumer):
        for message in messages:
            if is_poison(message):
                raise ValueError("poison")
            work(message, consumer)


@subscribe("once", ORDERS, delivery="at_most_once", max_messages=10)
def once(messages: Messages, consumer: Consumer) -> None:
    """At-most-once."""
    with run("once", messages, consumer):
        for message in messages:
            work(message, consumer)


@subscribe("once", CLICKS, each=True, delivery="at_most_once", max_messages=10)
def once_each(message: Message, consumer: Consumer) -> None:
    with run("once", [message], consumer):
        work(message, consumer)


@subscribe("long", ORDERS, CLICKS, long_running=True, max_messages=20)
class Long(Consumer):
    """Long-running jobs, which stop early where the partition has been taken."""

    def consume(self, messages: Messages) -> None:
        with run("long", messages, self):
            for message in messages:
                time.sleep(_WORK)
                for _ in range(25 if is_lengthy(message) else 0):
                    time.sleep(0.1)
                    if self.is_revoked:
                        raise InterruptedError("the partition has been taken: somebody else does the rest")


@subscribe("async", ORDERS, max_messages=30, kafka={**_CLASSIC, "partition.assignment.strategy": "range"})
async def asynchronous(messages: Messages, consumer: Consumer) -> None:
    """Async handlers; and the eager protocol, in which every rebalance takes everything."""
    with run("async", messages, consumer):
        for message in messages:
            await asyncio.sleep(_WORK)
            stumble(message, consumer)


@subscribe("async", CLICKS, each=True, kafka={**_CLASSIC, "partition.assignment.strategy": "range"})
async def asynchronous_each(message: Message, consumer: Consumer) -> None:
    with run("async", [message], consumer):
        await asyncio.sleep(_WORK)
        stumble(message, consumer)


@subscribe("virtual", ORDERS, concurrency_key="key", max_messages=50)
def virtual(messages: Messages, consumer: Consumer) -> None:
    """Virtual partitions."""
    with run("virtual", messages, consumer):
        for message in messages:
            work(message, consumer)


@subscribe("virtual", CLICKS, each=True, concurrency_key="key", max_messages=50)
def virtual_each(message: Message, consumer: Consumer) -> None:
    with run("virtual", [message], consumer):
        work(message, consumer)


@subscribe("manual", ORDERS, CLICKS, offsets="manual", max_messages=30)
class Manual(Consumer):
    """Manual offsets: collects messages over several runs, then marks or commits them."""

    def __init__(self) -> None:
        self.waiting: list[Message] = []
        self.settled = 0

    def consume(self, messages: Messages) -> None:
        with run("manual", messages, self):
            time.sleep(_WORK * len(messages))
        self.waiting += messages
        if len(self.waiting) > 25:
            self.settle()

    def settle(self) -> None:
        if not self.waiting:
            return
        done, self.waiting = self.waiting, []
        note("mark", "manual", done, self)  # before it is so: what is committed later was marked before
        self.settled += 1
        ok = self.commit(done[-1]) if self.settled % 4 == 0 else self.mark_as_consumed(done[-1])
        if not ok:
            note("refused", "manual", done, self)

    def on_idle(self) -> None:
        self.settle()

    def on_revoked(self) -> None:
        self.settle()

    def on_shutdown(self) -> None:
        self.settle()


def output_of(message: Message) -> bytes:
    """Says which message it was made of."""
    return f"{message.topic}:{message.partition}:{message.offset}".encode()


@subscribe("exact", ORDERS, CLICKS, delivery="exactly_once", max_messages=30, transaction_partitions=3)
class Exact(Consumer):
    """Exactly-once, up to three partitions in a transaction: an output for each message."""

    def consume(self, messages: Messages) -> None:
        with run("exact", messages, self):
            for message in messages:
                self.producer.produce(OUTPUTS["exact"], output_of(message), message.key)
                work(message, self)


@subscribe("own", ORDERS, CLICKS, max_messages=40)
class Own(Consumer):
    """At-least-once, with transactions of its own around parts of a batch: what is in one of them happens exactly once."""

    def consume(self, messages: Messages) -> None:
        with run("own", messages, self):
            for start in range(0, len(messages), 20):
                part = messages[start : start + 20]
                with self.transaction() as transaction:
                    for message in part:
                        transaction.produce(OUTPUTS["own"], output_of(message), message.key)
                        work(message, self)
                    self.mark_as_consumed(part[-1])
                    note("mark", "own", part, self)  # before it is so: what is committed later was noted before


@subscribe("next", ORDERS, CLICKS, max_messages=50, kafka={"group.protocol": "consumer"})
def next_protocol(messages: Messages, consumer: Consumer) -> None:
    """The new group protocol."""
    with run("next", messages, consumer):
        for message in messages:
            work(message, consumer)
