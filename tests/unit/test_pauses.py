"""Pauses by an operator: which partitions they mean, and that a worker obeys them between two batches."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consumer import Consumer
from swarm.events import ConsumptionPaused, ConsumptionResumed
from swarm.message import Message
from swarm.pauses import MOST, Pauses, Word
from swarm.plan import make_plan
from tests.unit.stage import TOPIC, on_stage

GROUPS, TOPICS, PARTITIONS = ("a", "b"), ("x", "y"), (0, 1, 2)
words = st.builds(
    Word,
    st.booleans(),
    st.sampled_from(TOPICS),
    st.sampled_from((None, *PARTITIONS)),
    st.sampled_from((None, *GROUPS)),
)


@settings(deadline=None)
@given(st.lists(words, max_size=12))
def test_the_last_word_about_a_partition_counts(said: list[Word]) -> None:
    """Whatever is forgotten on the way, and also after it was handed over to another process."""
    pauses = Pauses()
    paused = dict.fromkeys(itertools.product(GROUPS, TOPICS, PARTITIONS), False)
    for word in said:
        pauses.say(word)
        paused.update({key: word.paused for key in paused if word.speaks_of(*key)})

    assert {key: pauses.holds(*key) for key in paused} == paused
    assert {key: Pauses(pauses.facts()).holds(*key) for key in paused} == paused
    assert bool(pauses) == bool(pauses.facts())


def test_what_was_resumed_wholly_is_forgotten() -> None:
    """Or a daemon would collect words for as long as it runs."""
    pauses = Pauses()
    for partition in range(5):
        pauses.say(Word(True, "orders", partition))
    pauses.say(Word(False, "orders"))

    assert not pauses
    assert pauses.version == 6


def test_more_pauses_than_fit_one_message_to_a_worker_are_refused() -> None:
    """With everything as before."""
    pauses = Pauses()
    for partition in range(MOST):
        pauses.say(Word(True, "orders", partition))
    with pytest.raises(ValueError, match="pause whole topics"):
        pauses.say(Word(True, "orders", MOST))

    assert len(pauses) == MOST
    assert not pauses.holds("shop", "orders", MOST)


def test_a_paused_partition_rests_after_the_message_in_hand_and_goes_on_where_it_stood() -> None:
    """What was handled is committed before it is said that it rests; other partitions go on meanwhile."""
    handled: list[tuple[int, int]] = []

    def one(message: Message, consumer: Consumer) -> None:
        handled.append((message.partition, message.offset))
        if handled == [(0, 0), (0, 1)]:
            stage.pause(Pauses([{"paused": True, "topic": TOPIC, "partition": 0, "group": "shop"}]))

    with on_stage(make_plan(handler=one, topics=(TOPIC,), each=True), range(4)) as stage:
        stage.broker.logs[(TOPIC, 1)] = list(stage.broker.logs[(TOPIC, 0)])
        lane = stage.assign()
        stage.poll()
        while stage.step():
            stage.poll()
        rested_at = list(handled)
        stage.poll()
        committed, fetched = lane.committed, (TOPIC, 0) not in stage.client.paused
        stage.assign(1)
        for _ in range(10):
            stage.poll()
            stage.step()
        others = handled[len(rested_at) :]
        stage.pause(Pauses())
        stage.settle()

        assert rested_at == [(0, 0), (0, 1)]
        assert (committed, fetched) == (2, False)
        assert others == [(1, offset) for offset in range(4)]
        assert handled[6:] == [(0, 2), (0, 3)]
        assert stage.heard(ConsumptionPaused) == [ConsumptionPaused("shop", TOPIC, 0, 2)]
        assert stage.heard(ConsumptionResumed) == [ConsumptionResumed("shop", TOPIC, 0)]


def test_a_partition_that_is_paused_before_it_comes_is_not_begun() -> None:
    """A rebalance hands it to a worker that knows of the pause since its birth, or since it was told."""
    handled: list[int] = []

    def one(message: Message) -> None:
        handled.append(message.offset)

    with on_stage(make_plan(handler=one, topics=(TOPIC,), each=True), range(4)) as stage:
        stage.pause(Pauses([{"paused": True, "topic": TOPIC, "partition": None, "group": None}]))
        stage.assign()
        for _ in range(5):
            stage.poll()
            stage.step()
        stage.revoke()
        stage.assign()
        for _ in range(5):
            stage.poll()
            stage.step()
        before = list(handled)
        stage.pause(Pauses())
        stage.settle()

        assert before == []
        assert handled == [0, 1, 2, 3]
