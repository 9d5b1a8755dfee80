"""The commit before the end when the group's connection is silent: by a transaction, and never taken back by what is still under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from swarm import events
from swarm.client import producer_properties
from swarm.commits import RETRY
from swarm.group import LAST_COMMIT
from swarm.plan import make_plan
from swarm.transactions import brief, transactional_properties
from tests.unit.stage import TOPIC, FakeClient, Stage, on_stage


class Silent(FakeClient):
    """Its commits without waiting are carried out when `speaks_at` has come, and answered then; time passes while it is polled."""

    speaks_at = float("inf")
    again_after: float | None = None
    """So long after that it speaks the next time."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.broker, stage.group)
        self.stage = stage
        self.direct = False
        self.kept: list[tuple[Sequence[tuple[str, int, int]], Mapping[tuple[str, int], str] | None]] = []
        self.closed = False

    def commit_soon(
        self, offsets: Sequence[tuple[str, int, int]], metadata: Mapping[tuple[str, int], str] | None = None
    ) -> None:
        self.kept.append((offsets, metadata))
        self._speak()

    def fetch(self, most: int, timeout: float) -> list[Any]:
        self._speak()
        found = super().fetch(most, timeout)
        self.stage.now += timeout
        return found

    def _speak(self) -> None:
        if self.stage.now >= self.speaks_at:
            kept, self.kept = self.kept, []
            if kept and self.again_after is not None:
                self.speaks_at = self.stage.now + self.again_after
            for offsets, metadata in kept:
                super().commit_soon(offsets, metadata)

    def close(self, **kwargs: Any) -> bool:
        self.closed = True
        self.stage.now += 10.0
        self._speak()
        return super().close(**kwargs)


def staged(stage: Stage, aside: list[Any]) -> Silent:
    """The client of a stage that has done 0 and 1, whose commit is under way."""
    client = Silent(stage)
    stage.client = stage.group._client = cast(Any, client)
    stage.group._clock = stage.group.commits._clock = lambda: stage.now

    def commit_aside(offsets: Any, metadata: Any, member: Any) -> None:
        aside.append(offsets)
        stage.broker.commit(offsets, metadata)

    stage.runtime.commit_aside = commit_aside
    stage.assign()
    stage.settle()
    return client


@pytest.fixture
def aside() -> list[Any]:
    """What was committed by a transaction."""
    return []


def plan() -> Any:
    return make_plan(handler=lambda messages: None, topics=(TOPIC,))


def test_what_has_no_answer_is_committed_by_a_transaction(aside: list[Any]) -> None:
    """The commit that is under way says the same, so it may come when it wants: the good-bye is said."""
    with on_stage(plan(), range(2)) as stage:
        client = staged(stage, aside)
        stage.stop()

        assert aside == [((TOPIC, 0, 2),)]
        assert stage.broker.committed[(TOPIC, 0)] == 2
        assert client.closed
        assert not [event for event in stage.events if isinstance(event, (events.CommitFailed, events.PartitionsLost))]


def test_what_is_refused_is_tried_again_now_and_then_and_said_to_be_refused(aside: list[Any]) -> None:
    """A group that one may not read any more: ten tries a second at most, and the broker's word at the end, not that it was silent."""
    with on_stage(plan(), range(2)) as stage:
        client = staged(stage, aside)
        client.speaks_at = stage.now
        forbidden = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)
        stage.broker.commit = lambda *_: forbidden  # type: ignore[method-assign]

        def commit_aside(offsets: Any, metadata: Any, member: Any) -> None:
            raise KafkaException(forbidden)

        stage.runtime.commit_aside = commit_aside
        stage.stop()

        failed = stage.heard(events.CommitFailed)
        assert 10 <= len(failed) <= LAST_COMMIT / RETRY + 2
        assert failed[-1].error.startswith("refused at the stop: ")
        assert "GROUP_AUTHORIZATION_FAILED" in failed[-1].error or "Group authorization failed" in failed[-1].error


