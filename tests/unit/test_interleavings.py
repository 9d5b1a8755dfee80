"""Interleavings of poller, handler and broker that once lost messages, repeated them, or stood still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from swarm import Backoff, Consumer, DeadLetter, Message, VirtualPartitions
from swarm.events import ConsumeFailed, DeciderFailed, HookFailed, MessageDropped, OffsetOutOfRange
from swarm.lane import Lane
from swarm.message import Messages
from swarm.plan import Plan, make_plan
from swarm.producer import JobProducer
from tests.unit.stage import TOPIC, Stage, on_stage, record

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
        stage.client.edge = lambda *_, **__: 100  # type: ignore[method-assign]
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


# -- slices, decisions, transactions, metadata -----------------------------------------------------------------------


def keyed(stage: Stage, *keys: bytes) -> None:
    """A log whose messages have these keys."""
    stage.broker.logs[(TOPIC, 0)] = list(range(len(keys)))
    stage.broker.make = lambda offset, partition, topic: record(offset, partition, topic, key=keys[offset])


def letters(stage: Stage) -> list[int]:
    return [offset for offset, _ in stage.broker.letters]


def test_a_decider_is_asked_about_each_slice_by_its_own_failure() -> None:
    """One slice's message is to be skipped: another's, which failed at the same time, is not."""
    failures: dict[int, list[Exception]] = {0: [KeyError("skip me")] * 9, 1: [OSError("try again")]}
    handled: list[int] = []

    def handler(message: Message) -> None:
        if failures.get(message.offset):
            raise failures[message.offset].pop()
        handled.append(message.offset)

    letter = DeadLetter("dead", 5, lambda error, attempt: "skip" if isinstance(error, KeyError) else "retry")
    with on_stage(plan_of(handler, each=True, virtual_partitions=VirtualPartitions(), dead_letter=letter)) as stage:
        keyed(stage, b"a", b"b")
        stage.assign()
        stage.settle()
        stage.stop()

        assert handled == [1]
        assert [event.first_offset for event in stage.heard(MessageDropped)] == [0]


def test_a_decider_may_call_what_needs_the_workers_lock() -> None:
    """It is the application's code: held up, or calling back, it must not stand in the way of everybody."""

    class Counting(Consumer):
        def consume(self, messages: Messages) -> None:
            consumers.append((self, messages[0]))
            raise OSError

    consumers: list[Any] = []

    def decide(error: BaseException, attempt: int) -> Any:
        assert not stage.dispatcher.lock.locked()
        consumer, message = consumers[-1]
        consumer.mark_as_consumed(message, "text")
        return "skip"

    with on_stage(plan_of(Counting, dead_letter=DeadLetter("dead", 5, decide)), [0]) as stage:
        stage.assign()
        stage.settle()

        assert [event.first_offset for event in stage.heard(MessageDropped)] == [0]
        assert not stage.heard(DeciderFailed)


def test_at_most_once_drops_what_is_to_be_skipped() -> None:
    """`skip` is heard there too; only `retry` cannot be."""

    def handler(message: Message) -> None:
        raise KeyError if message.offset == 1 else OSError

    letter = DeadLetter("dead", 5, lambda error, attempt: "skip" if isinstance(error, KeyError) else "retry")
    with on_stage(plan_of(handler, each=True, delivery="at_most_once", dead_letter=letter), range(3)) as stage:
        stage.assign()
        stage.settle()

        assert letters(stage) == [0, 2]
        assert [event.first_offset for event in stage.heard(MessageDropped)] == [1]


def test_a_slice_that_marked_all_and_raised_is_done() -> None:
    """At-most-once without a dead letter topic: there is nothing left to drop, and nothing to fall over."""

    def handler(messages: Messages, consumer: Consumer) -> None:
        consumer.mark_as_consumed(messages[-1])
        raise OSError

    with on_stage(plan_of(handler, delivery="at_most_once", virtual_partitions=VirtualPartitions())) as stage:
        keyed(stage, b"a", b"b", b"a", b"b")
        stage.assign()
        stage.settle()

        assert len(stage.heard(ConsumeFailed)) == 4
        assert not stage.heard(MessageDropped)
        assert stage.messages == 4


