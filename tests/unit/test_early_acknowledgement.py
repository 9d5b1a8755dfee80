"""group.protocol=consumer: what is given is taken up, and so acknowledged, before anybody asks where it begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from swarm.plan import make_plan
from tests.unit.stage import TOPIC, FakeClient, Stage, on_stage

UNKNOWN = -1001


class Watched(FakeClient):
    """Notes in which order it is asked."""

    silent = False

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.broker, stage.group)
        self.asked: list[Any] = []

    def take_up(self, starts: Iterable[tuple[str, int, int]]) -> None:
        starts = list(starts)
        self.asked.append(("take up", [start for *_, start in starts]))
        super().take_up(starts)
        self.paused.update((t, p) for t, p, start in starts if start < 0)

    def resolve(
        self, partitions: Sequence[tuple[str, int]], edges: Mapping[str, str], timeout: float
    ) -> dict[tuple[str, int], int]:
        self.asked.append("resolve")
        if self.silent:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return super().resolve(partitions, edges, timeout)

    def begin(self, starts: Iterable[tuple[str, int, int]]) -> None:
        starts = list(starts)
        self.asked.append(("begin", [start for *_, start in starts]))
        for topic, partition, offset in starts:
            self.position[(topic, partition)] = offset
            self.paused.discard((topic, partition))

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self.asked.append(("seek", offset))
        super().seek(topic, partition, offset)

    def fetch_again(self, stopped: tuple[str, int], assignment: Sequence[tuple[str, int, int]]) -> None:
        raise AssertionError("to give a partition up here would be taken for the answer to a revocation that waits")


@pytest.mark.parametrize("new", [True, False])
def test_a_member_of_the_new_protocol_takes_up_first_and_asks_then(new: bool) -> None:
    """While it asked, a heartbeat that has to be repeated would tell of what it held before. The classic protocol knows when."""
    runs: list[int] = []

    with on_stage(make_plan(handler=lambda m: runs.append(m.first_offset), topics=(TOPIC,)), range(4)) as stage:
        client = stage.client = stage.group._client = cast(Any, Watched(stage))
        client.new_protocol = new
        stage.broker.committed[(TOPIC, 0)] = 2
        stage.assign()
        stage.settle()

        early = [("take up", [UNKNOWN]), "resolve", ("begin", [2])]
        assert client.asked == (early if new else ["resolve", ("take up", [2])])
        assert runs == [2]


def test_a_start_that_nobody_can_say_at_once_is_asked_for_later() -> None:
    """The partitions stay taken up and paused meanwhile, and are not taken up again."""
    runs: list[int] = []

    with on_stage(make_plan(handler=lambda m: runs.append(m.first_offset), topics=(TOPIC,)), range(4)) as stage:
        client = stage.client = stage.group._client = cast(Any, Watched(stage))
        client.new_protocol = True
        client.silent = True
        stage.group._clock = iter_clock(stage)
        stage.broker.committed[(TOPIC, 0)] = 1
        stage.group.on_assigned([(TOPIC, 0)])
        assert (TOPIC, 0) not in stage.group.lanes
        assert runs == []

        client.silent = False
        stage.now += 1
        stage.settle()

        done = [what for what in client.asked if what not in ("resolve", ("begin", []))]
        assert done == [("take up", [UNKNOWN]), ("seek", 1)]
        assert runs == [1]


def iter_clock(stage: Stage) -> Any:
    """Time passes with each look at it, so that waiting ends."""

    def clock() -> float:
        stage.now += 0.5
        return stage.now

    return clock


class Counting(FakeClient):
    """Counts how often it was asked for the topics."""

    asked = 0

    def topics(self, timeout: float) -> set[str]:
        self.asked += 1
        return super().topics(timeout)


def test_which_topics_there_are_is_not_asked_from_within_a_callback() -> None:
    """There the client forgets over it that a poll is under way, and the next callback of that poll ends the process."""
    plan = make_plan(handler=lambda messages: None, topics=(TOPIC,), initial_offset="latest")
    with on_stage(plan, range(4)) as stage:
        client = stage.client = stage.group._client = cast(Any, Counting(stage.broker, stage.group))
        stage.group._pass()
        before = client.asked
        stage.assign()
        stage.settle()

    assert (before, client.asked) == (1, 1)
