"""What a run that asked to pause or seek is said to have done: what it marked, and nothing that comes again."""

from __future__ import annotations

import pytest

from swarm.consumer import Consumer
from swarm.events import BatchConsumed
from swarm.message import Message, Messages
from swarm.plan import make_plan
from tests.unit.stage import TOPIC, on_stage


@pytest.mark.parametrize("each", [True, False])
def test_a_run_that_pauses_says_only_what_it_marked(each: bool) -> None:
    """Else whoever reads the events, `audit` first, sees a message handled twice without a cause."""
    handled: list[int] = []

    def one(message: Message, consumer: Consumer) -> None:
        handled.append(message.offset)
        if handled == [0, 1, 2]:
            consumer.pause(5.0)

    def batch(messages: Messages, consumer: Consumer) -> None:
        handled.extend(message.offset for message in messages)
        if len(handled) == 4:
            consumer.mark_as_consumed(messages[1])
            consumer.pause(5.0)

    plan = make_plan(handler=one if each else batch, topics=(TOPIC,), each=each)
    with on_stage(plan, range(4)) as stage:
        stage.assign()
        stage.settle()

        said = [(event.first_offset, event.last_offset) for event in stage.heard(BatchConsumed)]
        assert said == [(0, 1), (2, 3)]
        assert handled == ([0, 1, 2, 2, 3] if each else [0, 1, 2, 3, 2, 3])
