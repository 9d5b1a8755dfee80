"""What a group notices of a membership that does not come, or does not last. On the stage, without a broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError

from swarm import Messages, events
from swarm.plan import make_plan
from swarm.scoreboard import GroupView
from tests.unit.stage import TOPIC, Stage, on_stage

LIMIT = 40.0


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A group that has no membership, and a cluster that answers."""

    def handler(messages: Messages) -> None:
        """It gets none."""

    with on_stage(make_plan(handler=handler, topics=(TOPIC,)), []) as stage:
        stage.group.runtime.join_timeout = LIMIT
        stage.client.is_member = False
        stage.group.on_lost(list(stage.group.lanes))
        stage.group.joined = False
        yield stage


def passes(stage: Stage, seconds: float) -> GroupView:
    """What the scoreboard says after that time, in which the poller came round each second."""
    for _ in range(int(seconds)):
        stage.now += 1.0
        stage.poll()
    [view] = stage.board.groups()
    return view


def answer(stage: Stage, yes: bool) -> None:
    """What the cluster says from now on."""
    stage.client.cluster_answers = lambda timeout: yes  # type: ignore[attr-defined]


def test_a_join_that_does_not_end_is_said_since_the_cluster_answers(stage: Stage) -> None:
    """Not from the first moment on, for most joins just take a little; the time of the first answer stays."""
    answer(stage, yes=True)

    early, later = passes(stage, 4), passes(stage, 100)

    assert early.stuck_since == 0.0
    assert 1004.0 <= later.stuck_since <= 1012.0


def test_what_explains_it_is_no_stuck_join(stage: Stage) -> None:
    """A cluster that is silent, an error that was reported within a minute, a topic that is missing, the end of it."""
    answer(stage, yes=False)
    silent = passes(stage, 100)
    answer(stage, yes=True)
    heard = passes(stage, 10)
    stage.group.on_error(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED), None, None, None)
    refused = passes(stage, 50)
    again = passes(stage, 60)
    stage.group.on_error(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), TOPIC, -1, None)
    missing = passes(stage, 1000)
    stage.client.is_member = True
    joined = passes(stage, 2)

    assert (silent.stuck_since, refused.stuck_since, missing.stuck_since, joined.stuck_since) == (0.0, 0.0, 0.0, 0.0)
    assert heard.stuck_since > 0.0
    assert again.stuck_since > heard.stuck_since


def test_without_a_limit_nobody_is_asked(stage: Stage) -> None:
    """`join_timeout = 0`."""
    stage.group.runtime.join_timeout = 0.0

    assert passes(stage, 100).stuck_since == 0.0


def fail(stage: Stage, code: int) -> GroupView:
    """A fatal error, as librdkafka tells it; returns what the scoreboard says then."""
    words = f"Fatal error: {KafkaError(code).str()}: told so"
    stage.group.on_error(KafkaError(KafkaError._FATAL, words), None, None, None)
    stage.group.stop_requested = True  # the wait for the next client ends
    stage.poll()
    stage.group.stop_requested = False
    stage.group._client = cast(Any, stage.client)
    return stage.board.groups()[0]


@pytest.fixture
def reopened(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new client is the old one."""
    monkeypatch.setattr(stage.group, "open", lambda: None)


@pytest.mark.usefixtures("reopened")
def test_rebuilds_after_fatal_errors_are_counted_while_they_are_fresh(stage: Stage) -> None:
    """A static id that somebody else has is none of them: there a new process is no better off."""
    counts = [fail(stage, KafkaError.UNSUPPORTED_VERSION).rebuilds for _ in range(3)]
    stage.now += 1000.0
    later = fail(stage, KafkaError.UNSUPPORTED_VERSION)
    taken = [fail(stage, code) for code in (KafkaError.FENCED_INSTANCE_ID, KafkaError.UNRELEASED_INSTANCE_ID)]

    assert counts == [1, 2, 3]
    assert [later.rebuilds, *(view.rebuilds for view in taken)] == [1, 1, 1]
    assert not [event for event in stage.events if isinstance(event, events.SeatContested)]


@pytest.mark.usefixtures("reopened")
def test_a_rival_is_said_at_the_second_fencing_and_then_ever_less_often(stage: Stage) -> None:
    """And is shown until it has not come for long."""
    shown = [fail(stage, KafkaError.FENCED_INSTANCE_ID).contested for _ in range(9)]
    stage.client.is_member = True
    still, gone = passes(stage, 100).contested, passes(stage, 100).contested

    said = [(event.times, event.seconds) for event in stage.events if isinstance(event, events.SeatContested)]
    assert shown == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert said == [(2, 1.0), (4, 4.0), (8, 60.0)]
    assert (still, gone) == (9, 0)


@pytest.mark.usefixtures("reopened")
def test_a_refusal_that_follows_a_moment_of_membership_goes_on_with_the_waits(stage: Stage) -> None:
    """KIP-848: we believe to be in before the broker refuses; only a membership that lasts ends the count."""
    stage.client.is_member = True
    for _ in range(40):
        fail(stage, KafkaError.UNRELEASED_INSTANCE_ID)
        passes(stage, 3)
    [said, *_] = [event for event in stage.events if isinstance(event, events.SeatContested)]
    lasting = passes(stage, 30).contested

    assert said.seconds == 30.0
    assert lasting == 0


@pytest.mark.usefixtures("reopened")
def test_who_is_refused_its_seat_may_join_without_one(stage: Stage) -> None:
    """`refused_seat = "dynamic"`: at once, and for good; a fenced one has a rival, and comes back for its seat."""
    stage.group.runtime.joins_without_seat = True
    stage.group._properties["group.instance.id"] = "shop.host.0"
    before = stage.now

    fail(stage, KafkaError.FENCED_INSTANCE_ID)
    seated = stage.group._properties.get("group.instance.id")
    fail(stage, KafkaError.UNRELEASED_INSTANCE_ID)

    said = [event for event in stage.events if isinstance(event, events.SeatForgone)]
    assert seated == "shop.host.0"
    assert "group.instance.id" not in stage.group._properties
    assert said == [events.SeatForgone("shop", "shop.host.0")]
    assert stage.now == before
    assert not [event for event in stage.events if isinstance(event, events.SeatContested)]
