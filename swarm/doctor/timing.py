"""Rules about limits of time: whether they are in order with one another, and with what batches really take. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from swarm.doctor.facts import Batches, Facts, Group, Subscription, listed
from swarm.doctor.finding import Found, Rule

GOODBYES: Final = 5.0
"""Seconds that a stop takes beyond `shutdown_timeout`: killing, incidents, leaving."""
BEFORE_THE_LIMIT: Final = 10.0
"""Seconds before `max.poll.interval.ms` at which a rebalance no longer waits for a job (`swarm.group`)."""
NEAR: Final = 0.8
"""Share of a limit from which on it is near."""
HANGS: Final = 20.0
"""So many times as long as the longest before: that is no batch any more that takes long."""
SEVERAL: Final = 10
"""Batches from which on it is known how long they take."""
ENOUGH: Final = 100
"""Messages below which their mean time says little."""


def _heartbeat(facts: Facts) -> Iterator[Found]:
    for group in facts.groups:
        beat, session = group.seconds("heartbeat.interval.ms"), group.seconds("session.timeout.ms")
        if not group.new_protocol and beat > session / 3:
            yield Found(
                f"heartbeats of the group {group.name} are too rare for its session",
                f"One comes each {beat:g} s, and the broker gives a member up after {session:g} s without: one or two that are "
                "late, and a healthy worker loses its partitions.",
                "Set heartbeat.interval.ms to a third of session.timeout.ms or less.",
                f"{group.said('heartbeat.interval.ms')}; {group.said('session.timeout.ms')}",
            )


def _session_outside(facts: Facts) -> Iterator[Found]:
    assert facts.cluster is not None
    low, high = (facts.cluster.number(f"group.{edge}.session.timeout.ms") for edge in ("min", "max"))
    for group in facts.groups:
        session = group.seconds("session.timeout.ms")
        if group.new_protocol or low is None or high is None or low / 1000 <= session <= high / 1000:
            continue
        yield Found(
            f"the brokers do not accept the session timeout of the group {group.name}",
            "Its members are refused (INVALID_SESSION_TIMEOUT) each time they try to join.",
            f"Set session.timeout.ms to {low} to {high}, or change the brokers' limits.",
            f"{group.said('session.timeout.ms')}; the brokers' group.min.session.timeout.ms = {low}, "
            f"group.max.session.timeout.ms = {high}",
        )


def _job_limit(facts: Facts) -> Iterator[Found]:
    for group in facts.groups:
        interval = group.seconds("max.poll.interval.ms")
        over = [each for each in group.subscriptions if not each.long_running and each.limit > interval]
        if over:
            yield Found(
                f"jobs of the group {group.name} may run longer than its rebalances wait for them",
                f"A rebalance waits for a job until {BEFORE_THE_LIMIT:g} s before max.poll.interval.ms; what takes longer is "
                "given up, and whoever gets the partition does it again.",
                "Lower consume_timeout, raise max.poll.interval.ms above it, or use long_running=True, which rebalances do not "
                "wait for.",
                f"{group.said('max.poll.interval.ms')}; {listed(_limit(facts, each) for each in over)}",
            )


def _limit(facts: Facts, subscription: Subscription) -> str:
    if subscription.limit == facts.settings.supervision.consume_timeout:
        return facts.said("supervision.consume_timeout")
    return f"consume_timeout = {subscription.limit:g} s ({subscription.label})"


def _poll_timeout(facts: Facts) -> Iterator[Found]:
    timeout = facts.settings.supervision.poll_timeout
    for group in facts.groups:
        if timeout > group.seconds("max.poll.interval.ms"):
            yield Found(
                f"the group {group.name} gives up a worker that does not poll before the supervisor does",
                "Its partitions move, and come back when the supervisor replaces it: two rebalances, and what it had in hand is "
                "done twice.",
                "Set supervision.poll_timeout below max.poll.interval.ms.",
                f"{facts.said('supervision.poll_timeout')}; {group.said('max.poll.interval.ms')}",
            )


def _join_timeout(facts: Facts) -> Iterator[Found]:
    timeout = facts.settings.supervision.join_timeout
    slow = [group for group in facts.groups if 0 < timeout <= group.seconds("max.poll.interval.ms")]
    if slow:
        yield Found(
            "a worker is replaced before the rebalance that it waits for may be over",
            "A rebalance may lawfully wait for a member for max.poll.interval.ms; a worker that joins meanwhile is called stuck.",
            "Set supervision.join_timeout above max.poll.interval.ms; twice that is usual.",
            f"{facts.said('supervision.join_timeout')}; {listed(group.said('max.poll.interval.ms') for group in slow)}",
        )


def _stop_limit(facts: Facts) -> Iterator[Found]:
    assert facts.stop_limit is not None
    limit, timeout = facts.stop_limit, facts.settings.swarm.shutdown_timeout
    if limit.seconds < timeout + GOODBYES:
        yield Found(
            f"whoever runs the daemon kills it {limit.seconds:g} s after TERM, and its workers may take {timeout:g} s",
            "A stop that needs its time ends by SIGKILL: what was in hand is not committed and is processed again.",
            f"Set {limit.name} to {timeout + 20:g} s, or swarm.shutdown_timeout to "
            f"{max(1.0, limit.seconds - GOODBYES):g} s or less.",
            f"{limit.name} = {limit.seconds:g} s ({limit.source}); {facts.said('swarm.shutdown_timeout')}",
        )


# -- what batches really take ----------------------------------------------------------------------------------------


def _affected(facts: Facts, seen: Batches) -> Iterator[tuple[Group, Subscription]]:
    """Subscriptions that these batches may be of."""
    for group in facts.groups:
        for each in group.subscriptions:
            if not seen.where or seen.where in each.topics:
                yield group, each


def _most_patient(facts: Facts, seen: Batches) -> list[tuple[Group, Subscription]]:
    """Whose limit these batches certainly came near: where it is not known which subscription they were of, only the longest counts."""
    affected = list(_affected(facts, seen))
    if seen.where or len(affected) < 2:
        return affected
    limits = [_allowed(facts, *each)[0] or float("inf") for each in affected]
    return [affected[limits.index(max(limits))]]


def _shutdown(facts: Facts) -> Iterator[Found]:
    timeout = facts.settings.swarm.shutdown_timeout
    for seen in facts.batches:
        if seen.longest > timeout and not _hangs(facts, seen):  # that has a rule of its own
            yield Found(
                f"batches{_of(seen)} take longer than a stop waits for them",
                "A stop, a reload or a replacement ends them by force: they are not committed and run again from their beginning.",
                "Raise swarm.shutdown_timeout above the longest batch (and the unit's or pod's stop timeout above that), or lower "
                "max_messages.",
                f"the longest took {seen.longest:.3g} s ({seen.source}); {facts.said('swarm.shutdown_timeout')}",
            )


def _hangs(facts: Facts, seen: Batches) -> bool:
    """Whether it is a job in hand that nothing before it was like: it does not show how long batches take."""
    before = [each.longest for each in facts.batches if each is not seen and each.count >= SEVERAL]
    return not seen.messages and bool(before) and seen.longest > HANGS * max(before)


def _near_the_limit(facts: Facts) -> Iterator[Found]:
    for seen in facts.batches:
        for group, each in _most_patient(facts, seen):
            allowed, limit = _allowed(facts, group, each)
            if allowed and seen.longest > NEAR * allowed:
                yield Found(
                    f"batches of the {each.label} come near the limit for a job",
                    f"The longest took {seen.longest:.3g} s of {allowed:g} s. What takes longer is ended: the worker is replaced, or "
                    "the rebalance gives it up, and its messages run again.",
                    "Lower max_messages, make the handler faster, or raise the limit (consume_timeout, max.poll.interval.ms).",
                    f"longest batch {seen.longest:.3g} s ({seen.source}); {limit}",
                )


def _too_large(facts: Facts) -> Iterator[Found]:
    for seen in facts.batches:
        affected = list(_affected(facts, seen))
        if seen.messages < ENOUGH or (not seen.where and len(affected) != 1):
            continue  # a mean over several handlers is nobody's
        for group, each in affected:
            allowed, limit = _allowed(facts, group, each)
            full = each.max_messages * seen.each
            if allowed and full > allowed and seen.longest <= NEAR * allowed:
                yield Found(
                    f"a full batch of the {each.label} would take {full:.3g} s and may take {allowed:g} s",
                    "Batches grow under load up to max_messages; then they are ended before they are done, run again, and the lag "
                    "grows further.",
                    f"Set max_messages to {max(1, int(NEAR * allowed / seen.each))} or less, or raise the limit.",
                    f"max_messages = {each.max_messages} x {seen.each:.3g} s for a message ({seen.source}); {limit}",
                )


def _allowed(facts: Facts, group: Group, each: Subscription) -> tuple[float, str]:
    """Seconds that a job may take, 0.0 without limit, and which limit that is."""
    if each.long_running:
        return each.limit, _limit(facts, each)
    interval = group.seconds("max.poll.interval.ms") - BEFORE_THE_LIMIT
    if 0 < each.limit <= interval:
        return each.limit, _limit(facts, each)
    return max(0.0, interval), group.said("max.poll.interval.ms")


def _of(seen: Batches) -> str:
    return f" of {seen.where}" if seen.where else ""


RULES: Final = (
    Rule(
        "heartbeat_too_rare",
        "warning",
        "`heartbeat.interval.ms` above a third of `session.timeout.ms`",
        _heartbeat,
        ("app",),
    ),
    Rule(
        "session_refused",
        "error",
        "a `session.timeout.ms` that the brokers do not accept",
        _session_outside,
        ("app", "broker config"),
    ),
    Rule(
        "job_limit_above_poll_interval",
        "warning",
        "a `consume_timeout` above `max.poll.interval.ms`",
        _job_limit,
        ("app",),
    ),
    Rule(
        "poll_timeout_above_poll_interval",
        "warning",
        "`supervision.poll_timeout` above `max.poll.interval.ms`",
        _poll_timeout,
        ("app",),
    ),
    Rule(
        "join_timeout_below_poll_interval",
        "warning",
        "`supervision.join_timeout` not above `max.poll.interval.ms`",
        _join_timeout,
        ("app",),
    ),
    Rule(
        "stop_limit_too_short",
        "warning",
        "a unit's `TimeoutStopSec` or a pod's `terminationGracePeriodSeconds` too short for `swarm.shutdown_timeout`",
        _stop_limit,
        ("stop limit",),
    ),
    Rule(
        "batches_outlast_shutdown",
        "warning",
        "batches that really took longer than `swarm.shutdown_timeout`",
        _shutdown,
        ("batches",),
    ),
    Rule(
        "batches_near_limit",
        "warning",
        "batches that really came near `consume_timeout` or `max.poll.interval.ms`",
        _near_the_limit,
        ("app", "batches"),
    ),
    Rule(
        "batches_too_large",
        "warning",
        "`max_messages` times the real time for a message above the limit of a job",
        _too_large,
        ("app", "batches"),
    ),
)
