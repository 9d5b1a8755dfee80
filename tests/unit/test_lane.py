"""What becomes of messages between the client and the broker's committed offsets: random histories, and the edges one by one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import Backoff, Consumer, DeadLetter, Message, Messages, events
from swarm.plan import Plan, make_plan
from swarm.scoreboard import ERRORS, RETRIES
from tests.unit.stage import TOPIC, Stage, on_stage, record

NO_WAIT = Backoff(initial=0.1, maximum=0.1, jitter=0.0)
ALWAYS = 10**9


def plan(handler: Any, **options: Any) -> Plan:
    return make_plan(handler=handler, topics=(TOPIC,), **{"backoff": NO_WAIT, "max_messages": 8, **options})


class Failure(Exception):
    """What a handler of these tests raises."""


class World:
    """A random history of one partition: what the handler does, what the group does meanwhile, and what is true of both."""

    def __init__(self, seed: int, *, each: bool, manual: bool = False, once: bool = False, **chaos: bool) -> None:
        self.random = random.Random(seed)
        self.chaos = chaos
        self.each, self.manual, self.once = each, manual, once
        self.letters = self.random.random() < 0.7
        self.attempts = self.random.randint(1, 4)
        offset, self.log = 0, []
        for _ in range(self.random.randint(1, 40)):
            offset += 1 if self.random.random() < 0.8 else self.random.randint(2, 5)
            self.log.append(offset)
        self.failures: dict[int, int] = {}
        flaky = 0
        for offset in self.log:
            if self.random.random() < 0.15:
                # A batch counts its attempts as a whole: two that fail now and then might be taken for one that always does.
                forever = self.letters and (self.random.random() < 0.6 or self.attempts == 1 or (flaky and not each))
                flaky += not forever
                self.failures[offset] = ALWAYS if forever else self.random.randint(1, max(1, self.attempts - 1))
        self.poison = {offset for offset, count in self.failures.items() if count == ALWAYS}
        self.begun: Counter[int] = Counter()
        self.handled: Counter[int] = Counter()
        self.done: set[int] = set()
        self.order: list[int] = []
        self.row: Counter[int] = Counter()
        """Failures in a row per message, as its `attempt` should count them."""
        self.inside = False
        self.calm = False
        self.release: list[str] = []
        self.wrong: list[str] = []
        self.stage: Stage

    # -- the application ---------------------------------------------------------------------------------------------

    def batch(self, messages: Messages, consumer: Consumer) -> None:
        self.enter()
        offsets = [message.offset for message in messages]
        self.begun.update(offsets)
        for number, message in enumerate(messages):
            self.meanwhile()
            if self.fails(message.offset):
                if self.manual or self.maybe("marks", 0.5):
                    self.mark(consumer, messages, number)
                self.leave()
                raise Failure(message.offset)
        if self.manual:
            self.mark(consumer, messages, len(messages))
        if self.maybe("pauses", 0.1):
            consumer.pause(self.random.choice([0.0, 1.0, 10.0]))
        else:
            self.succeed(offsets)
        self.leave()

    def one(self, message: Message, consumer: Consumer) -> None:
        self.enter()
        offset = message.offset
        self.begun[offset] += 1
        said = (message.attempt, consumer.attempt, self.row[offset] + 1)
        self.expect(len(set(said)) == 1, f"attempt of {offset} miscounted: message, consumer, truth = {said}")
        row = self.row
        self.meanwhile()
        if self.fails(offset):
            self.row[offset] += row is self.row  # of a former assignment, it does not count in the present one
            self.leave()
            raise Failure(offset)
        self.row[offset] = 0
        if self.manual and self.random.random() < 0.5 and consumer.mark_as_consumed(message):
            self.done |= {other for other in self.log if other <= offset}
        if self.maybe("pauses", 0.1):
            consumer.pause(self.random.choice([0.0, 1.0, 10.0]))
        else:
            self.succeed([offset])
        self.leave()

    def enter(self) -> None:
        self.expect(not self.inside, "two jobs of one partition at once")
        self.inside = True

    def expect(self, holds: bool, otherwise: str) -> None:
        """An assertion inside a handler: to raise there would only be a failed attempt."""
        if not holds:
            self.wrong.append(otherwise)

    def leave(self) -> None:
        self.inside = False

    def maybe(self, what: str, chance: float) -> bool:
        return self.chaos.get(what, False) and not self.calm and self.random.random() < chance

    def fails(self, offset: int) -> bool:
        left = self.failures.get(offset, 0)
        if left and left != ALWAYS:
            self.failures[offset] = left - 1
        return left > 0

    def mark(self, consumer: Consumer, messages: Messages, end: int) -> None:
        """Mark some of what was done, perhaps the wrong way round."""
        for number in sorted(self.random.sample(range(end), min(end, 2)), reverse=self.random.random() < 0.3):
            if consumer.mark_as_consumed(messages[number]):
                self.done |= {offset for offset in self.log if offset <= messages[number].offset}

    def succeed(self, offsets: list[int]) -> None:
        self.handled.update(offsets)
        self.order.extend(offsets)
        if not self.manual:
            self.done |= set(offsets)

    # -- the group ---------------------------------------------------------------------------------------------------

    def meanwhile(self) -> None:
        """The poller's thread, in the middle of a handler or of a dead letter's delivery."""
        if self.calm or self.random.random() > 0.15 or self.release:
            return
        match self.random.choice(["commit", "poll", "revoke", "lose"]):
            case "commit":
                self.commit()
            case "poll":
                self.stage.poll(self.random.randint(1, 10))
            case "revoke" if self.chaos.get("rebalances"):
                self.stage.group._begin_release([(TOPIC, 0)], "revoked")
                self.release.append("revoke")
            case "lose" if self.chaos.get("losses"):
                self.stage.lose()
                self.row = Counter()
                self.stage.assign()
            case _:
                pass

    def commit(self) -> None:
        if self.maybe("refusals", 0.3):
            self.stage.broker.refuse = KafkaError(KafkaError.ILLEGAL_GENERATION)
        assert self.stage.group._client is not None
        self.stage.group.commits.send(self.stage.group._client)

    def check_commit(self, _: tuple[str, int], offset: int) -> None:
        if self.once:
            return
        aside = {source for source, _ in self.stage.broker.letters}
        missing = [other for other in self.log if other < offset and other not in self.done | aside]
        self.expect(not missing, f"commit {offset} passes {missing}")
        passed = sum(1 for other in self.log if other < offset)
        self.expect(
            self.stage.messages >= passed, f"commit {offset} passes {passed}, {self.stage.messages} are counted"
        )

    def rebalance(self) -> None:
        self.stage.revoke()
        self.release.clear()
        self.row = Counter()
        self.stage.assign()

    def play(self) -> None:
        options: dict[str, Any] = {"max_messages": self.random.randint(1, 10)}
        if self.letters:
            options["dead_letter"] = DeadLetter("dead", max_attempts=self.attempts)
        if self.manual:
            options["offsets"] = "manual"
        if self.once:
            options["delivery"] = "at_most_once"
        if self.random.random() < 0.3:
            options["max_wait"] = 1.0
        handler = self.one if self.each else self.batch
        with on_stage(plan(handler, each=self.each, **options), self.log) as stage:
            self.stage = stage
            stage.broker.on_commit = self.check_commit
            stage.broker.on_letter = self.meanwhile
            stage.broker.letter_failures = self.random.choice([0, 0, 1, 3])
            stage.assign()
            for _ in range(self.random.randint(5, 60)):
                self.act()
            self.calm = True
            if self.release:
                self.rebalance()
            stage.quiet(False)
            stage.settle()
            stage.stop()
            self.judge()

    def act(self) -> None:
        stage = self.stage
        if self.release and not self.inside:
            self.rebalance()
        match self.random.choice(["poll", "work", "work", "work", "commit", "time", "rebalance", "lose", "quiet"]):
            case "poll":
                stage.poll(self.random.randint(1, 10))
            case "work":
                stage.step()
            case "commit":
                self.commit()
            case "time":
                stage.now += self.random.choice([0.05, 1.0, 10.0])
            case "rebalance" if self.chaos.get("rebalances"):
                self.rebalance()
            case "lose" if self.chaos.get("losses"):
                stage.lose()
                self.row = Counter()
                stage.assign()
            case "quiet":
                stage.quiet(not stage.dispatcher.quiet)
            case _:
                pass

    # -- what must be true of it -------------------------------------------------------------------------------------

    def judge(self) -> None:
        assert not self.wrong, self.wrong[0]
        aside = Counter(offset for offset, _ in self.stage.broker.letters)
        if self.once:
            assert max(self.begun.values(), default=0) <= 1, "at-most-once repeated something"
            assert not self.each or set(aside) <= set(self.failures), "a healthy message was set aside"
            return
        assert set(aside) <= self.poison, f"healthy messages were set aside: {set(aside) - self.poison}"
        unhandled = set(self.log) - set(self.handled) - self.done - set(aside)
        assert not unhandled, f"lost: {unhandled}"
        if not self.manual:
            assert self.stage.broker.committed[(TOPIC, 0)] == self.log[-1] + 1
        if self.letters:
            assert self.poison <= set(aside)
            tries = {int(headers["swarm.attempts"] or 0) for _, headers in self.stage.broker.letters}
            if self.each:
                assert tries <= {self.attempts}
            assert not tries or min(tries) >= self.attempts
        if not any(self.chaos.get(what) for what in ("losses", "pauses")) and not self.manual:
            assert max(self.handled.values(), default=0) <= 1, "handled twice without a cause"
            assert self.order == sorted(self.order), "out of order"
            if not self.chaos.get("marks"):
                assert self.stage.messages == len(self.log), "`messages` does not count each once"


SEEDS = st.integers(0, 2**32)
random_histories = settings(max_examples=200, deadline=None)


@pytest.mark.parametrize("each", [False, True], ids=["batch", "each"])
@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_no_message_is_lost_whatever_fails_and_whoever_takes_the_partition(each: bool, manual: bool) -> None:
    """The committed offset never passes a message that was neither handled nor set aside, and in the end all of them are."""

    @random_histories
    @given(SEEDS)
    def histories(seed: int) -> None:
        World(
            seed, each=each, manual=manual, rebalances=True, losses=True, pauses=True, marks=True, refusals=True
        ).play()

    histories()


@pytest.mark.parametrize("each", [False, True], ids=["batch", "each"])
def test_graceful_histories_handle_each_message_once_in_order(each: bool) -> None:
    """Failures, dead letters, quiet, refused commits and rebalances repeat no message that was handled."""

    @random_histories
    @given(SEEDS)
    def histories(seed: int) -> None:
        World(seed, each=each, rebalances=True, refusals=True).play()

    histories()


@pytest.mark.parametrize("each", [False, True], ids=["batch", "each"])
def test_at_most_once_never_repeats(each: bool) -> None:
    """Not after a failure, a pause, a rebalance, a loss, nor a refused commit."""

    @random_histories
    @given(SEEDS)
    def histories(seed: int) -> None:
        World(seed, each=each, once=True, rebalances=True, losses=True, pauses=True, refusals=True).play()

    histories()


# -- the edges, one by one -------------------------------------------------------------------------------------------


def committed(stage: Stage) -> int | None:
    return stage.broker.committed.get((TOPIC, 0))


def fail_at(*offsets: int) -> Callable[[Messages], None]:
    def handler(messages: Messages) -> None:
        for message in messages:
            if message.offset in offsets:
                raise Failure(message.offset)

    return handler


def test_a_partition_taken_while_a_failing_message_is_searched_for_loses_nothing() -> None:
    """The slice in hand is done, the rest of the failed batch is not: the commit at the revocation says just that."""
    with on_stage(plan(fail_at(6), dead_letter=DeadLetter("dead", 1)), range(8)) as stage:
        lane = stage.assign()
        stage.poll()
        stage.step()
        assert lane.narrow == 4

        runner = lane.runner
        assert runner is not None

        def taken_meanwhile(lane: Any, raws: list[Any], attempt: int) -> int:
            stage.group._begin_release([(TOPIC, 0)], "revoked")
            return runner(lane, raws, attempt)

        lane.runner = taken_meanwhile
        stage.step()
        stage.revoke()

        assert committed(stage) == 4


def test_a_partition_taken_while_a_message_is_set_aside_loses_nothing() -> None:
    """Only what was handled before it and the message itself are committed."""
    with on_stage(plan(fail_at(2), dead_letter=DeadLetter("dead", 1)), range(8)) as stage:
        stage.assign()
        stage.poll()
        stage.broker.on_letter = lambda: void(stage.group._begin_release([(TOPIC, 0)], "revoked"))
        while not stage.broker.letters:
            assert stage.step()
        stage.revoke()

        assert committed(stage) == 3


def void(_: object) -> None:
    """For a lambda whose value nobody wants."""


def test_a_set_aside_message_commits_nothing_that_the_handler_has_not_marked() -> None:
    """Manual offsets: messages that a handler holds and marks later are not committed because a later one was set aside."""
    kept: list[Message] = []

    def gather(message: Message, consumer: Consumer) -> None:
        if message.offset == 3:
            raise Failure
        kept.append(message)
        if len(kept) == 6:
            consumer.mark_as_consumed(message)

    options = plan(gather, each=True, offsets="manual", dead_letter=DeadLetter("dead", 1))
    with on_stage(options, range(5)) as stage:
        stage.assign()
        stage.settle()
        stage.group.commits.send(stage.group._client)  # type: ignore[arg-type]
        assert [offset for offset, _ in stage.broker.letters] == [3]
        assert committed(stage) is None

        stage.broker.logs[(TOPIC, 0)] += [5, 6]
        stage.settle()
        stage.stop()

        assert [message.offset for message in kept] == [0, 1, 2, 4, 5, 6]
        assert committed(stage) == 7


def test_a_replay_after_a_seek_back_is_retried_like_any_other_run() -> None:
    """Messages that were handled before and are asked for again are not skipped when they fail."""
    runs: list[int] = []
    fails = {5: 1}

    def handler(message: Message, consumer: Consumer) -> None:
        runs.append(message.offset)
        if message.offset == 7 and runs.count(7) == 1:
            consumer.seek(2)
        elif runs.count(7) and fails.get(message.offset):
            fails[message.offset] -= 1
            raise Failure

    with on_stage(plan(handler, each=True), range(8)) as stage:
        stage.assign()
        stage.settle()

    assert runs == [*range(8), 2, 3, 4, 5, 5, 6, 7]


def test_a_batch_that_fails_after_a_seek_back_runs_again_whole() -> None:
    """The same for batches, whose frontier stands far ahead of the replay."""
    runs: list[list[int]] = []

    def handler(messages: Messages, consumer: Consumer) -> None:
        runs.append([message.offset for message in messages])
        if len(runs) == 3:
            consumer.seek(0)
        elif len(runs) == 5:
            raise Failure

    with on_stage(plan(handler, max_messages=2), range(6)) as stage:
        stage.assign()
        stage.settle()

    assert runs == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3], [2, 3], [4, 5]]


class SeeksAtFirst(Consumer):
    seen: list[int]

    def on_assigned(self) -> None:
        type(self).seen = []
        self.seek(4)

    def consume(self, messages: Messages) -> None:
        self.seen.extend(message.offset for message in messages)


def test_a_seek_in_on_assigned_is_obeyed() -> None:
    """The usual way to keep offsets elsewhere: without it the partition would stand still for ever."""
    with on_stage(plan(SeeksAtFirst), range(8)) as stage:
        stage.assign()
        stage.settle()

        assert SeeksAtFirst.seen == [4, 5, 6, 7]


class PausesAtTicks(Consumer):
    seen: list[int]

    def on_assigned(self) -> None:
        type(self).seen = []

    def on_tick(self) -> None:
        self.pause(100.0)

    def consume(self, messages: Messages) -> None:
        self.seen.extend(message.offset for message in messages)


def test_a_pause_in_on_tick_is_obeyed() -> None:
    """Nothing is handled before it is over, and nothing that came meanwhile is lost."""
    with on_stage(plan(PausesAtTicks)) as stage:
        lane = stage.assign()
        stage.step()
        lane.tick_due = True
        with stage.dispatcher.lock:
            stage.dispatcher.offer(lane, stage.now)
        stage.step()
        began = stage.now
        stage.broker.logs[(TOPIC, 0)] = [0, 1]
        stage.poll()
        while not PausesAtTicks.seen:
            assert stage.step()

        assert stage.now - began >= 100.0
        assert PausesAtTicks.seen == [0, 1]


def test_a_pause_for_ever_stops_no_thread() -> None:
    """A wait without end (an offset out of range, pause(inf)) is no timeout that a condition could take."""
    with on_stage(plan(lambda messages, consumer: consumer.pause(float("inf"))), [0]) as stage:
        stage.assign()
        stage.poll()
        while stage.step():
            pass

        assert next(iter(stage.group.lanes.values())).phase == "waiting"


class CannotBeMade(Consumer):
    def __init__(self) -> None:
        raise Failure("no database")

    def consume(self, messages: Messages) -> None: ...


def test_an_instance_that_cannot_be_made_is_tried_again_with_backoff() -> None:
    """Each try waits longer; without the wait it would burn a processor."""
    backoff = Backoff(initial=1.0, factor=2.0, maximum=8.0, jitter=0.0)
    with on_stage(plan(CannotBeMade, backoff=backoff), [0]) as stage:
        stage.assign()
        stage.poll()
        began = stage.now
        for _ in range(5):
            assert stage.step()

        assert stage.now - began == pytest.approx(1.0 + 2.0 + 4.0 + 8.0)
        assert [failed.attempt for failed in stage.heard(events.ConsumeFailed)] == [1, 2, 3, 4, 5]


def test_marks_are_refused_once_the_partition_is_gone() -> None:
    """False, so that the handler knows that somebody else does the message again; and nothing is committed."""
    answers: list[bool] = []

    def handler(message: Message, consumer: Consumer) -> None:
        stage.lose()
        answers.append(consumer.mark_as_consumed(message))
        answers.append(consumer.commit())
        assert consumer.is_revoked

    with on_stage(plan(handler, each=True, offsets="manual"), [0]) as stage:
        stage.assign()
        stage.poll()
        stage.step()

        assert answers == [False, False]
        assert not stage.heard(events.ConsumeFailed)
        assert committed(stage) is None


def test_a_message_is_marked_at_its_own_partition_only() -> None:
    """To mark one partition's message at another's consumer would commit offsets of messages that nobody has seen."""

    def handler(message: Message, consumer: Consumer) -> None:
        consumer.mark_as_consumed(Message(record(900, partition=1)))

    with on_stage(plan(handler, each=True), [0]) as stage:
        lane = stage.assign()
        stage.poll()
        stage.step()

        [failed] = stage.heard(events.ConsumeFailed)
        assert "mark it at its own" in failed.error
        assert lane.frontier == 0
        assert lane.mark(900) is False  # nor one of an earlier assignment


def test_at_most_once_keeps_to_what_the_handler_marked() -> None:
    """What was marked before the failure is done; only the rest is set aside, and none of it runs again."""

    def handler(messages: Messages, consumer: Consumer) -> None:
        consumer.mark_as_consumed(messages[2])
        raise Failure

    with on_stage(plan(handler, delivery="at_most_once", dead_letter=DeadLetter("dead")), range(5)) as stage:
        stage.assign()
        stage.settle()

        assert [offset for offset, _ in stage.broker.letters] == [3, 4]
        assert stage.messages == 5


def test_at_most_once_ends_the_batch_that_it_has_committed() -> None:
    """A stop does not cut it short: nobody else would ever run the rest."""
    seen: list[int] = []

    def handler(message: Message) -> None:
        seen.append(message.offset)
        stage.group._begin_release([(TOPIC, 0)], "shutdown")

    with on_stage(plan(handler, each=True, delivery="at_most_once"), range(5)) as stage:
        stage.assign()
        stage.poll()
        stage.step()

        assert seen == [0, 1, 2, 3, 4]


def test_at_least_once_stops_after_the_message_in_hand() -> None:
    """A stop waits for one message, not for five hundred; the rest is the next owner's."""
    seen: list[int] = []

    def handler(message: Message) -> None:
        seen.append(message.offset)
        stage.group._begin_release([(TOPIC, 0)], "shutdown")

    with on_stage(plan(handler, each=True), range(5)) as stage:
        stage.assign()
        stage.poll()
        stage.step()
        stage.stop()

        assert seen == [0]
        assert committed(stage) == 1


