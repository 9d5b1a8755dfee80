"""Which partitions nobody has, and when that is an alarm."""

from __future__ import annotations

from swarm.ownership import MOST, Census, Unowned, unowned
from swarm.plan import Plan, make_plan


def plan(*topics: str, pattern: str | None = None) -> Plan:
    return make_plan(handler=lambda messages: None, topics=topics, pattern=pattern)


def test_what_no_member_has_of_a_subscribed_topic_is_unowned() -> None:
    """By the broker's word, so members of other swarms count; topics that nobody subscribed to do not."""
    census = Census(True, {"orders": 3, "clicks.a": 2, "other": 5}, frozenset({("orders", 1), ("clicks.a", 0)}), 2)

    assert unowned(census, [plan("orders", "to.come"), plan(pattern="clicks\\..*")]) == {
        "clicks.a": [1],
        "orders": [0, 2],
    }
    assert unowned(census._replace(held=census.held | {("orders", 0), ("orders", 2)}), [plan("orders")]) == {}


def test_while_a_group_rebalances_or_is_empty_nothing_is_known() -> None:
    """Unknown is not the same as unowned."""
    census = Census(True, {"orders": 3}, frozenset(), 1)

    assert unowned(census._replace(stable=False), [plan("orders")]) is None
    assert unowned(census._replace(members=0), [plan("orders")]) is None


def test_an_answer_fits_one_message() -> None:
    """However many partitions there are."""
    found = unowned(Census(True, {"a": MOST - 1, "b": 10}, frozenset(), 1), [plan("a", "b")])

    assert found is not None
    assert {topic: len(numbers) for topic, numbers in found.items()} == {"a": MOST - 1, "b": 1}


def test_the_second_look_in_a_row_is_an_alarm_and_the_only_one() -> None:
    """New partitions get their time; a rebalance in between neither counts nor forgets; an owner ends it."""
    book = Unowned()

    first = book.told("shop", {"orders": [1]}, 100.0)
    rebalancing = book.told("shop", None, 130.0)
    second = book.told("shop", {"orders": [1, 2]}, 160.0)
    third = book.told("shop", {"orders": [1, 2]}, 220.0)
    fourth = book.told("shop", {"orders": [1, 2]}, 280.0)
    shown = book.facts(280.0)
    book.told("audit", {}, 300.0)
    others = len(book.facts(300.0))
    book.told("shop", {}, 340.0)

    assert (first, rebalancing, fourth) == ([], [], [])
    assert second == [("orders", [1], 60.0)]
    assert third == [("orders", [2], 60.0)]
    assert shown == [
        {"group": "shop", "topic": "orders", "partition": 1, "for": 180.0},
        {"group": "shop", "topic": "orders", "partition": 2, "for": 120.0},
    ]
    assert others == 2
    assert book.facts(340.0) == []
    assert book.told("shop", {"orders": [1]}, 400.0) == []


def test_a_group_is_mended_at_its_alarm_and_then_less_and_less_often() -> None:
    """Not at the first sight, which may be of a rebalance's half; not again before a minute, two, four; anew when it was well between."""
    unowned = Unowned()
    unowned.told("shop", {"orders": [3]}, 0.0)
    assert unowned.in_doubt()
    assert not unowned.to_mend("shop", 0.0)

    mended = []
    for now in range(10, 600, 10):
        unowned.told("shop", {"orders": [3]}, float(now))
        if unowned.to_mend("shop", float(now)):
            mended.append(now)
    assert mended == [10, 70, 190, 430]
    assert not unowned.in_doubt()

    unowned.told("shop", {}, 600.0)
    assert not unowned.to_mend("shop", 600.0)
    for later in (610.0, 620.0):
        unowned.told("shop", {"orders": [3]}, later)
    assert unowned.to_mend("shop", 620.0)
