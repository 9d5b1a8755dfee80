"""How each form of handler is called: a Consumer class, a function of a batch, a function of one message; plain or async.

`bind` looks at the handler once, at the assignment; what it returns does nothing per message that the form does not need.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final

from swarm.consumer import Consumer
from swarm.errors import ConfigurationError
from swarm.lane import Lane, Runner
from swarm.message import Message, Messages, Plain
from swarm.plan import Plan
from swarm.virtual import Slice

Await = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on the worker's event loop and waits for it."""

Around = Callable[[Callable[[Any], Any], bool], Callable[[Any], Any]]
"""Makes of a handler (and whether it is async) another one that does something before and after it (`swarm.tracing`)."""
TURN: Final = 0.001
"""Seconds after which an async `each` lets other partitions have the event loop, though its handler never waits. A turn of the loop
costs as much as some hundred messages of a handler that does nothing."""

_HOOKS = ("on_assigned", "on_revoked", "on_idle", "on_tick", "on_shutdown")


def wants_consumer(handler: Callable[..., Any]) -> bool:
    """Whether a function takes its Consumer as a second parameter; raises ConfigurationError for any other signature."""
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in positional if p.default is p.empty]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return False
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not positional or len(needed) > 2 or keywords:
        name = getattr(handler, "__qualname__", repr(handler))
        raise ConfigurationError(
            f"{name}{inspect.signature(handler)}: a handler takes the messages, and if it likes its Consumer as the second parameter."
        )
    return len(needed) == 2


def is_async(handler: Any) -> bool:
    """Whether calling the handler makes a coroutine."""
    if inspect.isclass(handler) and issubclass(handler, Consumer):
        handler = handler.consume
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(type(handler), "__call__", None)  # noqa: B004  # an object whose call is a coroutine function
    )


def make_consumer(plan: Plan, lane: Lane) -> Consumer:
    """The instance of one assignment; runs the application's `__init__`, which may raise."""
    cls: Any = plan.handler if inspect.isclass(plan.handler) else Consumer
    instance: Consumer = cls.__new__(cls)
    instance._lane = lane  # before __init__, so that it may look at topic and partition
    instance.__init__()  # type: ignore[misc]
    return instance


def overridden_hooks(consumer: Consumer) -> frozenset[str]:
    """Hooks that the application defined."""
    return frozenset(name for name in _HOOKS if getattr(type(consumer), name) is not getattr(Consumer, name))


def bind(plan: Plan, consumer: Consumer, wait: Await, around: Around | None = None) -> Runner:
    """The function that runs this plan's handler; `around` is put around each call of it."""
    function: Callable[..., Any] = consumer.consume if inspect.isclass(plan.handler) else plan.handler
    handler = function
    if not inspect.isclass(plan.handler) and wants_consumer(function):

        def handler(argument: Any) -> Any:
            return function(argument, consumer)

    asynchronous = is_async(plan.handler)
    if around is not None:
        handler = around(handler, asynchronous)
    if plan.each:
        return _each_async(plan, handler, wait) if asynchronous else _each(plan, handler, wait)
    return _batch_async(plan, handler, wait) if asynchronous else _batch(plan, handler, wait)


def _batch(plan: Plan, handler: Callable[[Messages], Any], wait: Await) -> Runner:
    deserializer = plan.deserializer

    def run(lane: Lane | Slice, raws: list[Any], attempt: int) -> int:
        result = handler(Messages(raws, deserializer, attempt))
        if result is not None and hasattr(result, "__await__"):  # an async function inside a plain one
            wait(result)
        return len(raws)

    return run


def _batch_async(plan: Plan, handler: Callable[[Messages], Coroutine[Any, Any, Any]], wait: Await) -> Runner:
    deserializer = plan.deserializer

    def run(lane: Lane | Slice, raws: list[Any], attempt: int) -> int:
        wait(handler(Messages(raws, deserializer, attempt)))
        return len(raws)

    return run


def _each(plan: Plan, handler: Callable[[Message], Any], wait: Await) -> Runner:
    deserializer = plan.deserializer
    automatic = plan.offsets == "automatic"
    may_halt = plan.delivery != "at_most_once"  # what was committed before the run would be run by nobody

    def run(lane: Lane | Slice, raws: list[Any], attempt: int) -> int:
        done = 0
        for raw in raws:
            if lane.suppress or (lane.halt and may_halt):
                break
            if lane.blamed and (failed := lane.blamed.get(raw.offset())):
                lane.attempt = attempt = failed + 1
            if deserializer is None:  # as `swarm.message.Plain` says; a call for each message would cost what it saves
                message: Message = Plain()
                message._raw = raw
                message.attempt = attempt
            else:
                message = Message(raw, deserializer, attempt)
            result = handler(message)
            if result is not None and hasattr(result, "__await__"):
                wait(result)
            done += 1
            if lane.suppress:
                continue  # type: ignore[unreachable]  # the handler has asked to pause or seek
            end = raw.offset() + 1
            lane.handled += 1  # before the frontier: nothing is committed that is not counted
            if lane.frontier < end:  # at-most-once has committed the whole batch: never back
                if automatic:
                    lane.frontier = end
                else:
                    lane.unmarked_end = end
            lane.retry_from = end
            if attempt > 1 and end >= lane.repeat_end:
                lane.attempt = attempt = 1
        return done

    return run


def _each_async(plan: Plan, handler: Callable[[Message], Coroutine[Any, Any, Any]], wait: Await) -> Runner:
    deserializer = plan.deserializer
    automatic = plan.offsets == "automatic"
    may_halt = plan.delivery != "at_most_once"

    async def all_of(lane: Lane | Slice, raws: list[Any], attempt: int) -> int:
        done = 0
        pause_at = monotonic() + TURN
        for raw in raws:
            if lane.suppress or (lane.halt and may_halt):
                break
            if lane.blamed and (failed := lane.blamed.get(raw.offset())):
                lane.attempt = attempt = failed + 1
            if deserializer is None:
                message: Message = Plain()
                message._raw = raw
                message.attempt = attempt
            else:
                message = Message(raw, deserializer, attempt)
            await handler(message)
            done += 1
            if lane.suppress:
                continue  # type: ignore[unreachable]  # the handler has asked to pause or seek
            end = raw.offset() + 1
            lane.handled += 1  # before the frontier: nothing is committed that is not counted
            if lane.frontier < end:  # at-most-once has committed the whole batch: never back
                if automatic:
                    lane.frontier = end
                else:
                    lane.unmarked_end = end
            lane.retry_from = end
            if attempt > 1 and end >= lane.repeat_end:
                lane.attempt = attempt = 1
            if done % 16 == 0 and monotonic() >= pause_at:
                await asyncio.sleep(0)  # a handler that never waits must not starve the other partitions
                pause_at = monotonic() + TURN
        return done

    return lambda lane, raws, attempt: wait(all_of(lane, raws, attempt))
