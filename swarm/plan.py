"""What an application asked for, as values: one `Plan` per subscription. Knows no Kafka client and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Final, Literal, get_args

from swarm.errors import ConfigurationError, NotYet

Delivery = Literal["at_least_once", "at_most_once", "exactly_once"]
Offsets = Literal["automatic", "manual"]
Edge = Literal["earliest", "latest"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays (s) between attempts: `initial * factor^(k-1)` before attempt k + 1, at most `maximum`, each spread by ± `jitter` of itself."""

    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 30.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if self.initial < 0 or self.maximum < 0 or self.factor < 1 or not 0 <= self.jitter <= 1:
            raise ConfigurationError(
                f"{self}: expected initial and maximum of 0 or more, factor of 1 or more, jitter from 0 to 1."
            )

    def delay(self, failed: int, chance: float) -> float:
        """Seconds to wait after `failed` attempts (1 or more); `chance` from 0 to 1 places it within the jitter."""
        try:
            plain = min(self.initial * float(self.factor) ** (failed - 1), self.maximum)
        except OverflowError:
            plain = self.maximum if self.initial else 0.0
        return plain * (1 + self.jitter * (2 * chance - 1))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Where a message goes that has failed `max_attempts` times (1 or more). The topic must exist or be auto-created."""

    topic: str
    max_attempts: int = 3

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigurationError(f"DeadLetter.max_attempts: expected 1 or more, got {self.max_attempts}.")
        if not self.topic:
            raise ConfigurationError("DeadLetter.topic: expected a topic's name, got an empty one.")


@dataclass(frozen=True, slots=True)
class VirtualPartitions:
    """Slices of a batch by `by(message)`, run in parallel; `maximum` slices at most (None: the processing threads)."""

    by: Callable[[Any], Any]
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One subscription: topics or a pattern, how they are read, and what runs."""

    handler: Any
    topics: tuple[str, ...] = ()
    pattern: str | None = None
    group: str | None = None
    each: bool = False
    max_messages: int = 500
    max_wait: float = 0.0
    delivery: Delivery = "at_least_once"
    offsets: Offsets = "automatic"
    backoff: Backoff = field(default_factory=Backoff)
    dead_letter: DeadLetter | None = None
    virtual_partitions: VirtualPartitions | None = None
    long_running: bool = False
    deserializer: Callable[[bytes], Any] | None = None
    initial_offset: Edge = "earliest"
    offset_out_of_range: Edge | None = None
    consume_timeout: float | None = None
    kafka: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How messages to people name this subscription."""
        what = ", ".join(self.topics) if self.topics else f"pattern {self.pattern!r}"
        return f"subscription to {what} ({getattr(self.handler, '__qualname__', self.handler)})"

    def matches(self, topic: str) -> bool:
        """Whether a topic belongs to this subscription (librdkafka's rule: a pattern matches from the start)."""
        if self.pattern is not None:
            return re.match(self.pattern, topic) is not None
        return topic in self.topics


_KINDS: Final[tuple[tuple[str, Any, str], ...]] = (
    ("group", (str, NoneType), "a group.id as text, or None for the App's"),
    ("max_wait", (int, float), "seconds"),
    ("consume_timeout", (int, float, NoneType), "seconds, or None for the setting's"),
    ("backoff", Backoff, "Backoff(initial=…, factor=…, maximum=…, jitter=…)"),
    ("dead_letter", (DeadLetter, NoneType), 'DeadLetter("topic", max_attempts=3), or None'),
    ("virtual_partitions", (VirtualPartitions, NoneType), "VirtualPartitions(by=…), or None"),
    ("long_running", bool, "True or False"),
    ("kafka", Mapping, "librdkafka's properties as a dictionary"),
)
"""What a value of the wrong kind would break only later, in a worker."""


def make_plan(**options: Any) -> Plan:
    """A checked Plan; raises ConfigurationError that names the option, what was given, and what would do."""
    plan = Plan(**options)
    if bool(plan.topics) == bool(plan.pattern):
        raise ConfigurationError(
            f'{plan.label}: expected one or more topics, or pattern=, and not both. Write subscribe("orders").'
        )
    for topic in plan.topics:
        if not isinstance(topic, str) or not re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", topic) or topic in {".", ".."}:
            raise ConfigurationError(
                f"{topic!r} is not a topic's name: 1 to 249 letters, digits, '.', '_' and '-'. A regular expression goes into pattern=."
            )
    if plan.pattern is not None:
        try:
            re.compile(plan.pattern)
        except re.error as error:
            raise ConfigurationError(f"{plan.label}: the pattern is no regular expression: {error}.") from None
    for name, choices in (
        ("delivery", get_args(Delivery)),
        ("offsets", get_args(Offsets)),
        ("initial_offset", get_args(Edge)),
    ):
        if getattr(plan, name) not in choices:
            raise ConfigurationError(
                f"{plan.label}: {name}: expected one of {', '.join(choices)}; got {getattr(plan, name)!r}."
            )
    if plan.offset_out_of_range not in (None, "earliest", "latest"):
        raise ConfigurationError(
            f"{plan.label}: offset_out_of_range: expected earliest, latest or None (pause and say so); got {plan.offset_out_of_range!r}."
        )
    if (
        isinstance(plan.max_messages, bool)
        or not isinstance(plan.max_messages, int)
        or not 1 <= plan.max_messages <= 1_000_000
    ):
        raise ConfigurationError(f"{plan.label}: max_messages: expected 1 to 1000000, got {plan.max_messages!r}.")
    for name, kinds, what in _KINDS:
        if not isinstance(getattr(plan, name), kinds):
            raise ConfigurationError(f"{plan.label}: {name}: expected {what}; got {getattr(plan, name)!r}.")
    if plan.deserializer is not None and not callable(plan.deserializer):
        raise ConfigurationError(
            f"{plan.label}: deserializer: expected a function of bytes, or None; got {plan.deserializer!r}."
        )
    if not plan.max_wait >= 0:
        raise ConfigurationError(f"{plan.label}: max_wait: expected seconds, 0 or more, got {plan.max_wait!r}.")
    if plan.consume_timeout is not None and not plan.consume_timeout > 0:
        raise ConfigurationError(
            f"{plan.label}: consume_timeout: expected seconds above 0, or None for the setting's, got {plan.consume_timeout!r}."
        )
    if plan.delivery == "exactly_once":
        raise NotYet(
            f'{plan.label}: delivery="exactly_once" is not there yet. Use at_least_once with an idempotent handler.'
        )
    if plan.virtual_partitions is not None:
        raise NotYet(
            f"{plan.label}: virtual_partitions= and concurrency_key= are not there yet. Leave them out: order holds per partition."
        )
    return plan
