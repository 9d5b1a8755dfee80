"""What is left of an application where one place is isolated."""

from __future__ import annotations

from swarm.config import Settings
from swarm.isolation import company, isolated, place, settings, words
from swarm.pauses import Pauses
from swarm.plan import Plan, VirtualPartitions
from swarm.selection import choose, selection_problems


def plan(*topics: str, pattern: str | None = None, **more: object) -> Plan:
    return Plan(lambda messages: None, topics, pattern, **more)  # type: ignore[arg-type]


GROUPS = {
    "shop": [
        plan("orders", "mails", max_messages=500, virtual_partitions=VirtualPartitions(), workers=(2,)),
        plan("clicks"),
    ],
    "audit": [plan(pattern="ord.*", max_wait=5.0)],
    "other": [plan("clicks")],
}


def test_only_the_subscriptions_to_the_topic_are_left_one_message_at_a_time() -> None:
    """In every group that consumes it, of this topic alone, whole, on any worker."""
    found = isolated(GROUPS, "orders/3")

    assert set(found) == {"shop", "audit"}
    for [one] in found.values():
        assert (one.topics, one.pattern, one.max_messages, one.max_wait) == (("orders",), None, 1, 0.0)
        assert (one.virtual_partitions, one.workers) == (None, None)


def test_other_partitions_stand_paused() -> None:
    """For every group; a topic without a partition pauses nothing."""
    pauses = Pauses(words("orders/3"))

    assert [pauses.holds("shop", "orders", number) for number in (2, 3, 4)] == [True, False, True]
    assert words("orders") == words(None) == []
    assert place("a.b-c/12") == ("a.b-c", 12)


def test_it_is_chosen_by_a_setting_and_a_strange_topic_is_a_problem() -> None:
    """So a reload keeps it."""
    section = Settings.model_validate({"swarm": {"isolate": "orders/3"}}).swarm
    strange = Settings.model_validate({"swarm": {"isolate": "sales"}}).swarm

    assert set(choose(GROUPS, section)) == {"shop", "audit"}
    assert selection_problems(GROUPS, section) == []
    [(where, what, fix)] = selection_problems(GROUPS, strange)
    assert (where, what) == ("swarm.isolate", "nothing in the app consumes 'sales'")
    assert "orders" in fix
    assert settings("orders/3")[0] == "swarm.isolate=orders/3"


def test_it_is_refused_while_the_group_has_members() -> None:
    """With what would happen, and the way out."""
    assert company({"shop": 0}, "orders/3", "swarmctl stop") == ""
    text = company({"shop": 4, "audit": 1}, "orders/3", "swarmctl stop")

    assert text.startswith("--isolate orders/3: group audit has 1 member, shop has 4 members already.")
    assert "--join" in text
    assert len(text.splitlines()) <= 6
