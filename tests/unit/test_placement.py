"""Subscriptions that only some workers consume: which, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from swarm import App
from swarm.config import Settings
from swarm.errors import ConfigurationError
from swarm.loading import app_problems
from swarm.membership import group_properties
from swarm.ownership import Census, unowned
from swarm.selection import bound, missing_workers, placed, rebound


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


@pytest.fixture
def bound_app() -> App:
    """Partitions of two topics on two workers, in a group of their own."""
    app = App("shop")
    app.subscribe("orders", "refunds", partitions={0: [0, 1], 2: range(2, 4)})(handler)
    app.subscribe("clicks", group="clicks")(handler)
    return app


def test_bound_partitions_belong_to_one_worker_each_and_their_group_has_no_members(bound_app: App) -> None:
    """Nobody has a seat there, so nobody has an id; elsewhere everything is as ever."""
    groups = bound_app.groups()
    (plan,) = groups["shop"]
    ids = [
        group_properties(Settings(), group, groups[group], 0).get("group.instance.id") for group in ("shop", "clicks")
    ]

    assert [plan.assigned_to(index) for index in range(3)] == [
        [("orders", 0), ("orders", 1), ("refunds", 0), ("refunds", 1)],
        [],
        [("orders", 2), ("orders", 3), ("refunds", 2), ("refunds", 3)],
    ]
    assert [sorted(placed(groups, index)) for index in range(3)] == [["clicks", "shop"], ["clicks"], ["clicks", "shop"]]
    assert ids[0] is None
    assert str(ids[1]).endswith(".0")
    assert [beyond for _, beyond in missing_workers(groups, 2)] == [[2]]


@pytest.mark.parametrize(
    ("partitions", "what"),
    [
        ({}, "expected the partitions of each worker"),
        ({0: []}, "expected the partitions of each worker"),
        ({0: [-1]}, "expected the partitions of each worker"),
        ({0: [True]}, "expected the partitions of each worker"),
        ({"0": [1]}, "expected the partitions of each worker"),
        ({256: [1]}, "expected the partitions of each worker"),
        ({0: 1}, "expected the partitions of each worker"),
        ([[0, 1]], "expected the partitions of each worker"),
        ({0: [0, 1], 1: [1]}, "partition 1 is bound twice"),
        ({0: [2, 2]}, "partition 2 is bound twice"),
    ],
)
def test_a_map_that_cannot_be_is_refused_where_it_is_written(partitions: Any, what: str) -> None:
    """With what was given, or which partition."""
    with pytest.raises(ConfigurationError, match=what):
        App("shop").subscribe("orders", partitions=partitions)(handler)


def test_a_map_goes_with_topics_by_name_and_names_the_workers_itself() -> None:
    """Neither a pattern nor `workers=` beside it."""
    with pytest.raises(ConfigurationError, match="it goes with topics by name"):
        App("shop").subscribe(pattern="orders.*", partitions={0: [0]})(handler)
    with pytest.raises(ConfigurationError, match="it names the workers already"):
        App("shop").subscribe("orders", workers=[0], partitions={0: [0]})(handler)


def test_a_group_is_shared_out_or_bound_but_not_both(bound_app: App) -> None:
    """Nor bound where the supervisor does not know the map."""
    bound_app.subscribe("emails")(handler)
    settings = Settings.model_validate({"swarm": {"workers": 3, "preload": False}})

    said = app_problems(bound_app, None, settings)

    assert ["while group shop shares out those of the subscription to emails" in what for _, what, _ in said] == [
        False,
        True,
    ]
    assert said[0][2] == "Set swarm.preload to true, or leave out partitions=."


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ({}, {}, None),
        ({"shop": {"orders/0": 0}}, {"shop": {"orders/0": 0, "orders/1": 1}}, None),
        ({"shop": {"orders/0": 0, "orders/1": 1}}, {"shop": {"orders/0": 0}}, None),
        (
            {"shop": {"orders/0": 0}},
            {"shop": {"orders/0": 1}},
            "group shop: orders/0 is bound to worker 0, and would be to worker 1",
        ),
        ({}, {"shop": {"orders/0": 1}}, "group shop: its partitions would be bound to workers from now on"),
        ({"shop": {"orders/0": 1}}, {}, "group shop: its partitions would be shared out by the group from now on"),
    ],
)
def test_what_would_have_two_workers_on_one_partition_is_no_reload(
    before: dict[str, dict[str, int]], after: dict[str, dict[str, int]], why: str | None
) -> None:
    """New partitions may come and old ones go; none may move."""
    assert rebound(before, after) == why


def test_bound_partitions_are_known_by_group(bound_app: App) -> None:
    """What a reload compares."""
    found = bound(bound_app.groups())

    assert set(found) == {"shop"}
    assert found["shop"]["refunds/3"] == 2
    assert len(found["shop"]) == 8


def test_a_partition_that_the_map_forgets_has_no_owner(bound_app: App) -> None:
    """The topic has grown: nobody but the map gives it to anybody."""
    census = Census(True, {"orders": 6, "refunds": 4}, frozenset(), 0)

    assert unowned(census, bound_app.groups()["shop"]) == {"orders": [4, 5]}
