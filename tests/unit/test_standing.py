"""Which partitions stand still although their log grows: only those that nothing else explains, and each is sought once."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.events import PartitionStands
from swarm.group import Group
from swarm.message import Messages
from swarm.pauses import Pauses
from swarm.plan import make_plan
from swarm.standing import LATE, Key, Sight, Standing, Stood
from tests.unit.stage import TOPIC, on_stage

TIMEOUT = 60.0
KEY = ("orders", 0)


class Log:
    """A partition, its poller once a second, and a broker that answers or does not."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.idle, self.position, self.heard, self.end = True, 5, 5, 9
        self.answers = True
        self.asked = 0
        self.standing = Standing(TIMEOUT)
        self.sought: list[Stood] = []

    def pass_(self, seconds: float, step: float = 1.0) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += step
            ask = self.standing.look([Sight(KEY, self.idle, self.position, self.heard)], self.now)
            if ask:
                self.asked += 1
                ends: dict[Key, int] | None = dict.fromkeys(ask, self.end) if self.answers else None
                self.standing.told(ends, self.now)
            self.sought += self.standing.due(self.now)

    @property
    def stands(self) -> bool:
        return bool(self.standing.since(KEY))


def test_a_partition_of_which_the_client_hears_nothing_is_sought_once_and_stands_on() -> None:
    """Within a quarter of the timeout after it has passed; the instant stays, for the supervisor to judge the rest."""
    log = Log()

    log.pass_(TIMEOUT * 1.3)
    since = log.standing.since(KEY)
    log.pass_(TIMEOUT)

    assert [(each.key, each.position, each.end) for each in log.sought] == [(KEY, 5, 9)]
    assert TIMEOUT <= log.sought[0].seconds <= TIMEOUT + 1
    assert 1000.0 < since <= 1000.0 + TIMEOUT / 2
    assert log.standing.since(KEY) == since


@pytest.mark.parametrize(
    "explained",
    [
        {"idle": False},  # running, retried, paused, limited, quiet, held back
        {"answers": False},  # the broker is away
        {"end": 5},  # there is nothing
        {"heard": 9},  # fetches tell of the end: what lies between is passed over, or belongs to an open transaction
        {"position": 9},
    ],
)
@pytest.mark.parametrize("before", [0.0, 30.0, 100.0])
def test_what_explains_a_standstill_ends_it(explained: dict[str, Any], before: float) -> None:
    """At any time: also where it began only after the partition had stood for a while."""
    log = Log()
    log.pass_(before)
    sought = list(log.sought)
    for name, value in explained.items():
        setattr(log, name, value)

    log.pass_(2 * TIMEOUT)

    assert log.sought == sought
    assert not log.stands


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(1.0, 59.0), st.sampled_from(["position", "heard", "idle"])), max_size=12))
def test_slow_is_not_stuck(moves: list[tuple[float, str]]) -> None:
    """Whoever moves, or has something in hand, once within each timeout is left alone, however far behind it is."""
    log = Log()
    log.end = 1_000_000
    for seconds, what in moves:
        log.pass_(seconds)
        if what == "idle":
            log.idle = False
            log.pass_(1.0)
            log.idle = True
        else:
            setattr(log, what, getattr(log, what) + 1)

    assert log.sought == []


def test_a_poller_that_stood_still_itself_judges_nobody() -> None:
    """A machine that slept, or a long rebalance: all is seen anew."""
    log = Log()
    log.pass_(TIMEOUT / 2)
    before = log.stands
    log.now += TIMEOUT
    log.pass_(LATE)

    assert (before, log.stands) == (True, False)
    assert log.sought == []


def test_the_broker_is_asked_rarely_and_more_rarely_while_it_is_silent() -> None:
    """Each question may hold up the poller; of partitions that move nothing is asked."""
    moving, quiet, away = Log(), Log(), Log()
    quiet.end, away.answers = 5, False
    for _ in range(600):
        moving.position += 1
        for log in (moving, quiet, away):
            log.pass_(1.0)

    assert moving.asked == 0
    assert 30 <= quiet.asked <= 40
    assert away.asked <= 10


@pytest.mark.parametrize(("wait", "looked_at"), [("500", True), ("29999", True), ("30000", False)])
def test_where_fetches_may_be_silent_for_long_their_silence_says_nothing(wait: str, looked_at: bool) -> None:
    """`fetch.wait.max.ms` with a large `fetch.min.bytes`: a broker that gathers is not stuck."""
    plan = make_plan(handler=lambda messages: None, topics=(TOPIC,))
    with on_stage(plan, range(1)) as stage:
        stage.runtime.standing_timeout = TIMEOUT
        group = Group(stage.runtime, "other", [plan], {"fetch.wait.max.ms": wait})

        assert bool(group.standing.timeout) is looked_at


def test_a_worker_seeks_a_partition_that_its_client_does_not_hear_of() -> None:
    """To where it stands: nothing is repeated and nothing passed over. One that is paused is left alone."""
    handled: list[int] = []

    def batch(messages: Messages) -> None:
        handled.extend(message.offset for message in messages)

    with on_stage(make_plan(handler=batch, topics=(TOPIC,)), range(4)) as stage:
        client: Any = stage.client
        stage.group.standing = Standing(8.0)
        asked: list[list[Key]] = []

        def ends(partitions: list[Key], timeout: float) -> dict[Key, int]:
            asked.append(partitions)
            if len(asked) == 1:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            return dict.fromkeys(partitions, len(stage.broker.logs[(TOPIC, 0)]))

        def pass_(seconds: int) -> None:
            for _ in range(seconds):
                stage.now += 1.0
                stage.poll()
                stage.step()

        client.ends = ends
        client.high_watermark = lambda *key: 4  # of the last fetch that was answered
        stage.assign()
        pass_(5)
        log = stage.broker.logs[(TOPIC, 0)]
        deaf = client.position.pop((TOPIC, 0))  # its fetches have no answer any more
        log += [4, 5]
        stage.pause(Pauses([{"paused": True, "topic": TOPIC, "partition": 0, "group": None}]))
        pass_(40)
        before, told_of = len(asked), stage.heard(PartitionStands)
        stage.pause(Pauses())
        pass_(40)

        assert (deaf, before, told_of) == (4, 1, [])
        assert handled == [0, 1, 2, 3, 4, 5]
        (stood,) = stage.heard(PartitionStands)
        assert (stood.offset, stood.end, stood.action) == (4, 6, "seek")
        assert stood.seconds >= 8.0
        assert not stage.group.standing.since((TOPIC, 0))
