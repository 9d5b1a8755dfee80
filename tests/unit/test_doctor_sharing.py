# ruff: noqa: PLW0603, SIM113  # what handlers should not do is what this is about
"""What handlers change that other threads see, read from their code."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from swarm import Consumer, Messages
from swarm.doctor.sharing import writes

total = 0
names: list[str] = []
sums: Counter[str] = Counter()
cache: dict[str, Any] = {}
by_day: defaultdict[str, int] = defaultdict(int)
client: Any = None
guard = threading.Lock()
local = threading.local()


class Tally:
    count = 0


tally = Tally()


def rebinds(messages: Messages) -> None:
    global total
    total += len(messages)


def rebinds_in_words(messages: Messages) -> None:
    global total
    total = total + 1


def counts_in_a_container(messages: Messages) -> None:
    sums["orders"] += 1


def counts_in_an_object(messages: Messages) -> None:
    tally.count += 1


def counts_in_a_function_that_it_calls(messages: Messages) -> None:
    for _ in messages:
        _count()


def _count() -> None:
    by_day["today"] += 1


def appends(messages: Messages) -> None:
    names.append("a")


def fills_a_cache(messages: Messages) -> None:
    cache["key"] = 1
    del cache["key"]


def makes_a_client_once(messages: Messages) -> None:
    global client
    if client is None:
        client = object()


def counts_under_a_lock(messages: Messages) -> None:
    global total
    with guard:
        total += 1
        names.append("a")


def counts_for_itself(messages: Messages) -> None:
    total = 0
    names = []
    for _ in messages:
        total += 1
        names.append(total)


def counts_for_its_thread(messages: Messages) -> None:
    local.count += 1


async def counts_in_the_event_loop(messages: Messages) -> None:
    global total
    total += 1


class OfTheClass(Consumer):
    seen: ClassVar[list[int]] = []

    def consume(self, messages: Messages) -> None:
        self.seen.append(1)


class OfTheInstance(Consumer):
    seen: list[int] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.seen = []
        self.total = 0

    def consume(self, messages: Messages) -> None:
        self.seen.append(1)
        self.total += 1


@pytest.mark.parametrize(
    ("handler", "kinds"),
    [
        (rebinds, ["global"]),
        (rebinds_in_words, ["global"]),
        (counts_in_a_container, ["global"]),
        (counts_in_an_object, ["global"]),
        (counts_in_a_function_that_it_calls, ["global"]),
        (appends, ["container"]),
        (fills_a_cache, ["container", "container"]),
        (makes_a_client_once, []),
        (counts_under_a_lock, []),
        (counts_for_itself, []),
        (counts_for_its_thread, []),
        (counts_in_the_event_loop, []),
        (OfTheClass, ["class"]),
        (OfTheInstance, []),
        (len, []),
        (lambda messages: None, []),
    ],
)
def test_what_threads_share_is_told_from_what_they_do_not(handler: Callable[..., Any], kinds: list[str]) -> None:
    assert [write.kind for write in writes(handler, virtual=False)] == kinds


def test_an_instance_is_shared_with_virtual_partitions_only() -> None:
    found = writes(OfTheInstance, virtual=True)

    assert [(write.kind, write.name, write.code) for write in found] == [("instance", "self.total", "self.total += 1")]


def test_a_place_is_named_by_file_and_line() -> None:
    (write,) = writes(rebinds, virtual=False)
    line = rebinds.__code__.co_firstlineno + 2

    assert (write.where, write.code) == (f"test_doctor_sharing.py:{line}", "total += len(messages)")
