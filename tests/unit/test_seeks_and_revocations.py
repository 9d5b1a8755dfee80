"""A handler's wish to go on elsewhere, and a partition that is taken before anybody has carried it out."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.consumer import Consumer
from swarm.message import Messages
from swarm.plan import make_plan
from tests.unit.stage import TOPIC, on_stage


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once", "exactly_once"])
@pytest.mark.parametrize("wish", ["seek", "pause"])
@pytest.mark.parametrize("end", ["revoke", "stop"])
def test_a_seek_backwards_is_not_lost_where_the_partition_goes_before_it_is_carried_out(
    delivery: str, wish: str, end: str
) -> None:
    """Whoever has the partition next begins where the handler wanted to go on."""
    runs: list[int] = []

    def handler(messages: Messages, consumer: Consumer) -> None:
        runs.append(messages.first_offset)
        if runs == [0, 2, 4]:
            consumer.mark_as_consumed(messages[-1])
            consumer.seek(1) if wish == "seek" else consumer.pause(5.0, 1)

    with on_stage(plan_of(handler, delivery=delivery), range(6)) as stage:
        stage.assign()
        stage.poll()
        while runs != [0, 2, 4]:
            stage.step()
        stage.revoke() if end == "revoke" else stage.stop()

        assert stage.broker.committed == {(TOPIC, 0): 1}


def test_a_seek_forwards_commits_nothing_that_was_not_marked() -> None:
    """The messages between were passed over by the handler, and not done: the next holder is asked about them again."""
    runs: list[int] = []

    def handler(messages: Messages, consumer: Consumer) -> None:
        runs.append(messages.first_offset)
        if runs == [0, 2]:
            consumer.seek(5)

    with on_stage(plan_of(handler), range(6)) as stage:
        stage.assign()
        stage.poll()
        while runs != [0, 2]:
            stage.step()
        stage.revoke()

        assert stage.broker.committed == {(TOPIC, 0): 2}


def test_a_death_in_the_middle_of_a_replay_goes_on_with_it() -> None:
    """The committed offset follows the seek backwards, and then the replay."""
    runs: list[int] = []

    def handler(messages: Messages, consumer: Consumer) -> None:
        runs.append(messages.first_offset)
        if runs == [0, 2, 4]:
            consumer.mark_as_consumed(messages[-1])
            consumer.commit()
            consumer.seek(0)

    with on_stage(plan_of(handler), range(6)) as stage:
        stage.assign()
        stage.poll()
        while runs != [0, 2, 4]:
            stage.step()
        assert stage.broker.committed == {(TOPIC, 0): 6}

        stage.now += 5
        stage.poll()
        assert stage.broker.committed == {(TOPIC, 0): 0}

        stage.poll()
        stage.step()
        stage.now += 5
        stage.poll()
        assert runs == [0, 2, 4, 0]
        assert stage.broker.committed == {(TOPIC, 0): 2}


def plan_of(handler: Any, **options: Any) -> Any:
    return make_plan(handler=handler, topics=(TOPIC,), max_messages=2, **options)
