"""Each form of handler is called as it was declared; none of them can drop messages by its form."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from swarm import Backoff, Consumer, Message, Messages
from swarm.errors import ConfigurationError
from swarm.handlers import wants_consumer
from swarm.plan import make_plan
from tests.unit.stage import TOPIC, on_stage

SEEN: list[Any] = []


class Orders(Consumer):
    def consume(self, messages: Messages) -> None:
        SEEN.extend(message.offset for message in messages)


class AsyncOrders(Consumer):
    async def consume(self, messages: Messages) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        SEEN.extend(message.offset for message in messages)


def batch(messages: Messages) -> None:
    SEEN.extend(message.offset for message in messages)


def batch_with_consumer(messages: Messages, consumer: Consumer) -> None:
    assert (consumer.topic, consumer.partition, consumer.worker) == (TOPIC, 0, 0)
    batch(messages)


async def async_batch(messages: Messages) -> None:
    await asyncio.sleep(0)
    batch(messages)


class Callable_:
    async def __call__(self, messages: Messages) -> None:
        await async_batch(messages)


def disguised(messages: Messages) -> Any:
    """What a decorator that knows nothing of coroutines makes of an async handler."""
    return async_batch(messages)


def one(message: Message) -> None:
    SEEN.append(message.offset)


async def async_one(message: Message, consumer: Consumer) -> None:
    await asyncio.sleep(0)
    SEEN.append(message.offset)


def disguised_one(message: Message) -> Any:
    async def later() -> None:
        SEEN.append(message.offset)

    return later()


@pytest.mark.parametrize(
    ("handler", "each"),
    [
        (Orders, False),
        (AsyncOrders, False),
        (batch, False),
        (batch_with_consumer, False),
        (async_batch, False),
        (partial(async_batch), False),
        (Callable_(), False),
        (disguised, False),
        (one, True),
        (async_one, True),
        (disguised_one, True),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__) if callable(value) else str(value),
)
def test_every_form_handles_each_message_before_it_is_committed(handler: Any, each: bool) -> None:
    """Class, function, coroutine function, and a plain function that returns a coroutine: all are run to their end."""
    SEEN.clear()
    plan = make_plan(handler=handler, topics=(TOPIC,), each=each, max_messages=2)
    with on_stage(plan, range(5)) as stage:
        stage.assign()
        stage.settle()
        stage.stop()

        assert SEEN == [0, 1, 2, 3, 4]
        assert stage.broker.committed[(TOPIC, 0)] == 5


@pytest.mark.parametrize(
    ("handler", "wanted"),
    [(batch, False), (batch_with_consumer, True), (lambda messages, limit=3: None, False), (print, False)],
)
def test_a_second_parameter_asks_for_the_consumer(handler: Callable[..., Any], wanted: bool) -> None:
    """One that has a default is the function's own affair."""
    assert wants_consumer(handler) is wanted


@pytest.mark.parametrize("handler", [lambda: None, lambda a, b, c: None, lambda messages, *, needed: None])
def test_another_signature_is_refused(handler: Callable[..., Any]) -> None:
    """With what a handler looks like."""
    with pytest.raises(ConfigurationError, match="a handler takes the messages"):
        wants_consumer(handler)


class Hooked(Consumer):
    def on_assigned(self) -> None:
        SEEN.append("assigned")

    def consume(self, messages: Messages) -> None:
        SEEN.append(len(messages))

    def on_idle(self) -> None:
        SEEN.append("idle")
        raise RuntimeError("hooks may fail")

    def on_revoked(self) -> None:
        SEEN.append("revoked")

    def on_shutdown(self) -> None:
        SEEN.append("shutdown")


@pytest.mark.parametrize("end", ["revoked", "shutdown"])
def test_hooks_come_in_the_order_of_an_assignment_s_life(end: str) -> None:
    """on_assigned before the first consume; on_revoked when it is taken, on_shutdown at a stop, never both; once each."""
    SEEN.clear()
    with on_stage(make_plan(handler=Hooked, topics=(TOPIC,), backoff=Backoff()), range(2)) as stage:
        stage.assign()
        stage.settle()
        if end == "revoked":
            stage.revoke()
        stage.stop()
        while stage.step():
            pass

    assert ["assigned", 2, "idle", end] == SEEN
