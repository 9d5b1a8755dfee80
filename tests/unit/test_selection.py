"""Which groups and topics are consumed, by name and by pattern, and what is said about names that match nothing."""

from __future__ import annotations

from typing import Any

import pytest

from swarm import App
from swarm.config.schema import SwarmSection
from swarm.loading import app_problems
from swarm.selection import choose, chosen_groups, selection_problems


@pytest.fixture
def app() -> App:
    """Two groups; three subscriptions."""
    app = App("shop")

    def handler(messages: Any) -> None:
        """Not run."""

    app.subscribe("orders", "clicks")(handler)
    app.subscribe("orders", group="billing")(handler)
    app.subscribe(pattern="audit-.*", group="billing")(handler)
    return app


def settings(**selection: list[str]) -> SwarmSection:
    return SwarmSection(**selection)  # type: ignore[arg-type]  # as a settings file gives them


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        ({}, {"shop": ["orders", "clicks"], "billing": ["orders", "audit-.*"]}),
        ({"include_groups": ["shop"]}, {"shop": ["orders", "clicks"]}),
        ({"exclude_groups": ["b*"]}, {"shop": ["orders", "clicks"]}),
        ({"include_topics": ["orders"]}, {"shop": ["orders"], "billing": ["orders"]}),
        ({"exclude_topics": ["orders"]}, {"shop": ["clicks"], "billing": ["audit-.*"]}),
        ({"include_topics": ["audit-.*"]}, {"billing": ["audit-.*"]}),
        ({"include_groups": ["billing"], "exclude_topics": ["audit*"]}, {"billing": ["orders"]}),
        ({"include_topics": ["*s"], "exclude_topics": ["click?"]}, {"shop": ["orders"], "billing": ["orders"]}),
    ],
)
def test_what_is_included_and_not_excluded_is_left(
    app: App, selection: dict[str, list[str]], left: dict[str, list[str]]
) -> None:
    """A subscription keeps its other topics; a group without any is not joined; the app itself stays as it is."""
    found = chosen_groups(app, settings(**selection))

    topics = {
        group: [name for plan in plans for name in plan.topics or (plan.pattern,)] for group, plans in found.items()
    }
    assert topics == left
    assert not selection_problems(app.groups(), settings(**selection))
    assert choose(app.groups(), settings()) == app.groups()


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (
            {"include_groups": ["shop", "bilin"]},
            "swarm.include_groups: the app has no groups bilin. It has billing, shop.",
        ),
        (
            {"exclude_topics": ["order"]},
            "swarm.exclude_topics: the app has no topics order. It has audit-.*, clicks, orders.",
        ),
        (
            {"exclude_topics": ["audit-eu"]},
            "swarm.exclude_topics: the app has no topics audit-eu. A topic of the subscription to pattern",
        ),
        (
            {"include_groups": ["shop"], "exclude_topics": ["orders", "clicks"]},
            "swarm.include_groups: nothing is left to consume of groups billing, shop with topics audit-.*, clicks, orders.",
        ),
    ],
)
def test_a_name_that_matches_nothing_and_a_selection_that_leaves_nothing_are_refused(
    app: App, selection: dict[str, list[str]], said: str
) -> None:
    """A slip would else be a swarm that consumes too much or idles."""
    [problem] = selection_problems(app.groups(), settings(**selection))

    assert "{}: {}. {}".format(*problem).startswith(said)
    assert all(problem)


def test_a_topic_that_is_left_out_and_caught_by_a_pattern_is_refused(app: App) -> None:
    """It would be consumed all the same, by another handler than its own."""
    app.subscribe("audit-eu")(lambda messages: None)
    assert not selection_problems(app.groups(), settings())
    assert not selection_problems(app.groups(), settings(exclude_topics=["audit*"]))

    [problem] = selection_problems(app.groups(), settings(exclude_topics=["audit-eu"]))

    assert problem[:2] == (
        "swarm.exclude_topics",
        "'audit-eu' is left out, and the subscription to pattern 'audit-.*' (app.<locals>.handler) matches it",
    )


def test_a_selection_is_checked_with_the_app() -> None:
    """`check` and `start` refuse it; an app without any subscription is refused for that alone."""
    from swarm.config import Settings

    assert len(app_problems(App("empty"), None, Settings(swarm=settings(include_groups=[])))) == 1