def test_an_older_commit_that_comes_late_is_followed_by_the_newer_one(aside: list[Any]) -> None:
    """librdkafka repeats what has no answer when the coordinator is back: that takes back what was committed meanwhile."""
    with on_stage(plan(), range(2)) as stage:
        client = staged(stage, aside)
        stage.group.commits.send(cast(Any, client))
        assert client.kept
        stage.broker.logs[(TOPIC, 0)].extend(range(2, 5))
        stage.settle()
        client.speaks_at = stage.now + 1.5
        stage.stop()

        assert aside == [((TOPIC, 0, 5),)]
        assert stage.broker.committed[(TOPIC, 0)] == 5
        assert client.closed


def test_the_newer_one_has_its_time_after_that(aside: list[Any]) -> None:
    """Not what is left of the older one's: the answer is known to come now, and without it what was done is repeated."""
    with on_stage(plan(), range(2)) as stage:
        client = staged(stage, aside)
        stage.group.commits.send(cast(Any, client))
        stage.broker.logs[(TOPIC, 0)].extend(range(2, 5))
        stage.settle()
        client.speaks_at, client.again_after = stage.now + 2.0, 3.0
        stage.stop()

        assert stage.broker.committed[(TOPIC, 0)] == 5
        assert not [event for event in stage.events if isinstance(event, events.CommitFailed)]


def test_an_older_commit_that_never_comes_ends_with_the_client(aside: list[Any]) -> None:
    """Which is left alone at once, without a good-bye during which it could still be sent."""
    with on_stage(plan(), range(2)) as stage:
        client = staged(stage, aside)
        stage.group.commits.send(cast(Any, client))
        stage.broker.logs[(TOPIC, 0)].extend(range(2, 5))
        stage.settle()
        began = stage.now
        stage.stop()

        assert aside == [((TOPIC, 0, 5),)]
        assert stage.broker.committed[(TOPIC, 0)] == 5
        assert not client.closed
        assert stage.now - began < 7.0
        (doubt,) = [event for event in stage.events if isinstance(event, events.CommitFailed)]
        assert (doubt.code, doubt.offsets) == ("_IN_DOUBT", ((TOPIC, 0, 5),))
        assert [event.partitions for event in stage.events if isinstance(event, events.PartitionsLost)] == [
            ((TOPIC, 0),)
        ]


@pytest.mark.parametrize(
    ("user", "timeout"),
    [
        ({}, 10_000),
        ({"message.timeout.ms": 45_000}, 45_000),
        ({"delivery.timeout.ms": "45000", "socket.timeout.ms": 50_000}, 50_000),
        ({"transaction.timeout.ms": 900_000, "enable.idempotence": False}, 10_000),
    ],
)
def test_such_a_transaction_is_brief_and_librdkafka_takes_its_properties(user: dict[str, Any], timeout: int) -> None:
    """One that is left open withholds the group's offsets until its timeout."""
    user = {"bootstrap.servers": "127.0.0.1:1", **user}
    properties = brief(transactional_properties(user, producer_properties(user), 0.0))

    assert properties["transaction.timeout.ms"] == timeout
    Producer({**properties, "transactional.id": "stop", "log_level": 0})


def test_a_stop_with_a_client_that_was_fenced_says_that_its_partitions_are_lost() -> None:
    """Somebody else has the seat. What an orphan that was frozen meanwhile did before it knew may be repeated: that has its event."""
    with on_stage(plan(), range(2)) as stage:
        stage.assign()
        stage.settle()
        stage.group._fatal = KafkaError(KafkaError.FENCED_INSTANCE_ID)
        stage.stop()

        assert [event.partitions for event in stage.events if isinstance(event, events.PartitionsLost)] == [
            ((TOPIC, 0),)
        ]


def test_without_a_membership_nothing_is_committed_aside_and_that_is_said(aside: list[Any]) -> None:
    """The client may know none while it is being fenced."""
    with on_stage(plan(), range(2)) as stage:
        client = staged(stage, aside)
        cast(Any, client).membership = lambda: None
        stage.stop()

        assert aside == []
        [failed] = [event for event in stage.events if isinstance(event, events.CommitFailed)]
        assert "no membership" in failed.error
