"""The application: what an author declares, before any process or client exists. Importing it starts no thread and opens nothing.

`App` objects are made while the app is imported (in the supervisor when `preload = true`, else in each worker) and only read
afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from swarm.consumer import Consumer
from swarm.errors import ConfigurationError
from swarm.events import Event
from swarm.plan import Plan, VirtualPartitions, make_plan

if TYPE_CHECKING:
    from swarm.producer import Producer, Sending

H = TypeVar("H", bound=Callable[..., Any])
E = TypeVar("E", bound=Event)
Listener = Callable[[Any], None]


class App:
    """A named set of subscriptions, hooks and listeners.

    name: the default consumer group (`group.id`) of its subscriptions, taken literally.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"App(name): expected a text, the default group.id, got {name!r}.")
        self.name = name
        self.plans: list[Plan] = []
        self.before_fork_hooks: list[Callable[[], None]] = []
        self.after_fork_hooks: list[Callable[[int], None]] = []
        self.listeners: list[tuple[type[Event], Listener]] = []
        self._producer: Producer | None = None
        self._producer_properties: Callable[[], Mapping[str, Any]] | None = None
        self._sending: Sending | None = None

    # -- declarations ------------------------------------------------------------------------------------------------

    def subscribe(self, *topics: str, pattern: str | None = None, **options: Any) -> Callable[[H], H]:
        """Declare what handles batches of these topics: a Consumer class, or a function (also async) of (messages) or (messages, consumer).

        Options: see DESIGN's list in `docs/api.md`; a wrong one raises ConfigurationError here.
        """
        return self._declare(topics, pattern, each=False, options=options)

    def each(self, *topics: str, pattern: str | None = None, **options: Any) -> Callable[[H], H]:
        """Declare a function (also async) of (message) or (message, consumer) that runs for each message, marked as consumed after each."""
        return self._declare(topics, pattern, each=True, options=options)

    def _declare(
        self, topics: tuple[str, ...], pattern: str | None, *, each: bool, options: dict[str, Any]
    ) -> Callable[[H], H]:
        first: Any = topics[0] if topics else None
        if callable(first):
            raise ConfigurationError('subscribe and each take the topics first: @app.subscribe("orders").')
        if isinstance(first, (list, tuple)):
            topics = tuple(first)
        key = options.pop("concurrency_key", None)
        if key is not None:
            if options.get("virtual_partitions") is not None:
                raise ConfigurationError("concurrency_key= is the short form of virtual_partitions=: give one of them.")
            if key != "key" and not callable(key):
                raise ConfigurationError(f'concurrency_key: expected "key" or a function of a message, got {key!r}.')
            options["virtual_partitions"] = VirtualPartitions(by=key)
        _refuse_unknown(options)

        def declare(handler: H) -> H:
            if inspect.isclass(handler):
                if not issubclass(handler, Consumer):
                    raise ConfigurationError(
                        f"{handler.__qualname__}: a class that handles messages derives from swarm.Consumer."
                    )
                if each:
                    raise ConfigurationError(
                        f"{handler.__qualname__}: each() takes a function; a class goes to subscribe()."
                    )
                if handler.consume is Consumer.consume:
                    raise ConfigurationError(f"{handler.__qualname__}: define consume(self, messages).")
            elif not callable(handler):
                raise ConfigurationError(f"{handler!r}: expected a Consumer class or a function.")
            self.plans.append(make_plan(handler=handler, topics=topics, pattern=pattern, each=each, **options))
            return handler

        return declare

    def before_fork(self, hook: Callable[[], None]) -> Callable[[], None]:
        """Register a hook that runs in the supervisor once, after the app was loaded and before the first fork. It must start no thread."""
        self.before_fork_hooks.append(hook)
        return hook

    def after_fork(self, hook: Callable[[int], None]) -> Callable[[int], None]:
        """Register a hook `hook(worker_index)` that runs in each worker after the fork: the place for threads, pools and clients."""
        self.after_fork_hooks.append(hook)
        return hook

    def on(self, event: type[E]) -> Callable[[Callable[[E], None]], Callable[[E], None]]:
        """Register a listener for a class of `swarm.events` (Event: all). It runs in the worker, in a thread of its own; what the
        supervisor says (`swarm.events.OF_SUPERVISOR`) is heard in a process of its own, with `preload = true` only.

        It cannot change processing: what it raises is counted and logged, and while it is slow, events beyond 10,000 that
        wait for it are dropped and counted.
        """
        if not (inspect.isclass(event) and issubclass(event, Event)):
            raise ConfigurationError(f"App.on: expected a class of swarm.events, got {event!r}.")

        def register(listener: Callable[[E], None]) -> Callable[[E], None]:
            self.listeners.append((event, listener))
            return listener

        return register

    # -- what the runtime asks ---------------------------------------------------------------------------------------

    def groups(self, default: str | None = None) -> dict[str, list[Plan]]:
        """Subscriptions by `group.id`; `default` (the setting `group_id`) stands for the App's name."""
        result: dict[str, list[Plan]] = {}
        for plan in self.plans:
            result.setdefault(plan.group or default or self.name, []).append(plan)
        return result

    @property
    def producer(self) -> Producer:
        """This process's producer, made at the first use. In a worker only: raises ConfigurationError before the fork."""
        if self._producer is None:
            if self._producer_properties is None:
                raise ConfigurationError(
                    "app.producer exists in workers only: a Kafka client does not survive a fork. Use it in a handler or in after_fork."
                )
            from swarm.producer import Producer

            self._producer = Producer(self._producer_properties(), self._sending)
        return self._producer


_OPTIONS = frozenset(Plan.__dataclass_fields__) - {"handler", "topics", "pattern", "each"}


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    import difflib

    for name in options:
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, sorted(_OPTIONS | {"concurrency_key"}), 1)
            hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(sorted(_OPTIONS))}."
            raise ConfigurationError(f"subscribe/each: unknown option {name!r}.{hint}")
