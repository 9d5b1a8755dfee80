"""Transactional producing: which calls a transaction makes of its producer, and what follows from each answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from swarm import events, transactions
from swarm.bus import Bus
from swarm.transactions import Aborted, Seat, Transaction, Undecided, transactional_properties

Answer = Callable[[], None]


def refusal(code: int, *, fatal: bool = False, retriable: bool = False, abort: bool = False) -> Answer:
    """A call that is answered with an error."""

    def answer() -> None:
        raise KafkaException(KafkaError(code, "refused", fatal, retriable, abort))

    return answer


class Raw:
    """Confluent's producer: notes what it is asked, answers as it is told."""

    def __init__(self, properties: dict[str, Any], calls: list[str], answers: dict[str, list[Answer]]) -> None:
        self.properties = properties
        self._calls = calls
        self._answers = answers

    def _call(self, name: str) -> None:
        self._calls.append(name)
        if self._answers.get(name):
            self._answers[name].pop(0)()

    def init_transactions(self, timeout: float) -> None:
        self._call("init")

    def begin_transaction(self) -> None:
        self._call("begin")

    def produce(self, topic: str, **_: Any) -> None:
        self._call("produce")

    def send_offsets_to_transaction(self, positions: Any, membership: Any, timeout: float) -> None:
        self._call(f"offset {positions[0].offset} as {membership}")
        self._call("offsets")

    def commit_transaction(self, timeout: float) -> None:
        self._call("commit")

    def abort_transaction(self, timeout: float) -> None:
        self._call("abort")

    def flush(self, timeout: float) -> int:
        self._call("flush")
        return 0

    def poll(self, timeout: float) -> int:
        return 0


class Stage:
    """A seat, a lane at offset 5 with a frontier of 7, and what was said."""

    def __init__(self) -> None:
        self.said: list[events.Event] = []
        self.calls: list[str] = []
        self.answers: dict[str, list[Answer]] = {}
        self.made: list[Raw] = []
        properties = {"transaction.timeout.ms": 60_000}
        self.seat = Seat(lambda: properties, "shop.host.0.0", Bus([(events.Event, self.said.append)]), self._make)
        group = SimpleNamespace(name="shop", lock=threading.Lock(), member="member-1")
        self.lane: Any = SimpleNamespace(
            group=group, topic="orders", partition=3, lost=False, phase="running", closing="", committed=5, sent=5,
            frontier=7, retry_from=7, metadata=None, metadata_committed=None, log=None,
        )  # fmt: skip

    def _make(self, properties: dict[str, Any]) -> Raw:
        self.made.append(Raw(properties, self.calls, self.answers))
        return self.made[-1]

    def begin(self) -> Transaction:
        transaction = Transaction(self.seat, self.lane)
        self.calls.clear()
        return transaction


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_transaction_carries_outputs_and_the_offset_with_the_group_s_membership(stage: Stage) -> None:
    """In this order; then the lane knows what is committed."""
    transaction = stage.begin()
    transaction.produce("invoices", "x")
    transaction.commit(7)

    assert stage.calls == ["produce", "offset 7 as member-1", "offsets", "commit"]
    assert stage.lane.committed == 7
    with pytest.raises(RuntimeError, match="has ended"):
        transaction.produce("invoices", "late")


def test_outputs_without_a_new_offset_are_fenced_by_the_group_all_the_same(stage: Stage) -> None:
    """The offset goes along again: with it the broker checks that the partition is still this member's. Without outputs nothing is
    asked for nothing."""
    producing, idle = stage.begin(), None
    producing.produce("invoices", "x")
    producing.commit(5)
    assert stage.calls == ["produce", "offset 5 as member-1", "offsets", "commit"]

    idle = stage.begin()
    idle.commit(5)
    assert stage.calls == ["commit"]


def test_nothing_is_committed_for_a_partition_that_is_lost(stage: Stage) -> None:
    """Whatever the handler has produced by then."""
    transaction = stage.begin()
    transaction.produce("invoices", "x")
    stage.lane.lost = True

    with pytest.raises(Aborted, match="no longer ours"):
        transaction.commit(7)

    assert stage.calls == ["produce", "flush", "abort"]
    assert stage.lane.committed == 5


def test_an_abort_waits_until_its_messages_are_part_of_the_transaction(stage: Stage) -> None:
    """Else the broker refuses to end what it has not begun, which costs the producer."""
    transaction = stage.begin()
    transaction.produce("invoices", "x")
    transaction.abort()

    assert stage.calls == ["produce", "flush", "abort"]
    assert not stage.said


