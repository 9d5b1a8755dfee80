"""Rules across fields: combinations that cannot work though each value alone could. Pure; reads no file and no machine.

A rule is named for what must hold. It says which settings it reads, so that it is not tried on one that is already known to be
wrong. Combinations that work but are unwise are `doctor`'s to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from swarm.config import units
from swarm.config.problems import Problem, shown
from swarm.config.schema import Settings


@dataclass(frozen=True, slots=True)
class Rule:
    """`find(settings)` gives (what, fix) where the rule is broken; the problem belongs to the first of `reads`."""

    reads: tuple[str, ...]
    find: Callable[[Settings], tuple[str, str] | None]


def broken_rules(
    settings: Settings, source: Callable[[str], str], known_wrong: Iterable[str] = ()
) -> Iterator[Problem]:
    """A Problem for each broken rule. source: where a setting came from. known_wrong: settings that were replaced by defaults."""
    skip = set(known_wrong)
    for rule in RULES:
        found = None if skip.intersection(rule.reads) else rule.find(settings)
        if found is not None:
            yield Problem(rule.reads[0], source(rule.reads[0]), *found)


def _kill_is_not_below_the_limit(settings: Settings) -> tuple[str, str] | None:
    limit, kill = settings.supervision.memory_limit, settings.supervision.memory_kill
    if isinstance(limit, int) and isinstance(kill, int) and 0 < kill < limit:
        return (
            f"{units.size_text(kill)} is below supervision.memory_limit ({units.size_text(limit)})",
            'Workers would be killed before they are drained; raise it, or set it to "auto" (125 % of the limit).',
        )
    return None


def _backoff_begins_below_its_maximum(settings: Settings) -> tuple[str, str] | None:
    backoff = settings.supervision.restart_backoff
    if backoff.initial > backoff.maximum:
        return (
            f"{units.time_text(backoff.initial)} is above maximum ({units.time_text(backoff.maximum)})",
            "The first delay cannot be longer than the longest; lower initial or raise maximum.",
        )
    return None


def _at_most(low: str, high: str, why: str, *, strictly: bool = False) -> Rule:
    """Property `low` must not be above `high`; tried only where both are set, as defaults may be chosen to fit."""

    def find(settings: Settings) -> tuple[str, str] | None:
        small, large = _integer(settings.kafka.get(low)), _integer(settings.kafka.get(high))
        if small is None or large is None or (small < large if strictly else small <= large):
            return None
        expected = f"less than {high}" if strictly else f"at most {high}"
        return f"expected {expected} ({large}), got {small}", f"{why} Lower it, or raise {high}."

    return Rule((f"kafka.{low}", f"kafka.{high}"), find)


def _refused_by_the_new_protocol(name: str) -> Rule:
    def find(settings: Settings) -> tuple[str, str] | None:
        protocol = settings.kafka.get("group.protocol")
        if name in settings.kafka and str(protocol).lower() == "consumer":
            return (
                f"cannot be set with group.protocol={shown(protocol)}",
                'With this protocol the broker decides it: remove it, or set group.protocol to "classic".',
            )
        return None

    return Rule((f"kafka.{name}", "kafka.group.protocol"), find)


def _integer(value: object) -> int | None:
    """Properties may be text; what is not a whole number is librdkafka's to refuse."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


RULES: Final = (
    Rule(("supervision.memory_kill", "supervision.memory_limit"), _kill_is_not_below_the_limit),
    Rule(
        ("supervision.restart_backoff.initial", "supervision.restart_backoff.maximum"),
        _backoff_begins_below_its_maximum,
    ),
    _at_most("session.timeout.ms", "max.poll.interval.ms", "librdkafka makes no client otherwise."),
    _at_most(
        "heartbeat.interval.ms",
        "session.timeout.ms",
        "The session would end before the next heartbeat; a third of it is usual.",
        strictly=True,
    ),
    _at_most("message.max.bytes", "fetch.max.bytes", "librdkafka makes no client otherwise."),
    _refused_by_the_new_protocol("session.timeout.ms"),
    _refused_by_the_new_protocol("heartbeat.interval.ms"),
    _refused_by_the_new_protocol("partition.assignment.strategy"),
)