def test_at_most_once_says_that_outputs_of_slices_were_not_delivered() -> None:
    """Nobody knows whose, so all that was not marked is set aside, as where a batch runs whole."""

    def handler(messages: Messages, consumer: Consumer) -> None:
        for message in messages:
            consumer.producer.produce("out", message.offset)  # type: ignore[arg-type]

    options = plan_of(
        handler, delivery="at_most_once", virtual_partitions=VirtualPartitions(), dead_letter=DeadLetter("dead")
    )
    with on_stage(options) as stage:
        keyed(stage, b"a", b"b")
        stage.broker.output_failures = 1
        stage.assign()
        stage.settle()

        assert stage.heard(ConsumeFailed)
        assert sorted(letters(stage)) == [0, 1]


def test_what_the_end_of_an_assignment_cuts_off_is_said_once() -> None:
    """At-most-once: the message that failed with its error, those behind it with the reason why they never ran."""

    def handler(message: Message) -> None:
        stage.group._begin_release([(TOPIC, 0)], "revoked")
        raise OSError(message.offset)

    with on_stage(plan_of(handler, each=True, delivery="at_most_once", max_messages=3), range(3)) as stage:
        stage.assign()
        stage.poll()
        stage.step()
        stage.revoke()

        failed, unheard = stage.heard(MessageDropped)
        assert (failed.first_offset, failed.last_offset) == (0, 0)
        assert "OSError" in failed.error
        assert (unheard.first_offset, unheard.last_offset) == (1, 2)


def test_exactly_once_sets_a_message_aside_at_once_where_one_attempt_is_all_it_gets() -> None:
    """What was undone with it runs alone first; the message itself is not tried again, and nobody else is blamed."""
    runs: list[int] = []

    def handler(message: Message, consumer: Consumer) -> None:
        runs.append(message.offset)
        consumer.producer.produce("out", message.offset)  # type: ignore[arg-type]
        if message.offset == 2:
            raise OSError

    options = plan_of(handler, each=True, delivery="exactly_once", dead_letter=DeadLetter("dead", 1), max_messages=4)
    with on_stage(options, range(4)) as stage:
        stage.assign()
        stage.settle()

        assert runs == [0, 1, 2, 0, 1, 3]
        assert letters(stage) == [2]
        assert [value for _, value in stage.broker.outputs] == [0, 1, 3]


def test_exactly_once_counts_each_messages_own_failures() -> None:
    """One that failed once is not set aside because another one of its batch has failed before."""
    course: list[int] = []

    def in_turn(message: Message, consumer: Consumer) -> None:
        course.append(message.offset)
        if (message.offset, course.count(message.offset)) in [
            (3, 1),
            (0, 2),
        ]:  # 3 undoes 0, which fails when it is repeated
            raise OSError

    options = plan_of(in_turn, each=True, delivery="exactly_once", dead_letter=DeadLetter("dead", 2), max_messages=4)
    with on_stage(options, range(4)) as stage:
        stage.assign()
        stage.settle()

        assert not stage.broker.letters
        assert stage.broker.committed == {(TOPIC, 0): 4}


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_text_that_the_broker_would_refuse_is_a_failure_of_its_message(delivery: str) -> None:
    """And not of each commit from then on."""

    def handler(message: Message, consumer: Consumer) -> None:
        consumer.mark_as_consumed(message, "ä" * (2049 if message.offset == 1 else 2048))

    options = plan_of(handler, each=True, delivery=delivery, dead_letter=DeadLetter("dead", 1))
    with on_stage(options, range(3)) as stage:
        stage.assign()
        stage.settle()
        stage.stop()

        assert [offset for offset, _ in stage.broker.letters] == [1]
        assert stage.broker.committed == {(TOPIC, 0): 3}