@pytest.mark.parametrize("step", ["offsets", "commit"])
def test_an_abortable_error_undoes_the_transaction_and_keeps_the_producer(stage: Stage, step: str) -> None:
    """A generation that has passed, say: for no fault of the handler's."""
    stage.answers[step] = [refusal(KafkaError.ILLEGAL_GENERATION, abort=True)]
    transaction = stage.begin()

    with pytest.raises(Aborted, match="ILLEGAL_GENERATION"):
        transaction.commit(7)

    assert stage.calls[-1] == "abort"
    assert stage.lane.committed == 5
    assert not stage.said


@pytest.mark.parametrize(
    ("code", "raised"), [(KafkaError.MSG_SIZE_TOO_LARGE, KafkaException), (KafkaError._MSG_TIMED_OUT, Aborted)]
)
def test_a_message_that_can_never_be_delivered_is_the_handler_s_failure(
    stage: Stage, code: int, raised: type[Exception]
) -> None:
    """With the reason of the message, which says more than the transaction's; a broker that was away is nobody's failure."""
    stage.answers["commit"] = [refusal(KafkaError._INCONSISTENT, abort=True)]
    transaction = stage.begin()
    stage.seat.report(KafkaError(code), None)
    stage.seat.report(KafkaError(KafkaError._PURGE_QUEUE), None)

    with pytest.raises(raised) as failure:
        transaction.commit(7)

    if raised is KafkaException:
        assert failure.value.args[0].code() == code


def test_a_fenced_commit_is_undecided_and_its_producer_replaced(stage: Stage) -> None:
    """Whether it happened only the broker knows; the next use makes a new producer of the same id."""
    stage.answers["commit"] = [refusal(KafkaError._FENCED, fatal=True)]
    transaction = stage.begin()

    with pytest.raises(Undecided):
        transaction.commit(7)

    assert [type(event) for event in stage.said] == [events.TransactionalProducerReplaced]
    stage.seat._not_before = 0.0
    stage.begin()
    assert [raw.properties["transactional.id"] for raw in stage.made] == ["shop.host.0.0"] * 2


@pytest.mark.parametrize("step", ["flush", "offsets", "commit", "abort"])
def test_a_fatal_error_that_meets_a_delivery_report_is_still_that_error(stage: Stage, step: str) -> None:
    """confluent-kafka makes a SystemError of the two: nothing of the runtime may end by it."""

    def both() -> None:
        raise SystemError("returned a result with an exception set") from KafkaException(
            KafkaError(KafkaError._FENCED, "fenced", True)
        )

    stage.answers[step] = [both]
    if step in ("flush", "abort"):
        stage.answers["offsets"] = [refusal(KafkaError.ILLEGAL_GENERATION, abort=True)]
    transaction = stage.begin()
    transaction.produce("invoices", "x")

    with pytest.raises((Aborted, Undecided)):
        transaction.commit(7)

    assert stage.lane.committed == 5


def test_a_broker_that_is_away_is_asked_again_but_not_for_long_once_the_lane_closes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that ran out of time is repeated, until somebody waits for the partition: then the outcome is left to the successor."""
    stage.answers["commit"] = [refusal(KafkaError._TIMED_OUT, retriable=True) for _ in range(3)]
    transaction = stage.begin()
    transaction.commit(7)
    assert stage.calls.count("commit") == 4

    monkeypatch.setattr(transactions, "UNKNOWN_AFTER", 0.0)
    stage.answers["commit"] = [refusal(KafkaError._TIMED_OUT, retriable=True) for _ in range(1000)]
    stage.lane.closing = "revoked"
    with pytest.raises(Undecided):
        stage.begin().commit(9)


@pytest.mark.parametrize("limit", ["HANGS_AFTER", "UNKNOWN_AFTER"])
def test_a_client_that_does_not_come_back_from_sending_offsets_is_left_behind(
    limit: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction did not happen, for it is never committed; the run is repeated with another producer. Sooner where the worker stops,
    which has no time for a broker that is away."""
    monkeypatch.setattr(transactions, "HANGS_AFTER", 30.0)
    monkeypatch.setattr(transactions, limit, 0.05)
    if limit == "UNKNOWN_AFTER":
        stage.lane.closing = "shutdown"
    gate = threading.Event()

    def hang() -> None:
        gate.wait(30)

    stage.answers["offsets"] = [hang]
    transaction = stage.begin()

    with pytest.raises(Aborted, match="did not come back"):
        transaction.commit(7)
    gate.set()

    assert "commit" not in stage.calls
    assert [type(event) for event in stage.said] == [events.TransactionalProducerReplaced]


