"""What holds in every scenario, whatever it is about: no error event that it did not announce, no invariant broken, and an end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from swarm.testing.broker import SwarmBroker
from swarm.testing.gathering import gather
from swarm.testing.invariants import INVARIANTS, Facts, Violation, check, report
from tests.support.daemon import Daemon
from tests.support.project import Sections, merged
from tests.support.recording import seen_in

_LIMIT = 120  # s, unless marked `limit(seconds)`

ExpectViolation = Callable[[str, str], None]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"limit(seconds): this scenario may take longer than {_LIMIT} s")


@pytest.fixture
def expect_violation() -> ExpectViolation:
    """`expect_violation(invariant, reason)`: the scenario breaks this one on purpose (a name of `swarm.testing.invariants`)."""

    def expect(invariant: str, reason: str) -> None:
        assert invariant in INVARIANTS, f"there is no invariant {invariant!r}, but: {', '.join(INVARIANTS)}"
        assert reason, "an exception from the rules needs its reason"
        expect.announced.add(invariant)  # type: ignore[attr-defined]

    expect.announced = set()  # type: ignore[attr-defined]
    return expect


@pytest.fixture
def swarm_project(
    swarm_project: Callable[..., Daemon], expect_violation: ExpectViolation
) -> Iterator[Callable[..., Daemon]]:
    """As everywhere (tests/conftest.py); at the end also no error that `Daemon.expect_errors` has not announced, and no violation
    of an invariant that `expect_violation` has not. For that a swarm logs at level debug, unless the scenario chose a level."""
    made: list[Daemon] = []

    def make(app: str, settings: Sections | None = None, **kwargs: Any) -> Daemon:
        made.append(swarm_project(app, merged({"log": {"level": "debug"}}, settings or {}), **kwargs))
        return made[-1]

    yield make

    for daemon in made:
        daemon.close()
        surprises = daemon.unannounced_errors()
        assert not surprises, (
            f"errors that the scenario did not announce with expect_errors(…):\n{surprises}\n{daemon.story()}"
        )
    violations = [each for each in judged(made) if each.invariant not in expect_violation.announced]  # type: ignore[attr-defined]
    assert not violations, f"invariants that did not hold:\n{report(violations)}"


def judged(daemons: Sequence[Daemon]) -> list[Violation]:
    """What the facts of these swarms contradict: all together where they shared a broker."""
    found: list[Violation] = []
    for bootstrap in {daemon.settings["kafka"]["bootstrap.servers"] for daemon in daemons}:
        together = [each for each in daemons if each.settings["kafka"]["bootstrap.servers"] == bootstrap]
        if any(each.settings["log"]["level"] != "debug" for each in together):
            continue  # the scenario wants it otherwise
        facts = gather_facts(together, bootstrap)
        found += check(replace(facts, outputs=recorded(together, facts)))
    return found


def gather_facts(daemons: Sequence[Daemon], bootstrap: str) -> Facts:
    """Of swarms on one broker."""
    isolation = {each.settings["kafka"].get("isolation.level", "read_committed") for each in daemons}
    return gather(
        {each.folder.name: each.events() for each in daemons},
        SwarmBroker(bootstrap),
        committed_only=isolation == {"read_committed"},
    )


def recorded(daemons: Sequence[Daemon], facts: Facts) -> dict[str, list[tuple[str, int, int]]]:
    """What handlers saw by their own word, where they record it (`tests.support.recording`): nothing else may be said to be done.

    By group, for those at-least-once groups all of whose topics are recorded.
    """
    seen = {place for each in daemons for place in seen_in(each.folder)}
    topics = {topic for topic, _, _ in seen}
    found = {}
    for event in facts.events:
        if (
            event["event"] == "subscribed"
            and event["delivery"] == "at_least_once"
            and topics.issuperset(event["topics"])
        ):
            found[event["group"]] = sorted(seen)
    return found


@pytest.fixture(autouse=True)
def _limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ends a scenario that hangs, with the traceback of where it does."""
    marker = request.node.get_closest_marker("limit")
    seconds = marker.args[0] if marker else _LIMIT

    def overdue(*_: object) -> None:
        pytest.fail(f"the scenario is not over after {seconds} s")

    before = signal.signal(signal.SIGALRM, overdue)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