def test_metadata_of_marks_that_were_undone_is_undone_too() -> None:
    """A running total kept there would count a message twice else."""
    seen: list[str | None] = []

    def handler(messages: Messages, consumer: Consumer) -> None:
        seen.append(consumer.offset_metadata)
        total = int(consumer.offset_metadata or 0)
        for message in messages:
            total += 1
            consumer.mark_as_consumed(message, str(total))

    with on_stage(plan_of(handler, delivery="exactly_once", max_messages=3), range(3)) as stage:
        stage.broker.abort_next = 1
        stage.assign()
        stage.settle()

        assert seen == [None, None]
        assert stage.broker.metadata == {(TOPIC, 0): "3"}


def test_metadata_that_was_refused_is_sent_again_although_the_offset_was_not() -> None:
    """Two commits of one offset are under way: the answer to the first says nothing of the second one's text."""

    class Texts(Consumer):
        def consume(self, messages: Messages) -> None:
            self.mark_as_consumed(messages[-1], "one")
            stage.group.commits.send(stage.group._client)  # type: ignore[arg-type]
            self.mark_as_consumed(messages[-1], "two")
            stage.broker.refuse = KafkaError(KafkaError.ILLEGAL_GENERATION)
            stage.group.commits.send(stage.group._client)  # type: ignore[arg-type]

    with on_stage(plan_of(Texts), range(2)) as stage:
        stage.assign()
        stage.settle()
        stage.stop()

        assert stage.broker.metadata == {(TOPIC, 0): "two"}


def test_nothing_of_an_open_transaction_is_committed_beside_it() -> None:
    """Not its metadata either: that commit's offset could arrive after the transaction's, and take it back."""

    def handler(messages: Messages, consumer: Consumer) -> None:
        with consumer.transaction():
            consumer.mark_as_consumed(messages[-1], "text")
            stage.group.commits.send(stage.group._client)  # type: ignore[arg-type]
            beside.append(dict(stage.broker.metadata))

    beside: list[Any] = []
    with on_stage(plan_of(handler), range(2)) as stage:
        stage.assign()
        stage.settle()

        assert beside == [{}]
        assert stage.broker.metadata == {(TOPIC, 0): "text"}


def test_a_seek_backwards_reaches_the_broker_although_the_first_commit_was_refused() -> None:
    """The partition goes to somebody else right then: that one begins where the handler sought to."""
    runs: list[int] = []

    def handler(messages: Messages, consumer: Consumer) -> None:
        runs.append(messages.last_offset)
        if messages.last_offset == 5 and runs.count(5) == 1:
            consumer.mark_as_consumed(messages[-1])
            consumer.commit()
            consumer.seek(2)

    with on_stage(plan_of(handler), range(6)) as stage:
        stage.assign()
        while 5 not in runs:
            stage.poll()
            stage.step()
        assert stage.broker.committed == {(TOPIC, 0): 6}
        stage.broker.refuse = KafkaError(KafkaError.ILLEGAL_GENERATION)
        stage.now += 5
        stage.poll()
        stage.revoke()

        assert stage.broker.committed == {(TOPIC, 0): 2}


def test_at_most_once_commits_first_also_after_a_seek_backwards() -> None:
    """The seek's commit is under way: what was committed before it is not what the broker holds when the messages run again."""
    held: list[tuple[int, int]] = []

    def handler(messages: Messages, consumer: Consumer) -> None:
        held.append((messages.last_offset, stage.broker.committed[(TOPIC, 0)]))
        if len(held) == 1:
            consumer.seek(0)

    with on_stage(plan_of(handler, delivery="at_most_once"), range(2)) as stage:
        stage.assign()
        stage.poll()
        stage.step()
        stage.poll()
        stage.group.commits.send(stage.group._client)  # type: ignore[arg-type]
        assert stage.broker.committed == {(TOPIC, 0): 0}
        stage.step()

        assert held == [(1, 2), (1, 2)]