class Nameless(BaseException):
    def __str__(self) -> str:
        raise Failure("even this")


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Nameless()], ids=lambda error: type(error).__name__
)
def test_whatever_a_handler_raises_is_a_failed_attempt(error: BaseException) -> None:
    """It is retried, then set aside; the thread that ran it goes on."""

    def handler(message: Message) -> None:
        if message.offset == 1:
            raise error

    with on_stage(plan(handler, each=True, dead_letter=DeadLetter("dead", 2)), range(3)) as stage:
        stage.assign()
        stage.settle()
        stage.stop()

        [(offset, headers)] = stage.broker.letters
        assert (offset, headers["swarm.attempts"]) == (1, b"2")
        assert (headers["swarm.error"] or b"").startswith(type(error).__name__.encode())
        assert [failed.attempt for failed in stage.heard(events.ConsumeFailed)] == [1, 2]
        assert committed(stage) == 3
        assert (int(stage.board.ints[ERRORS]), int(stage.board.ints[RETRIES])) == (2, 1)


def test_only_the_failing_message_of_a_batch_is_set_aside() -> None:
    """Smaller slices find it; its letter counts every failed run that it was part of."""
    with on_stage(plan(fail_at(5), dead_letter=DeadLetter("dead", 3)), range(8)) as stage:
        stage.assign()
        stage.settle()
        stage.stop()

        [(offset, headers)] = stage.broker.letters
        assert offset == 5
        assert (
            headers["swarm.attempts"] == b"6"
        )  # three times all eight, then 4..5, and 5 twice (0..3 and 4 are healthy)
        assert committed(stage) == 8
        assert stage.messages == 8


