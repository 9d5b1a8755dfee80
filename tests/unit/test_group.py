"""What a group does with partitions that have no start, and with what was fetched of those it has no more. On the stage, without a broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from swarm import Messages, events
from swarm.plan import make_plan
from tests.unit.stage import TOPIC, Stage, on_stage

GONE = "gone"
MISSING = KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
SILENT = KafkaException(KafkaError(KafkaError._TIMED_OUT))


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Subscribed to two topics, each with messages in its partition 0."""

    def handler(messages: Messages) -> None:
        """Nothing to do: the frontier tells."""

    with on_stage(make_plan(handler=handler, topics=(TOPIC, GONE)), range(3)) as stage:
        stage.broker.logs[(GONE, 0)] = [0, 1]
        yield stage


def deny(stage: Stage, topic: str, failure: KafkaException) -> Callable[[], None]:
    """Let every question about the topic fail, until what is returned is called."""
    knows, denied = stage.client.resolve, [topic]

    def resolve(
        partitions: Sequence[tuple[str, int]], edges: Mapping[str, str], timeout: float
    ) -> dict[tuple[str, int], int]:
        if partitions[0][0] in denied:
            raise failure
        return knows(partitions, edges, timeout)

    def fetch_again(stopped: tuple[str, int], assignment: list[tuple[str, int, int]]) -> None:
        stage.client.position |= {(t, p): offset for t, p, offset in assignment if (t, p) == stopped}

    stage.client.resolve = resolve  # type: ignore[method-assign]
    stage.client.fetch_again = fetch_again  # type: ignore[attr-defined]
    return denied.clear


def done(stage: Stage) -> dict[tuple[str, int], int]:
    """The consumed frontier of each partition that is ours."""
    return {key: lane.frontier for key, lane in stage.group.lanes.items()}


@pytest.mark.parametrize("failure", [MISSING, SILENT])
def test_a_partition_without_a_start_holds_up_no_other_and_is_taken_up_when_it_has_one(
    stage: Stage, failure: KafkaException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its topic was deleted, or a broker is away: the others are consumed meanwhile, and nobody has to rebalance for it."""
    monkeypatch.setattr("time.sleep", lambda seconds: setattr(stage, "now", stage.now + seconds))
    answer = deny(stage, GONE, failure)

    stage.group.on_assigned([(TOPIC, 0), (GONE, 0)])
    stage.client.position.pop((GONE, 0))  # a client fetches nothing where it was given no offset
    stage.settle()
    assert done(stage) == {(TOPIC, 0): 3}
    assert bool(stage.heard(events.TopicMissing)) == (failure is MISSING)
    assert bool(stage.heard(events.ClientError)) == (failure is SILENT)

    answer()
    stage.now += 10.0
    stage.settle()
    assert done(stage) == {(TOPIC, 0): 3, (GONE, 0): 2}
    assert [event.partitions for event in stage.heard(events.PartitionsAssigned)] == [((TOPIC, 0, 0),), ((GONE, 0, 0),)]


@pytest.mark.parametrize("take", ["on_revoked", "on_lost"])
def test_a_partition_that_is_taken_before_it_could_begin_is_forgotten(
    stage: Stage, take: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has it next asks for its start."""
    monkeypatch.setattr("time.sleep", lambda seconds: setattr(stage, "now", stage.now + seconds))
    answer = deny(stage, GONE, MISSING)
    stage.group.on_assigned([(GONE, 0)])
    stage.client.position.pop((GONE, 0))

    taken: Any = getattr(stage.group, take)
    taken([(GONE, 0)])
    answer()
    stage.now += 10.0
    stage.settle()

    assert not stage.group.lanes


@pytest.mark.parametrize("comes_back", [False, True])
def test_what_was_fetched_of_a_partition_before_it_was_taken_is_dropped_and_never_processed(
    stage: Stage, comes_back: bool
) -> None:
    """It may be handed out by the very call in which the partition goes (and comes back): whoever has it next reads it again."""
    stage.group.on_assigned([(TOPIC, 0)])
    fetch = stage.client.fetch

    def fetch_while_it_is_taken(most: int, timeout: float) -> Any:
        stage.client.fetch = fetch  # type: ignore[method-assign]
        fetched = fetch(most, timeout)[1:]
        stage.revoke()
        if comes_back:
            stage.group.on_assigned([(TOPIC, 0)])
        return fetched

    stage.client.fetch = fetch_while_it_is_taken  # type: ignore[method-assign]
    stage.poll()
    assert [event.count for event in stage.heard(events.StaleMessagesDropped)] == [2]
    assert not stage.step() or comes_back
    stage.settle()

    assert done(stage) == ({(TOPIC, 0): 3} if comes_back else {})
    assert stage.messages == (3 if comes_back else 0)


def test_a_topic_that_is_another_one_by_now_is_read_from_its_beginning_before_anything_is_committed_to_it(
    stage: Stage,
) -> None:
    """The new log is longer than what had been read of the old one, so that no fetch fails: the group's offset, which is gone, tells."""
    stage.group.on_assigned([(TOPIC, 0)])
    stage.settle()
    assert done(stage) == {(TOPIC, 0): 3}
    old = stage.group.lanes[(TOPIC, 0)]

    stage.broker.logs[(TOPIC, 0)] = list(range(5))
    stage.broker.deleted.add((TOPIC, 0))
    stage.now += 10.0
    stage.group._housekeeping(stage.now)
    assert old.lost
    assert stage.broker.committed == {}
    stage.broker.deleted.clear()
    stage.settle()

    assert [(event.partition, event.offset) for event in stage.heard(events.TopicRecreated)] == [(0, 3)]
    assert done(stage) == {(TOPIC, 0): 5}
