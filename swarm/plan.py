"""What an application asked for, as values: one `Plan` per subscription. Knows no Kafka client and runs nothing."""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from types import NoneType
from typing import Any, Final, Literal, get_args

from swarm.errors import ConfigurationError

Delivery = Literal["at_least_once", "at_most_once", "exactly_once"]
Offsets = Literal["automatic", "manual"]
Edge = Literal["earliest", "latest"]
Decision = Literal["retry", "dead_letter", "skip"]


def _plain(value: Any) -> bool:
    """Whether it can be called and answers at once, as a coroutine function does not."""
    return callable(value) and not inspect.iscoroutinefunction(value)


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
    """Where a message goes that has failed `max_attempts` times (1 or more). The topic must exist or be auto-created.

    decide: called as `decide(error, attempt)` after each failed run, in its processing thread, and answers `retry` (after the
    backoff), `dead_letter` or `skip` (an event says so; the message is done), or None: what `max_attempts` says. Where a whole
    batch failed, the failing message is looked for first, and asked about alone. One that raises decides nothing (DeciderFailed).
    """

    topic: str
    max_attempts: int = 3
    decide: Callable[[BaseException, int], Decision | None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.max_attempts, int) or self.max_attempts < 1:
            raise ConfigurationError(f"DeadLetter.max_attempts: expected 1 or more, got {self.max_attempts!r}.")
        if not self.topic:
            raise ConfigurationError("DeadLetter.topic: expected a topic's name, got an empty one.")
        if self.decide is not None and not _plain(self.decide):
            raise ConfigurationError(
                f"DeadLetter.decide: expected a plain function of (error, attempt), or None; got {self.decide!r}."
            )


def by_key(message: Any) -> Any:
    """The message's key: what `concurrency_key="key"` stands for."""
    return message.key