def test_a_search_that_a_seek_ended_has_no_consequence_later() -> None:
    """A message that fails for the first time afterwards has all its attempts."""
    runs: list[list[int]] = []

    def handler(messages: Messages, consumer: Consumer) -> None:
        offsets = [message.offset for message in messages]
        runs.append(offsets)
        if len(runs) <= 2 and 3 in offsets:
            raise OSError
        if len(runs) == 3:
            consumer.seek(4)
        elif 6 in offsets and len(runs) == 4:
            raise OSError

    with on_stage(plan_of(handler, max_messages=4, dead_letter=DeadLetter("dead", 2)), range(8)) as stage:
        stage.assign()
        stage.settle()

        assert runs == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1], [4, 5, 6, 7], [4, 5, 6, 7]]
        assert not stage.broker.letters


def test_a_transaction_of_ones_own_is_refused_with_virtual_partitions_whatever_the_batch() -> None:
    """Also where the batch has one key only, and would not be divided: else it would work on some days."""

    def handler(messages: Messages, consumer: Consumer) -> None:
        with consumer.transaction():
            pass

    with on_stage(plan_of(handler, virtual_partitions=VirtualPartitions(), dead_letter=DeadLetter("dead", 1))) as stage:
        keyed(stage, b"a", b"a")
        stage.assign()
        stage.settle()

        assert "virtual" in stage.heard(ConsumeFailed)[0].error


def test_on_idle_comes_also_where_the_last_messages_were_skipped() -> None:
    """The messages in hand have run out."""
    heard: list[str] = []

    class Flusher(Consumer):
        def consume(self, messages: Messages) -> None:
            heard.append(f"consume {messages.first_offset}")

        def on_idle(self) -> None:
            heard.append("idle")

    with on_stage(plan_of(Flusher, filter=lambda message: message.offset < 2), range(4)) as stage:
        stage.assign()
        stage.settle()

        assert heard == ["consume 0", "idle"]


def test_messages_whose_commit_was_under_way_when_the_assignment_ended_are_said_to_be_dropped_perhaps() -> None:
    """At-most-once: if the broker has carried it out, nobody runs them; if it has not, they were spoken of for nothing."""
    with on_stage(plan_of(lambda messages: None, delivery="at_most_once", max_messages=3), range(3)) as stage:
        stage.assign()
        stage.poll()
        stage.broker.refuse = KafkaError(KafkaError._TIMED_OUT)
        stage.step()
        stage.group.commits.on_committed(KafkaError(KafkaError._TIMED_OUT), [(TOPIC, 0, 3)], {})
        stage.revoke()

        [dropped] = stage.heard(MessageDropped)
        assert (dropped.first_offset, dropped.last_offset) == (0, 2)
        assert "under way" in dropped.error


def test_on_assigned_waits_for_its_transaction_and_nothing_runs_before_it() -> None:
    """The broker is away for a moment: the hook is not skipped, for what it prepares is needed."""
    said: list[str] = []

    class Orders(Consumer):
        def on_assigned(self) -> None:
            said.append("assigned")

        def consume(self, messages: Messages) -> None:
            said.append("consume")

    with on_stage(plan_of(Orders, delivery="exactly_once", max_messages=3), range(3)) as stage:
        stage.broker.absent_next = 2
        stage.assign()
        stage.settle()

        assert said == ["assigned", "consume"]
        assert not stage.heard(HookFailed)


def test_a_worker_that_the_group_does_not_know_begins_nothing_more_for_a_while() -> None:
    """Somebody else may have its partitions: whatever it did would be done twice. Where nobody takes them, it goes on."""
    with on_stage(plan_of(lambda messages: None, max_messages=1), range(3)) as stage:
        lane = stage.assign()
        stage.poll()
        stage.step()
        stage.group.commits.on_committed(KafkaError(KafkaError.UNKNOWN_MEMBER_ID), [(TOPIC, 0, 1)], {})
        told = stage.now
        assert stage.messages == 1

        stage.step()
        assert stage.messages == 2
        assert stage.now - told >= 2.0

        stage.group.commits.on_committed(KafkaError(KafkaError.FENCED_INSTANCE_ID), [(TOPIC, 0, 2)], {})
        stage.lose()
        assert not stage.step()
        assert lane.phase == "closed"
        assert stage.messages == 2
