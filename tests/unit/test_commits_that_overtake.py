"""A commit never takes a newer one back: librdkafka repeats one that was not answered, and the repetition may come last."""

from __future__ import annotations

from typing import Any, cast

from swarm.commits import OVERDUE
from swarm.message import Messages
from swarm.plan import make_plan
from tests.unit.stage import TOPIC, Stage, on_stage


def nothing(messages: Messages) -> None:
    pass


def _handled(stage: Stage, until: int) -> None:
    """Messages up to `until` are done."""
    stage.broker.logs[(TOPIC, 0)] = list(range(until))
    stage.settle()


def test_nothing_newer_is_sent_while_a_commit_has_no_answer() -> None:
    """Neither by interval nor at a handler's wish; after the answer it is."""
    with on_stage(make_plan(handler=nothing, topics=(TOPIC,))) as stage:
        sent: list[Any] = []
        stage.assign()
        stage.client.commit_soon = lambda offsets, metadata=None: sent.extend(offsets)  # type: ignore[method-assign]
        _handled(stage, 3)
        stage.group.commits.send(cast(Any, stage.client))
        _handled(stage, 5)
        stage.group.commits.send(cast(Any, stage.client))
        assert sent == [(TOPIC, 0, 3)]

        stage.group.on_committed(None, [(TOPIC, 0, 3)])
        stage.group.commits.send(cast(Any, stage.client))
        assert sent == [(TOPIC, 0, 3), (TOPIC, 0, 5)]


def test_a_revocations_commit_stands_although_an_older_one_arrives_after_it() -> None:
    """What had no answer for a while may be repeated behind the commit that nothing follows: so that is made once more."""
    with on_stage(make_plan(handler=nothing, topics=(TOPIC,))) as stage:
        stage.assign()
        unanswered: list[Any] = []
        stage.client.commit_soon = lambda offsets, metadata=None: unanswered.append(offsets)  # type: ignore[method-assign]
        _handled(stage, 3)
        stage.group.commits.send(cast(Any, stage.client))
        _handled(stage, 5)
        stage.now += 2 * OVERDUE
        honest = stage.client.commit_now

        def overtakes(offsets: Any, metadata: Any = None) -> None:
            honest(offsets, metadata)
            while unanswered:
                stage.broker.commit(unanswered.pop())

        stage.client.commit_now = overtakes  # type: ignore[method-assign]
        stage.revoke()

        assert stage.broker.committed[(TOPIC, 0)] == 5


def test_a_revocation_waits_for_no_answer_that_is_merely_on_its_way() -> None:
    """A commit that was sent a moment ago is answered in its order: rebalances stay quick."""
    with on_stage(make_plan(handler=nothing, topics=(TOPIC,))) as stage:
        stage.assign()
        stage.client.commit_soon = lambda offsets, metadata=None: None  # type: ignore[method-assign]
        _handled(stage, 3)
        stage.group.commits.send(cast(Any, stage.client))
        began = stage.now
        stage.revoke()

        assert stage.broker.committed[(TOPIC, 0)] == 3
        assert stage.now - began < OVERDUE