@dataclass(frozen=True, slots=True)
class VirtualPartitions:
    """A batch runs as several slices at once; messages for which `by(message)` is equal are in one slice, in their order.

    by: the string "key", or a function of a message whose answers can be hashed. One that raises puts the batch into one slice.
    maximum: slices at most, 1 to 256 (None: as many as processing threads, `worker.concurrency`).
    """

    by: Callable[[Any], Any] | Literal["key"] = "key"
    maximum: int | None = None

    def __post_init__(self) -> None:
        if self.by == "key":
            object.__setattr__(self, "by", by_key)
        elif not _plain(self.by):
            raise ConfigurationError(
                f'VirtualPartitions.by: expected "key" or a plain function of a message, got {self.by!r}.'
            )
        if self.maximum is not None and (type(self.maximum) is not int or not 1 <= self.maximum <= 256):
            raise ConfigurationError(
                f"VirtualPartitions.maximum: expected 1 to 256, or None for the processing threads; got {self.maximum!r}."
            )


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `messages` in `seconds`, for one subscription in one worker: N workers together reach N times as much.

    What was not used may be used at once later, up to `messages`; a batch is cut to what is left.
    """

    messages: int
    seconds: float = 1.0

    def __post_init__(self) -> None:
        numbers = all(
            isinstance(value, (int, float)) and math.isfinite(value) for value in (self.messages, self.seconds)
        )
        if not numbers or not self.messages >= 1 or not self.seconds > 0:
            raise ConfigurationError(f"{self}: expected 1 message or more, in more than 0 seconds.")


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
    transaction_partitions: int = 1
    """Of how many partitions the runs may share a transaction."""
    offsets: Offsets = "automatic"
    backoff: Backoff = field(default_factory=Backoff)
    dead_letter: DeadLetter | None = None
    virtual_partitions: VirtualPartitions | None = None
    long_running: bool = False
    deserializer: Callable[[bytes], Any] | None = None
    initial_offset: Edge = "earliest"
    offset_out_of_range: Edge | None = None
    consume_timeout: float | None = None
    rate_limit: RateLimit | None = None
    expires_after: float | None = None
    not_before: float | None = None
    filter: Callable[[Any], Any] | None = None
    workers: tuple[int, ...] | None = None
    """Only these workers consume it; None: all."""
    partitions: Mapping[int, tuple[int, ...]] | None = None
    """Which partitions of its topics which worker takes, without asking the group; None: the group shares them out."""
    kafka: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exactly_once(self) -> bool:
        """Whether each run is a transaction."""
        return self.delivery == "exactly_once"

    @property
    def is_direct(self) -> bool:
        """Whether its partitions are bound to workers, so that nobody is a member of the group for it."""
        return self.partitions is not None

    def assigned_to(self, index: int) -> list[tuple[str, int]]:
        """The partitions that are bound to this worker."""
        bound = self.partitions or {}
        return [(topic, partition) for topic in self.topics for partition in bound.get(index, ())]

    @property
    def controls_flow(self) -> bool:
        """Whether some messages are to wait or to be skipped."""
        return (
            self.rate_limit is not None
            or self.expires_after is not None
            or self.not_before is not None
            or self.filter is not None
        )

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
    ("rate_limit", (RateLimit, NoneType), "RateLimit(messages, seconds=1.0), or None"),
    ("expires_after", (int, float, NoneType), "seconds, or None"),
    ("not_before", (int, float, NoneType), "seconds, or None"),
    ("kafka", Mapping, "librdkafka's properties as a dictionary"),
)
"""What a value of the wrong kind would break only later, in a worker."""


def make_plan(**options: Any) -> Plan:
    """A checked Plan; raises ConfigurationError that names the option, what was given, and what would do."""
    workers, partitions = options.get("workers"), options.get("partitions")
    if isinstance(workers, (list, tuple, set, frozenset, range)):
        options["workers"] = tuple(workers)
    if isinstance(partitions, Mapping):
        options["partitions"] = {
            index: tuple(each) if isinstance(each, (list, tuple, set, frozenset, range)) else each
            for index, each in partitions.items()
        }
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
    if type(plan.transaction_partitions) is not int or not 1 <= plan.transaction_partitions <= 1000:
        raise ConfigurationError(
            f"{plan.label}: transaction_partitions: expected 1 to 1000, got {plan.transaction_partitions!r}."
        )
    for name, kinds, what in _KINDS:
        if not isinstance(getattr(plan, name), kinds):
            raise ConfigurationError(f"{plan.label}: {name}: expected {what}; got {getattr(plan, name)!r}.")
    for name, of in (("deserializer", "bytes"), ("filter", "a message")):
        value = getattr(plan, name)
        if value is not None and not _plain(value):
            raise ConfigurationError(
                f"{plan.label}: {name}: expected a plain function of {of}, or None; got {value!r}."
            )
    if plan.workers is not None and not (
        isinstance(plan.workers, tuple)
        and plan.workers
        and all(type(index) is int and 0 <= index <= 255 for index in plan.workers)
        and len(set(plan.workers)) == len(plan.workers)
    ):
        raise ConfigurationError(
            f"{plan.label}: workers: expected one or more indexes of workers from 0 to 255, such as [0, 1], or None for all; got {workers!r}."
        )
    if plan.partitions is not None:
        _check_map(plan, partitions)
        plan = replace(plan, workers=tuple(sorted(plan.partitions)))
    if not plan.max_wait >= 0:
        raise ConfigurationError(f"{plan.label}: max_wait: expected seconds, 0 or more, got {plan.max_wait!r}.")
    if plan.consume_timeout is not None and not plan.consume_timeout > 0:
        raise ConfigurationError(
            f"{plan.label}: consume_timeout: expected seconds above 0, or None for the setting's, got {plan.consume_timeout!r}."
        )
    for name in ("expires_after", "not_before"):
        seconds = getattr(plan, name)
        if seconds is not None and not seconds > 0:
            raise ConfigurationError(
                f"{plan.label}: {name}: expected seconds above 0, or None for not at all, got {seconds!r}."
            )
    if plan.expires_after is not None and plan.not_before is not None and plan.expires_after <= plan.not_before:
        raise ConfigurationError(
            f"{plan.label}: expires_after ({plan.expires_after}) is not longer than not_before ({plan.not_before}), so every message "
            "would expire before it may be handled. Make it longer, or leave one of them out."
        )
    if plan.exactly_once and plan.virtual_partitions is not None:
        raise ConfigurationError(
            f'{plan.label}: delivery="exactly_once" and virtual partitions exclude each other: a transaction belongs to one thread. '
            "Leave out virtual_partitions= (or concurrency_key=), or use at_least_once."
        )
    if plan.transaction_partitions > 1 and not plan.exactly_once:
        raise ConfigurationError(
            f"{plan.label}: transaction_partitions ({plan.transaction_partitions}) is about the transactions of "
            f'delivery="exactly_once", and this is {plan.delivery}. Leave it out, or set the delivery.'
        )
    return plan


def _check_map(plan: Plan, given: Any) -> None:
    """Raises ConfigurationError for a `partitions=` that cannot be."""
    bound = plan.partitions
    if plan.pattern is not None:
        raise ConfigurationError(
            f"{plan.label}: partitions: it goes with topics by name; which topics a pattern will match is not known. "
            'Write subscribe("orders", partitions={0: [0, 1]}).'
        )
    if plan.workers is not None:
        raise ConfigurationError(
            f"{plan.label}: partitions: it names the workers already. Leave out workers=, or partitions=."
        )
    if not (
        isinstance(bound, Mapping)
        and bound
        and all(type(index) is int and 0 <= index <= 255 for index in bound)
        and all(isinstance(each, tuple) and each for each in bound.values())
        and all(type(partition) is int and partition >= 0 for each in bound.values() for partition in each)
    ):
        raise ConfigurationError(
            f"{plan.label}: partitions: expected the partitions of each worker by its index, such as {{0: [0, 1], 1: [2, 3]}}, "
            f"or None for those that the group shares out; got {given!r}."
        )
    twice = sorted(partition for partition, times in Counter(chain(*bound.values())).items() if times > 1)
    if twice:
        raise ConfigurationError(
            f"{plan.label}: partitions: partition {twice[0]} is bound twice. Two workers would both consume it, each message twice."
        )


def job_limit(plan: Plan, setting: float) -> float:
    """Seconds that one job of a subscription may run; 0.0: no limit. setting: `supervision.consume_timeout`."""
    if plan.consume_timeout is not None:
        return plan.consume_timeout
    return 0.0 if plan.long_running else setting


def longest_job(plans: Sequence[Plan], setting: float) -> float:
    """The longest of their limits; 0.0 where one has none."""
    limits = [job_limit(plan, setting) for plan in plans]
    return 0.0 if 0.0 in limits else max(limits, default=0.0)


LONGEST_TRANSACTION: Final = 900.0
"""Seconds: `transaction.max.timeout.ms` of a broker with stock settings."""


def transaction_timeout(limit: float) -> float:
    """Seconds for `transaction.timeout.ms`, given the longest time limit of a job (s; 0.0: none): long enough for it, within what
    brokers allow."""
    return LONGEST_TRANSACTION if limit <= 0 else min(max(60.0, limit + 10.0), LONGEST_TRANSACTION)
