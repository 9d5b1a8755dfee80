"""Rules across fields."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.config import Settings
from swarm.config.checks import broken_rules


def _broken(tree: dict[str, Any]) -> list[str]:
    return [problem.where for problem in broken_rules(Settings.model_validate(tree), lambda where: "swarm.toml")]


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"supervision": {"memory_limit": "2GiB", "memory_kill": "1GiB"}}, "supervision.memory_kill"),
        ({"supervision": {"restart_backoff": {"initial": 60}}}, "supervision.restart_backoff.initial"),
        ({"kafka": {"session.timeout.ms": "60000", "max.poll.interval.ms": 30000}}, "kafka.session.timeout.ms"),
        ({"kafka": {"heartbeat.interval.ms": 6000, "session.timeout.ms": 6000}}, "kafka.heartbeat.interval.ms"),
        ({"kafka": {"message.max.bytes": 2000, "fetch.max.bytes": 1000}}, "kafka.message.max.bytes"),
        ({"kafka": {"group.protocol": "consumer", "session.timeout.ms": 6000}}, "kafka.session.timeout.ms"),
    ],
)
def test_a_combination_that_cannot_work_is_one_problem(tree: dict[str, Any], where: str) -> None:
    """It belongs to the setting that is best changed."""
    assert _broken(tree) == [where]


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"supervision": {"memory_limit": "2GiB", "memory_kill": 0}},
        {"supervision": {"memory_limit": 0, "memory_kill": "1GiB"}},
        {"supervision": {"memory_limit": "1GiB", "memory_kill": "1GiB"}},
        {"kafka": {"session.timeout.ms": 6000, "max.poll.interval.ms": 6000}},
        {"kafka": {"session.timeout.ms": 600000}},
        {"kafka": {"session.timeout.ms": "x", "max.poll.interval.ms": 1}},
        {"kafka": {"group.protocol": "classic", "session.timeout.ms": 6000}},
    ],
)
def test_a_combination_that_can_work_passes(tree: dict[str, Any]) -> None:
    """Limits may be off or equal, defaults are not second-guessed, and what is no number is librdkafka's to refuse."""
    assert _broken(tree) == []
