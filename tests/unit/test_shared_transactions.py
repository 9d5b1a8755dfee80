"""Several partitions' runs in one transaction (`transaction_partitions=`): who joins, what is committed together, and what a failure undoes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from swarm import Backoff, Consumer, DeadLetter, Messages, RateLimit
from swarm.events import ConsumeFailed, TransactionAborted
from swarm.plan import Plan, make_plan
from swarm.processing import SHARED_FOR
from tests.unit.stage import TOPIC, Stage, TransactionalProducer, TransactionError

AT_ONCE = Backoff(initial=0.1, maximum=0.1, jitter=0.0)


class Copier(Consumer):
    """Produces the name of each message; `meanwhile` is called in each run after the first of a partition."""

    meanwhile: Callable[[Messages], None] = staticmethod(lambda messages: None)

    def consume(self, messages: Messages) -> None:
        for message in messages:
            self.producer.produce("out", f"{message.partition}/{message.offset}")
        if messages[0].offset:
            type(self).meanwhile(messages)


def copier(meanwhile: Callable[[Messages], None] = lambda messages: None) -> Any:
    return type("Fresh", (Copier,), {"meanwhile": staticmethod(meanwhile)})


@contextmanager
def warm(handler: Any, partitions: int = 3, **options: Any) -> Iterator[tuple[Stage, list[list[tuple[int, int]]]]]:
    """A stage whose partitions have each handled their message 0, and what was committed together since: (partition, offset)."""
    settings = {"delivery": "exactly_once", "backoff": AT_ONCE, "transaction_partitions": 8, **options}
    plan: Plan = make_plan(handler=handler, topics=(TOPIC,), **settings)
    stage = Stage(plan)
    together: list[list[tuple[int, int]]] = []
    happen = TransactionalProducer._happen

    def noted(producer: TransactionalProducer) -> None:
        together.append([(partition, offset) for _, partition, offset, _ in producer.offsets])
        happen(producer)

    TransactionalProducer._happen = noted  # type: ignore[assignment,method-assign]
    try:
        for partition in range(partitions):
            stage.broker.logs[(TOPIC, partition)] = [0]
            stage.assign(partition)
        stage.settle()
        together.clear()
        stage.broker.outputs.clear()
        for partition in range(partitions):
            stage.broker.logs[(TOPIC, partition)] = [0, 1]
        yield stage, together
    finally:
        TransactionalProducer._happen = happen  # type: ignore[method-assign]
        stage.close()


def fails_once() -> Callable[[Messages], None]:
    """The first such run of partition 1 fails."""
    failing = [True]

    def fail(messages: Messages) -> None:
        if messages.partition == 1 and failing and failing.pop():
            raise RuntimeError("once")

    return fail


def outputs(stage: Stage) -> list[str]:
    return sorted(value for _, value in stage.broker.outputs)


def test_what_is_ready_is_committed_together() -> None:
    """One transaction with the outputs and the offsets of all."""
    with warm(copier()) as (stage, together):
        stage.settle()

        assert together == [[(0, 2), (1, 2), (2, 2)]]
        assert outputs(stage) == ["0/1", "1/1", "2/1"]
        assert [lane.committed for lane in stage.group.lanes.values()] == [2, 2, 2]


def test_each_has_its_own_unless_that_is_asked_for() -> None:
    """One is the default."""
    with warm(copier(), transaction_partitions=1) as (stage, together):
        stage.settle()

        assert together == [[(0, 2)], [(1, 2)], [(2, 2)]]


def test_no_more_than_so_many_share_one() -> None:
    """The rest has the next one."""
    with warm(copier(), transaction_partitions=2) as (stage, together):
        stage.settle()

        assert together == [[(0, 2), (1, 2)], [(2, 2)]]


def test_none_joins_one_that_has_been_open_for_long() -> None:
    """Readers, and whoever is to get a partition, wait for the commit."""

    def slow(messages: Messages) -> None:
        stage.now += SHARED_FOR

    with warm(copier(slow)) as (stage, together):
        stage.settle()

        assert together == [[(0, 2)], [(1, 2)], [(2, 2)]]


def test_a_failure_undoes_all_and_each_goes_alone_then() -> None:
    """Nothing of the others happened, nothing of it counts as their failure; whoever fails again takes nobody along."""
    with warm(copier(fails_once())) as (stage, together):
        stage.settle()

        assert sorted(together) == [[(0, 2)], [(1, 2)], [(2, 2)]]
        assert outputs(stage) == ["0/1", "1/1", "2/1"]
        assert [said.partition for said in stage.heard(ConsumeFailed)] == [1]
        undone = stage.heard(TransactionAborted)
        assert [(said.partition, "orders/1" in said.error) for said in undone] == [(0, True)]
        assert [lane.attempt for lane in stage.group.lanes.values()] == [1, 1, 1]


def test_once_it_is_over_they_share_again() -> None:
    """What went alone was a success."""
    with warm(copier(fails_once())) as (stage, together):
        stage.settle()
        together.clear()
        for partition in range(3):
            stage.broker.logs[(TOPIC, partition)].append(2)
        stage.settle()

        assert [sorted(each) for each in together] == [[(0, 3), (1, 3), (2, 3)]]


def test_a_poison_message_is_set_aside_and_nobody_else_sees_more_of_it_than_one_repetition() -> None:
    """Its own dead letter and offset are one transaction, as without sharing."""
    runs: list[int] = []

    def fail(messages: Messages) -> None:
        runs.append(messages.partition)
        if messages.partition == 1:
            raise RuntimeError("always")

    with warm(copier(fail), dead_letter=DeadLetter("dead", 3)) as (stage, _):
        runs.clear()
        stage.settle()

        assert outputs(stage) == ["0/1", "2/1"]
        assert stage.broker.letters_from == [(1, 1)]
        assert stage.broker.committed == {(TOPIC, partition): 2 for partition in range(3)}
        assert runs.count(0) <= 2
        assert runs.count(2) <= 2


def test_a_commit_that_is_refused_repeats_all_of_them() -> None:
    """As undone runs, not as failures."""
    with warm(copier()) as (stage, together):
        stage.broker.abort_next = 1
        stage.settle()

        assert sorted(each for transaction in together for each in transaction) == [(0, 2), (1, 2), (2, 2)]
        assert outputs(stage) == ["0/1", "1/1", "2/1"]
        assert sorted(said.partition for said in stage.heard(TransactionAborted)) == [0, 1, 2]
        assert not stage.heard(ConsumeFailed)


def test_a_commit_without_an_answer_is_asked_after_for_each() -> None:
    """Each partition goes on where the broker says that it stands: nothing twice, nothing lost."""
    for happened in (True, False):
        with warm(copier()) as (stage, _):
            stage.broker.undecided_next = [happened]
            stage.settle()

            assert outputs(stage) == ["0/1", "1/1", "2/1"]
            assert stage.broker.committed == {(TOPIC, partition): 2 for partition in range(3)}


def test_whose_output_can_never_be_delivered_is_found_by_running_each_alone() -> None:
    """Of several runs nobody knows whose message it was; alone it is a failure of its handler."""

    def refuse(producer: TransactionalProducer, timeout: float) -> None:
        if any(value == "1/1" for _, value, _ in producer.outputs):
            processor._seat.undelivered = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
            raise KafkaException(TransactionError(abort=True))
        commit(producer, timeout)

    with warm(copier(), dead_letter=DeadLetter("dead", 2)) as (stage, _):
        commit, processor = TransactionalProducer.commit_transaction, stage.processor
        TransactionalProducer.commit_transaction = refuse  # type: ignore[assignment,method-assign]
        try:
            stage.settle()
        finally:
            TransactionalProducer.commit_transaction = commit  # type: ignore[method-assign]

        assert outputs(stage) == ["0/1", "2/1"]
        assert stage.broker.letters_from == [(1, 1)]
        assert {said.partition for said in stage.heard(ConsumeFailed)} == {1}


def test_a_partition_that_is_lost_meanwhile_undoes_the_others_once() -> None:
    """Nothing may be committed for it; they run again, alone."""

    def lose(messages: Messages) -> None:
        if messages.partition == 1:
            stage.lose(1)

    with warm(copier(lose)) as (stage, together):
        stage.settle()

        assert sorted(each for transaction in together for each in transaction) == [(0, 2), (2, 2)]
        assert outputs(stage) == ["0/1", "2/1"]


def test_no_further_one_begins_once_the_worker_is_quiet() -> None:
    """Those that were begun are committed."""

    def be_quiet(messages: Messages) -> None:
        stage.quiet(True)

    with warm(copier(be_quiet)) as (stage, together):
        stage.poll()
        stage.step()

        assert together == [[(0, 2)]]


def test_who_is_over_its_rate_does_not_hold_up_the_transaction() -> None:
    """It is let go again, and runs when it may."""
    with warm(copier(), rate_limit=RateLimit(2, 10.0)) as (stage, together):
        stage.now += 100.0
        stage.settle()

        assert together[0] == [(0, 2), (1, 2)]
        assert [(2, 2)] in together[1:]


def test_another_thread_leaves_them_to_the_one_that_shares() -> None:
    """While it does; others of the group it may take."""
    with warm(copier()) as (stage, _):
        stage.poll()
        with stage.dispatcher.lock:
            ready = list(stage.dispatcher._ready)
        assert len(ready) == 3
        first = stage.dispatcher.next()
        assert first is ready[0]
        stage.dispatcher._sharing = {-1: stage.dispatcher._sharing.popitem()[1]}  # as if it were another thread's
        stage.dispatcher._work.wait = give_up  # type: ignore[method-assign]
        try:
            found = stage.dispatcher.next()
        except NothingToDo:
            found = None
        assert found is None
        assert stage.dispatcher.take_another(ready[0]) is ready[1]


class NothingToDo(Exception):
    """A thread would wait now."""


def give_up(timeout: float | None = None) -> bool:
    raise NothingToDo
