"""Subscriptions that only some workers consume: which, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from swarm import App
from swarm.config import Settings
from swarm.errors import ConfigurationError
from swarm.loading import app_problems
from swarm.selection import missing_workers, placed


def handler(messages: Any) -> None:
    """Not run."""


@pytest.fixture
def app() -> App:
    """Orders everywhere, clicks on two workers, and a group of its own on the last."""
    app = App("shop")
    app.subscribe("orders")(handler)
    app.subscribe("clicks", workers=[0, 2])(handler)
    app.subscribe("orders", group="billing", workers=range(2, 3))(handler)
    return app


def test_a_worker_consumes_what_is_placed_on_it_and_what_is_placed_nowhere(app: App) -> None:
    """In a group of which it has nothing it is no member."""
    topics = [
        {group: [topic for plan in plans for topic in plan.topics] for group, plans in placed(app.groups(), n).items()}
        for n in range(3)
    ]

    assert topics == [
        {"shop": ["orders", "clicks"]},
        {"shop": ["orders"]},
        {"shop": ["orders", "clicks"], "billing": ["orders"]},
    ]


@pytest.mark.parametrize(("count", "problems"), [(3, 0), (2, 2)])
def test_workers_that_there_are_not_are_refused_before_the_fork(app: App, count: int, problems: int) -> None:
    """Each with the subscription and with what would do."""
    settings = Settings.model_validate({"swarm": {"workers": count}})

    said = app_problems(app, None, settings)

    assert len(said) == problems == len(missing_workers(app.groups(), count))
    for where, what, fix in said:
        assert where.startswith("subscription to ")
        assert "worker 2, and there are 2 workers" in what
        assert fix == "Set swarm.workers to 3 or more, or place it elsewhere."


@pytest.mark.parametrize("workers", [[], [0, 0], [-1], [256], [True], ["0"], 0, "01", [1.0]])
def test_an_index_that_is_none_is_refused_where_it_is_written(workers: Any) -> None:
    """With what was given."""
    with pytest.raises(ConfigurationError, match="workers: expected one or more indexes of workers"):
        App("shop").subscribe("orders", workers=workers)(handler)
