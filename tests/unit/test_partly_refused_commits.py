"""The broker answers a commit for each partition: what it took is committed, what it refused is said and tried again."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from swarm.events import CommitFailed, OffsetsCommitted
from swarm.message import Messages
from swarm.plan import make_plan
from tests.unit.stage import TOPIC, Stage, on_stage

FORBIDDEN = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "Broker: Topic authorization failed")
GONE = KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "Broker: Unknown member")


def _handled(stage: Stage) -> None:
    """Two partitions with three messages each, all of them done, nothing committed."""
    for partition in range(2):
        stage.broker.logs[(TOPIC, partition)] = list(range(3))
        stage.assign(partition)
    stage.client.commit_soon = lambda offsets, metadata=None: None  # type: ignore[method-assign]  # no answer yet
    stage.settle()


def nothing(messages: Messages) -> None:
    pass


@pytest.mark.parametrize("summary", [None, FORBIDDEN], ids=["each for itself", "the last refusal as the error of all"])
def test_what_the_broker_took_is_committed_although_it_refused_another_partition(summary: KafkaError | None) -> None:
    """librdkafka gives one refusal as the error of the whole answer."""
    with on_stage(make_plan(handler=nothing, topics=(TOPIC,))) as stage:
        _handled(stage)
        stage.group.on_committed(summary, [(TOPIC, 0, 3), (TOPIC, 1, 3)], {(TOPIC, 1): FORBIDDEN})

        assert [stage.group.lanes[(TOPIC, partition)].committed for partition in range(2)] == [3, 0]
        assert [event.offsets for event in stage.heard(OffsetsCommitted)] == [((TOPIC, 0, 3),)]
        (refused,) = stage.heard(CommitFailed)
        assert refused.offsets == ((TOPIC, 1, 3),)
        assert f"Grant this user Read on the topic {TOPIC}" in refused.error
        sent: list[Any] = []
        stage.client.commit_soon = lambda offsets, metadata=None: sent.extend(offsets)  # type: ignore[method-assign]
        stage.group.commits.send(cast(Any, stage.client))
        assert sent == [(TOPIC, 1, 3)], "only what was refused is tried again"


def test_an_error_of_the_whole_commit_is_one_of_every_partition() -> None:
    """Nothing is taken for committed where the request itself failed."""
    with on_stage(make_plan(handler=nothing, topics=(TOPIC,))) as stage:
        _handled(stage)
        stage.group.on_committed(GONE, [(TOPIC, 0, 3), (TOPIC, 1, 3)], {})

        assert [stage.group.lanes[(TOPIC, partition)].committed for partition in range(2)] == [0, 0]
        assert [len(event.offsets) for event in stage.heard(CommitFailed)] == [2]


@pytest.mark.parametrize("whole", [False, True])
def test_a_revocation_says_what_could_not_be_committed_and_ends(whole: bool) -> None:
    """A refusal that no waiting mends is not waited for."""
    with on_stage(make_plan(handler=nothing, topics=(TOPIC,))) as stage:
        _handled(stage)

        def commit_now(offsets: Any, metadata: Any = None) -> Any:
            if whole:
                raise KafkaException(FORBIDDEN)
            return {(TOPIC, 1): FORBIDDEN}

        stage.client.commit_now = commit_now  # type: ignore[method-assign]
        stage.group.on_revoked([(TOPIC, 0), (TOPIC, 1)])

        failed = [offset for event in stage.heard(CommitFailed) for offset in event.offsets]
        assert failed == ([(TOPIC, 0, 3), (TOPIC, 1, 3)] if whole else [(TOPIC, 1, 3)])
        held = [offset for event in stage.heard(OffsetsCommitted) for offset in event.offsets]
        assert held == ([] if whole else [(TOPIC, 0, 3)])
        assert stage.group.lanes == {}


@pytest.mark.parametrize("code", [KafkaError.ILLEGAL_GENERATION, KafkaError.STALE_MEMBER_EPOCH])
def test_a_revocation_tries_again_what_came_with_the_generation_before(code: int) -> None:
    """By either protocol's word for it: the next try comes with the new one."""
    with on_stage(make_plan(handler=nothing, topics=(TOPIC,))) as stage:
        _handled(stage)
        commit_now, tries = stage.client.commit_now, [KafkaException(KafkaError(code))]

        def commit(offsets: Any, metadata: Any = None) -> Any:
            if tries:
                raise tries.pop()
            return commit_now(offsets, metadata)

        stage.client.commit_now = commit  # type: ignore[method-assign]
        stage.group.on_revoked([(TOPIC, 0), (TOPIC, 1)])

        assert stage.broker.committed == {(TOPIC, 0): 3, (TOPIC, 1): 3}


def test_a_commit_that_a_handler_waits_for_calls_the_poller_wherever_it_waits() -> None:
    """It is the poller that sends it: in a rebalance, or where it holds back because lanes are full."""
    with on_stage(make_plan(handler=nothing, topics=(TOPIC,))) as stage:
        _handled(stage)
        called: list[str] = []

        def call(who: str) -> None:
            called.append(who)
            if len(called) == 2:
                for request in stage.group.commits._requests:
                    request.answered.set()

        stage.dispatcher.rested.notify_all = lambda: call("rested")  # type: ignore[method-assign]
        stage.dispatcher.room.notify_all = lambda: call("room")  # type: ignore[method-assign]
        lane = stage.group.lanes[(TOPIC, 0)]
        handler = threading.Thread(target=stage.group.commits.request, args=(lane,), daemon=True)
        handler.start()
        handler.join(10.0)

        assert sorted(called) == ["rested", "room"]
        assert not handler.is_alive()
