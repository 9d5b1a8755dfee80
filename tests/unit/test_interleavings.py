"""Interleavings of poller, handler and broker that once lost messages, repeated them, or stood still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from swarm import Backoff, Consumer
from swarm.events import OffsetOutOfRange
from swarm.lane import Lane
from swarm.message import Messages
from swarm.plan import Plan, make_plan
from swarm.producer import JobProducer
from tests.unit.stage import TOPIC, on_stage, record

AT_ONCE = Backoff(initial=0.1, maximum=0.1, jitter=0.0)


def plan_of(handler: Any, **options: Any) -> Plan:
    return make_plan(handler=handler, topics=(TOPIC,), **{"backoff": AT_ONCE, "max_messages": 2, **options})


class Outlet:
    """A producer whose first delivery fails."""

    def __init__(self) -> None:
        self.delivered: list[bytes] = []
        self._first = True

    def produce(
        self, topic: str, value: bytes, key: bytes | None = None, *, on_delivery: Callable[..., None], **_: Any
    ) -> None:
        if self._first:
            self._first = False
            on_delivery(KafkaError(KafkaError._MSG_TIMED_OUT), None)
        else:
            self.delivered.append(value)
            on_delivery(None, None)


def test_a_seek_of_a_run_that_fails_loses_nothing_that_is_fetched_meanwhile() -> None:
    """The wish is dropped with the run; until then nothing that arrives is taken for stale."""
    handled: list[int] = []
    poll: list[Callable[[int], None]] = []

    class Seeker(Consumer):
        failed = False

        def consume(self, messages: Messages) -> None:
            if not Seeker.failed:
                Seeker.failed = True
                self.seek(0)
                poll[0](4)
                raise RuntimeError("after all")
            handled.extend(message.offset for message in messages)

    with on_stage(plan_of(Seeker), range(10)) as stage:
        poll.append(stage.poll)
        lane = stage.assign()
        stage.poll(2)
        stage.step()
        stage.settle()

        assert sorted(set(handled)) == list(range(10))
        assert lane.frontier == 10


def test_a_constructor_may_seek() -> None:
    """And the partition does not stand still for it."""
    handled: list[int] = []

    class Late(Consumer):
        def __init__(self) -> None:
            self.seek(5)

        def consume(self, messages: Messages) -> None:
            handled.extend(message.offset for message in messages)

    with on_stage(plan_of(Late), range(10)) as stage:
        stage.assign()
        for _ in range(30):
            stage.poll(3)
            stage.step()

        assert handled == [5, 6, 7, 8, 9]


def test_a_failed_delivery_that_commit_met_first_still_repeats_its_message() -> None:
    """`commit()` raises for it; the run that fails by that takes the mark back."""
    handled: list[int] = []
    outlet = Outlet()

    class Copier(Consumer):
        def consume(self, messages: Messages) -> None:
            for message in messages:
                handled.append(message.offset)
                self.producer.produce("out", str(message.offset).encode())
                self.commit(message)

    with on_stage(plan_of(Copier), range(3)) as stage:
        producer = JobProducer(lambda: outlet)  # type: ignore[arg-type,return-value]
        stage.group.make_job_producer = lambda: producer  # type: ignore[method-assign]
        stage.assign()
        stage.settle()

        assert outlet.delivered == [b"0", b"1", b"2"]
        assert handled == [0, 0, 1, 2]


def test_a_mark_in_a_hook_is_not_committed_when_its_output_was_not_delivered() -> None:
    """The messages that it stands for are handled again instead, and then it is."""
    outlet = Outlet()
    handled: list[int] = []

    class Summer(Consumer):
        def consume(self, messages: Messages) -> None:
            self.last = messages[-1]
            handled.extend(message.offset for message in messages)

        def on_idle(self) -> None:
            self.producer.produce("out", b"sum")
            self.mark_as_consumed(self.last)

    with on_stage(plan_of(Summer, offsets="manual"), range(2)) as stage:
        producer = JobProducer(lambda: outlet)  # type: ignore[arg-type,return-value]
        stage.group.make_job_producer = lambda: producer  # type: ignore[method-assign]
        stage.assign()
        stage.settle()
        stage.now += 5
        stage.poll()
        stage.poll()

        assert outlet.delivered == [b"sum"]
        assert handled == [0, 1, 0, 1]
        assert stage.broker.committed == {(TOPIC, 0): 2}


def test_at_most_once_never_commits_backwards_after_a_late_answer() -> None:
    """A commit that was given up may have arrived all the same."""
    during: list[int] = []
    polls: list[Callable[[], None]] = []

    class Once(Consumer):
        def consume(self, messages: Messages) -> None:
            polls[0]()
            during.append(stage.broker.committed[(TOPIC, 0)])

    with on_stage(plan_of(Once, delivery="at_most_once"), range(2)) as stage:

        def poll_later() -> None:
            stage.now += 5
            stage.poll()

        polls.append(poll_later)
        stage.assign()
        honest = stage.group.commit_now
        late: list[list[tuple[str, int, int]]] = []

        def gives_up_once(lane: Lane) -> bool:
            if late:
                return honest(lane)
            late.append([(TOPIC, 0, lane.frontier)])
            stage.broker.commit(late[0])
            return False

        stage.group.commit_now = gives_up_once  # type: ignore[method-assign]
        stage.poll()
        stage.step()
        stage.client.answers.append((None, late[0]))
        stage.poll()
        for _ in range(3):
            stage.step()

        assert during == [2]


def test_an_error_does_not_overtake_the_messages_that_were_fetched_before_it() -> None:
    """Out of range is met behind the last good messages: they are handled, then it goes on at the edge."""
    handled: list[int] = []

    def handler(messages: Messages) -> None:
        handled.extend(message.offset for message in messages)

    with on_stage(plan_of(handler, offset_out_of_range="earliest"), []) as stage:
        stage.assign()
        stage.broker.logs[(TOPIC, 0)] = list(range(100, 105))
        true_fetch = stage.client.fetch
        late: list[KafkaError] = []

        def fetch(most: int, timeout: float) -> list[Any]:
            stage.client.fetch = true_fetch  # type: ignore[method-assign]
            late.append(KafkaError(KafkaError._AUTO_OFFSET_RESET))
            return [record(0), record(1), record(2)]

        def tell_errors() -> None:
            while late:
                stage.group.on_error(late.pop(), TOPIC, 0, 3)

        def fetch_again(stopped: tuple[str, int], assignment: list[tuple[str, int, int]]) -> None:
            for topic, partition, offset in assignment:
                if (topic, partition) == stopped:
                    stage.client.position[stopped] = offset

        stage.client.fetch = fetch  # type: ignore[method-assign]
        stage.client.tell_errors = tell_errors  # type: ignore[method-assign]
        stage.client.edge = lambda *_, **__: 100  # type: ignore[attr-defined]
        stage.client.fetch_again = fetch_again  # type: ignore[attr-defined]
        stage.settle()

        assert handled == [0, 1, 2, 100, 101, 102, 103, 104]
        assert [event.offset for event in stage.events if isinstance(event, OffsetOutOfRange)] == [3]


def test_a_partition_that_a_starting_broker_denies_for_a_moment_is_consumed_all_the_same() -> None:
    """Assigned right after a broker's restart: its metadata may not know the topic yet."""
    handled: list[int] = []

    def handler(messages: Messages) -> None:
        handled.extend(message.offset for message in messages)

    with on_stage(plan_of(handler), range(3)) as stage:
        knows = stage.client.resolve
        denials = [KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))]

        def resolve(*about: Any, **options: Any) -> dict[tuple[str, int], int]:
            if denials:
                raise denials.pop()
            return knows(*about, **options)

        stage.client.resolve = resolve  # type: ignore[method-assign]
        stage.assign()
        stage.settle()

        assert handled == [0, 1, 2]