def test_what_a_replaced_producer_left_open_is_ended_although_its_thread_has_nothing_more_to_do(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers wait for it. Tried until the broker is there; the new producer is the one that the thread's next run uses."""
    monkeypatch.setattr(transactions, "_REPLACE_PAUSE", 0.01)
    transaction = stage.begin()
    transaction.open = False
    stage.answers["init"] = [refusal(KafkaError._TIMED_OUT, retriable=True)]

    stage.seat.replace(KafkaError(KafkaError._TIMED_OUT, "it hangs"))

    assert stage.seat.until_ended(30)
    assert stage.calls == ["init", "init"]
    assert len(stage.made) == 2
    stage.begin()
    assert len(stage.made) == 2


def test_a_run_that_comes_while_a_producer_is_being_registered_waits_for_that_one(stage: Stage) -> None:
    """To register it a second time is refused by the client, and would cost the producer again."""
    stage.begin()
    registering, go_on = threading.Event(), threading.Event()

    def register() -> None:
        registering.set()
        assert go_on.wait(30)

    stage.answers["init"] = [register]
    stage.seat.replace(KafkaError(KafkaError._TIMED_OUT, "it hangs"))
    assert registering.wait(30)
    run = threading.Thread(target=stage.seat.producer)
    run.start()
    go_on.set()
    run.join(30)

    assert stage.seat.until_ended(30)
    assert stage.calls == ["init"]


def test_who_was_fenced_does_not_fence_its_successor_in_turn(stage: Stage) -> None:
    """What it had left open is ended already; a new producer is made when a run needs one."""
    stage.begin()

    stage.seat.replace(KafkaError(KafkaError._FENCED, "fenced", fatal=True))

    assert stage.seat.until_ended(30)
    assert stage.calls == []
    assert len(stage.made) == 1


def test_a_predecessor_s_transaction_is_ended_without_keeping_a_producer(stage: Stage) -> None:
    """By registering its id once; not beside a thread that has done so itself, for two fence each other; a broker that is away is said."""
    stage.seat.end_predecessor()
    assert stage.calls == ["init"]
    stage.begin()
    assert len(stage.made) == 2

    stage.seat.end_predecessor()
    assert len(stage.made) == 2

    absent = Stage()
    absent.answers["init"] = [refusal(KafkaError._TIMED_OUT, retriable=True)]
    absent.seat.end_predecessor()
    assert [type(event) for event in absent.said] == [events.ClientError]


def test_a_producer_that_is_refused_for_good_is_replaced_before_the_next_run(stage: Stage) -> None:
    """At its registration or when a transaction begins; one that finds nobody is kept and asked again."""
    stage.answers["init"] = [refusal(KafkaError._TIMED_OUT, retriable=True), refusal(KafkaError._FENCED, fatal=True)]
    for _ in range(2):
        with pytest.raises(Aborted):
            stage.begin()
    assert len(stage.made) == 1
    assert len(stage.said) == 1

    stage.seat._not_before = 0.0
    stage.answers["begin"] = [refusal(KafkaError._FENCED, fatal=True)]
    with pytest.raises(Aborted):
        stage.begin()
    assert len(stage.made) == 2
    assert len(stage.said) == 2


@pytest.mark.parametrize(
    ("user", "limit", "expected"),
    [
        ({}, 300.0, {"transaction.timeout.ms": 310_000, "linger.ms": 5, "retry.backoff.ms": 5}),
        ({}, 5.0, {"transaction.timeout.ms": 60_000}),
        ({}, 0.0, {"transaction.timeout.ms": 900_000}),
        (
            {"linger.ms": 50, "transaction.timeout.ms": 400_000},
            300.0,
            {"transaction.timeout.ms": 400_000, "linger.ms": 50},
        ),
        ({"enable.idempotence": False}, 300.0, {}),
    ],
)
def test_a_transactional_producer_outlives_the_longest_job_and_the_user_wins(
    user: dict[str, Any], limit: float, expected: dict[str, Any]
) -> None:
    """Within what brokers allow; idempotence is implied, and an explicit false would be refused."""
    made = transactional_properties(user, {"enable.idempotence": True, "linger.ms": 5, **user}, limit)

    assert {name: made[name] for name in expected} == expected
    assert "enable.idempotence" not in made


def test_what_follows_an_abort_has_an_epoch_of_its_own(stage: Stage) -> None:
    """A marker of the abort that comes late to a partition undoes what was written there under the same epoch."""
    transaction = stage.begin()
    transaction.produce("invoices", "x")
    transaction.abort()
    stage.begin()

    assert len(stage.made) == 2


def test_what_brokers_do_not_know_of_needs_none(stage: Stage) -> None:
    """Nothing was produced or committed in it; nor is an epoch spent on a commit."""
    stage.begin().abort()
    transaction = stage.begin()
    transaction.produce("invoices", "x")
    transaction.commit(7)
    stage.begin()

    assert len(stage.made) == 1
