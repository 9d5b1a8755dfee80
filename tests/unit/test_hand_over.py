"""group.protocol=consumer: a partition that was somebody else's before its new holder could acknowledge it; and nothing more than that."""

from __future__ import annotations

from typing import Any

from tests.support.history import GROUP, TOPIC, History


def given_away(**semantics: object) -> History:
    """Pid 7 is given the partition and begins; pid 8 is given it, too, and begins; then pid 7 hears of it."""
    history = History(**{"new_protocol": True, **semantics})
    history.start(7)
    history.start(8, 1)
    history.assign(7)
    history.begin(7, 0, 4)
    history.assign(8)
    history.begin(8, 0, 4)
    return history


def hear_of_it(history: History) -> History:
    history.end(7, 0, 4)
    history.commit(7, 5)
    history.revoke(7, seconds=0.001)
    history.end(8, 0, 4)
    history.commit(8, 5)
    return history


def test_what_was_given_away_before_it_was_acknowledged_is_the_cause_of_what_both_did() -> None:
    """The holder hears of it with the first answer of its coordinator."""
    assert hear_of_it(given_away()).broken() == []


def test_the_classic_protocol_never_gives_away_what_is_held() -> None:
    """There it is the swarm's own fault."""
    assert sorted(hear_of_it(given_away(new_protocol=False)).broken()) == ["one_owner", "twice"]


def test_whoever_has_heard_of_its_coordinator_before_cannot_say_that_it_did_not_know() -> None:
    """Any answer came behind that to the acknowledgement; of whatever partition of the group it speaks."""
    history = History(new_protocol=True)
    history.start(7)
    history.start(8, 1)
    history.assign(7, partition=1)
    history.assign(7)
    history.commit(7, 0, partition=1)
    history.begin(7, 0, 4)
    history.assign(8)
    history.begin(8, 0, 4)

    assert sorted(hear_of_it(history).broken()) == ["one_owner", "twice"]


def test_another_groups_coordinator_is_another_one() -> None:
    """Its answers say nothing."""
    history = given_away()
    history.say("offsets_committed", 7, group="other", offsets=[])

    assert hear_of_it(history).broken() == []


def test_nobody_is_a_new_holder_for_long() -> None:
    """After ten seconds without an answer its session is over, and it has lost the partition."""
    history = given_away()
    history.now += 11_000

    assert sorted(hear_of_it(history).broken()) == ["one_owner", "twice"]


def test_how_long_a_job_was_waited_for_does_not_count() -> None:
    """It heard of it at once, and ended its job first."""
    history = given_away()
    history.now += 11_000
    history.end(7, 0, 4)
    history.revoke(7, seconds=11.0)
    history.end(8, 0, 4)

    assert history.broken() == []


def test_a_repetition_without_a_second_holder_is_not_explained() -> None:
    """A short assignment of the new protocol is no cause by itself."""
    history = History(new_protocol=True)
    history.start(7)
    history.start(8, 1)
    history.assign(7)
    history.run(7, 0, 4)
    history.revoke(7, seconds=0.001)
    history.assign(8)
    history.run(8, 0, 4)

    assert history.broken() == ["twice"]


def test_the_other_holder_may_have_it_first() -> None:
    """The broker gave it away while the first one was still asking where it begins, which then takes it up for a moment."""
    history = History(new_protocol=True)
    history.start(7)
    history.start(8, 1)
    history.assign(8)
    history.run(8, 0, 4)
    history.assign(7)
    history.begin(7, 0, 4)
    history.end(7, 0, 4)
    history.revoke(7, seconds=0.001)
    history.run(8, 5, 9)
    history.commit(8, 10)
    history.revoke(8)

    assert history.broken() == []


def test_at_most_once_is_not_excused() -> None:
    """It commits before it runs, and so has heard of its coordinator."""
    history = given_away(delivery="at_most_once")

    assert "at_most_once" in hear_of_it(history).broken()


def test_the_event_says_which_protocol_a_group_has() -> None:
    """Without it, as of an older worker, the strict rule holds."""
    history = hear_of_it(given_away(new_protocol=False))
    said: dict[str, Any] = {
        "group": GROUP,
        "topics": [TOPIC],
        "pattern": None,
        "delivery": "at_least_once",
        "offsets": "automatic",
        "each": False,
        "virtual_partitions": False,
        "long_running": False,
        "marks": True,
    }
    history.say("subscribed", 7, **said, protocol="consumer")
    history.events.insert(0, history.events.pop())

    assert history.broken() == []