def test_the_failed_event_names_the_message_that_failed() -> None:
    """In `each` the first offset of ConsumeFailed is the one that raised, with its own attempt."""
    fails = {2: 2, 4: 1}

    def handler(message: Message) -> None:
        if fails.get(message.offset):
            fails[message.offset] -= 1
            raise Failure

    with on_stage(plan(handler, each=True), range(6)) as stage:
        stage.assign()
        stage.settle()

        assert [(f.first_offset, f.attempt) for f in stage.heard(events.ConsumeFailed)] == [(2, 1), (2, 2), (4, 1)]


def test_a_dead_letter_that_cannot_be_delivered_holds_the_partition() -> None:
    """The mark waits for the delivery, however long that takes: nothing is lost in between."""
    with on_stage(plan(fail_at(0), dead_letter=DeadLetter("dead", 1)), range(2)) as stage:
        stage.broker.letter_failures = 3
        stage.assign()
        stage.settle()

        assert len(stage.heard(events.DeadLetterFailed)) == 3
        assert [offset for offset, _ in stage.broker.letters] == [0]
        assert stage.now - 1000.0 >= 15.0


def test_suspects_keep_their_attempts_behind_a_healthy_slice() -> None:
    """They were tried before, with others: a handler that fails at first attempts only must not fail alone for that, and have a healthy
    message set aside that stands beside a poisonous one."""
    attempts: list[tuple[list[int], int]] = []

    def handler(messages: Messages, consumer: Consumer) -> None:
        attempts.append(([message.offset for message in messages], consumer.attempt))
        for message in messages:
            if message.offset == 2 and consumer.attempt == 1:
                raise OSError("for the first time")
            if message.offset == 3:
                raise ValueError("poison")

    with on_stage(plan(handler, max_messages=4, dead_letter=DeadLetter("dead", max_attempts=2)), range(4)) as stage:
        stage.assign()
        stage.settle()

        assert [offset for _, offset in stage.broker.letters_from] == [3]
        assert attempts == [([0, 1, 2, 3], 1), ([0, 1, 2, 3], 2), ([0, 1], 3), ([2], 3), ([3], 3), ([3], 4)]
