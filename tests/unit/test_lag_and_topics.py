"""How far groups are behind, and topics at a glance, from facts: no cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.cli import cluster_display
from swarm.lag import Facts, GroupFacts, rows, total, wanted
from swarm.overview import Facts as TopicFacts
from swarm.overview import readers
from swarm.overview import rows as topic_rows

NOW = 2_000.0


def facts(
    committed: dict[int, int], end: dict[int, int], first: dict[int, int] | None = None, oldest: dict[int, int | None] | None = None,
    holders: dict[int, str] | None = None, partitions: int = 3,
) -> Facts:  # fmt: skip
    def of(values: dict[int, Any]) -> dict[tuple[str, int], Any]:
        return {("orders", number): value for number, value in values.items()}

    group = GroupFacts("shop", "stable", of(committed), of(holders or {}))
    places = {"shop": tuple(("orders", number) for number in range(partitions))}
    return Facts((group,), places, of(first or dict.fromkeys(end, 0)), of(end), {("shop", place): stamp for place, stamp in of(oldest or {}).items()})  # fmt: skip


def test_lag_is_in_messages_and_in_the_age_of_the_oldest_that_waits() -> None:
    found = rows(facts({0: 10, 1: 5}, {0: 10, 1: 9, 2: 4}, oldest={1: 1_995_000}, holders={0: "shop.host.0"}), NOW)

    assert [(row["lag"], row["seconds"]) for row in found] == [(0, 0.0), (4, 5.0), (None, None)]
    assert [row["holder"] for row in found] == ["shop.host.0", None, None]
    assert found[2]["note"] == "nothing was committed"
    assert total(found) == {"lag": 4, "unknown": 1, "seconds": 5.0, "partitions": 3, "unheld": 2, "withheld": 0}


def test_unknown_is_never_zero() -> None:
    """No offset, no end, no timestamp: each is said, and shown as "-"."""
    found = rows(facts({0: 3, 1: 3}, {0: 9}, partitions=2), NOW)

    assert (found[0]["lag"], found[0]["seconds"]) == (6, None)
    assert (found[1]["lag"], found[1]["note"]) == (None, "its leader does not answer")
    group = {"group": "shop", "state": "empty", "missing_topics": ["gone"], **total(found)}
    text = cluster_display.lag({"groups": [group], "partitions": found, "total": total(found)})
    assert "lag 6+, behind -" in text
    assert "there is no topic gone" in text
    assert total([])["lag"] is None


def test_what_is_gone_or_beyond_the_end_is_said() -> None:
    found = rows(facts({0: 3, 1: 20}, {0: 9, 1: 9}, first={0: 5, 1: 0}, partitions=2), NOW)

    assert found[0]["note"] == "2 of it are gone (retention)"
    assert rows(facts({0: 4}, {0: 9}, first={0: 5}, partitions=1), NOW)[0]["note"] == "1 of it is gone (retention)"
    assert found[1]["note"].startswith("11 beyond the end")
    assert found[1]["lag"] == 0


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.integers(0, 5), st.integers(0, 100)),
    st.dictionaries(st.integers(0, 5), st.integers(0, 100)),
    st.dictionaries(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 4_000_000))),
)
def test_any_facts_give_a_row_for_each_partition(
    committed: dict[int, int], end: dict[int, int], oldest: dict[int, int | None]
) -> None:
    found = rows(facts(committed, end, oldest=oldest, partitions=6), NOW)

    assert len(found) == 6
    for row in found:
        known = row["partition"] in committed and row["partition"] in end
        assert (row["lag"] is not None) == known
        assert row["lag"] is None or row["lag"] >= 0
        assert row["seconds"] is None or row["seconds"] >= 0
        assert (row["seconds"] == 0.0) >= (row["lag"] == 0)


def test_what_an_open_transaction_hides_is_said_beside_a_lag_that_does_not_count_it() -> None:
    hidden = replace(facts({0: 5}, {0: 5}, partitions=1), hidden={("orders", 0): 7})

    assert [(row["lag"], row["note"]) for row in rows(hidden, NOW)] == [(0, "7 more behind an open transaction")]


def test_a_group_is_about_what_it_subscribes_to_and_what_it_has_offsets_for() -> None:
    assert wanted(["a", "b", "c1", "c2"], ["a", "gone"], ["^c[0-9]"], ["b", "deleted"]) == {"a", "b", "c1", "c2"}


def test_topics_are_summed_up_and_what_is_wrong_is_said() -> None:
    found = TopicFacts(
        {"orders": {0: (1, 3, 3), 1: (-1, 3, 2)}, "log": {0: (1, 1, 1)}},
        {"orders": {"retention.ms": "604800000", "retention.bytes": "-1", "cleanup.policy": "compact,delete",
                    "message.timestamp.type": "CreateTime", "min.insync.replicas": "2"}},
        {("orders", 0): 5, ("orders", 1): 0, ("log", 0): 0}, {("orders", 0): 10, ("orders", 1): 7},
        {("orders", 1): 1_990_000}, {"orders": ["shop"]}, frozenset(["log"]), ("gone",),
    )  # fmt: skip

    log, orders = topic_rows(found)
    text = cluster_display.topics({"topics": [log, orders], "missing_topics": list(found.missing)}, NOW)

    assert (orders["messages"], orders["in_sync"], orders["replicas"], orders["newest"]) == (12, 2, 3, 1_990_000)
    assert (orders["under_replicated"], orders["leaderless"], orders["read_by"]) == (1, 1, ["shop"])
    assert (log["messages"], log["retention_ms"], log["dead_letters"]) == (None, None, True)
    assert "compacted, 7 days" in text
    assert "1 of 2 partitions has replicas that are not in sync" in text
    assert "there is no topic gone" in text


def test_who_reads_a_topic_is_known_by_name_and_by_pattern() -> None:
    subscribed = {"shop": {"topics": ["orders"]}, "audit": {"patterns": ["^ord"]}}

    assert readers(["orders", "clicks"], subscribed) == {"orders": ["shop", "audit"], "clicks": []}
