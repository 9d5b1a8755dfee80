"""The processing threads: take a lane, run what is due in it, settle the result. The only place that calls an application's handlers.

Whatever a handler raises, `SystemExit` and `KeyboardInterrupt` included, is a failed attempt of its batch and nothing more.
What goes wrong outside a handler is ours: it ends the thread, and the worker is replaced (`Runtime.thread_died`).
"""

from __future__ import annotations

import os
import random
import traceback
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException

from swarm import events
from swarm.errors import describe
from swarm.handlers import bind, make_consumer, overridden_hooks
from swarm.lane import Lane
from swarm.message import Record
from swarm.outcome import Failure, GiveUp, Narrow, Retry, SetAside, after_failure
from swarm.scoreboard import DEAD_LETTERS, ERRORS, RETRIES

if TYPE_CHECKING:
    from swarm.worker import Runtime

DEAD_LETTER_RETRY: Final = 5.0
"""Seconds between attempts to reach a dead letter topic that does not answer."""
_TRACEBACK_LIMIT: Final = 8000
_PACKAGE: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Processor:
    """One processing thread's work. `slot` is its place in the scoreboard's table of jobs."""

    def __init__(self, runtime: Runtime, slot: int) -> None:
        self._runtime = runtime
        self._slot = slot
        self._board = runtime.board
        self._bus = runtime.bus
        self._dispatcher = runtime.dispatcher
        self._clock = runtime.clock

    def run(self) -> None:
        """Work until the dispatcher ends."""
        dispatcher = self._dispatcher
        while (lane := dispatcher.next()) is not None:
            self._work(lane)
            with dispatcher.lock:
                dispatcher.done(lane)
                if lane.lost and not lane.hook_due:
                    lane.phase = "closed"
                    successor = lane.group.successor_of(lane)
                    if successor is not None:
                        dispatcher.offer(successor, self._clock())
                else:
                    dispatcher.offer(lane, self._clock())

    def _work(self, lane: Lane) -> None:
        """Whatever is due in this lane, in the order of its weight."""
        if lane.consumer is None and not self._set_up(lane):
            return
        if lane.hook_due:
            hook, lane.hook_due = lane.hook_due, ""
            self._hook(lane, hook)
            if lane.closing or lane.seek_to is not None or not lane.has_work or lane.held_until > self._clock():
                return
            if self._dispatcher.quiet or self._dispatcher.stopping:
                return
        if lane.closing:
            return
        if lane.set_aside is not None:
            self._set_aside(lane)
            return
        if lane.tick_due:
            lane.tick_due = False
            self._hook(lane, "on_tick")
            if lane.seek_to is not None or lane.held_until > self._clock():
                return
        if lane.again or lane.chunks:
            self._consume(lane)
        elif lane.idle_due:
            lane.idle_due = False
            self._hook(lane, "on_idle")

    # -- an instance's life ------------------------------------------------------------------------------------------

    def _set_up(self, lane: Lane) -> bool:
        if lane.closing:
            lane.hook_due = ""
            return False
        try:
            consumer = make_consumer(lane.plan, lane)
            lane.runner = bind(lane.plan, consumer, self._runtime.wait_async)
        except BaseException as error:
            lane.failed += 1
            lane.seek_request = lane.pause_request = None
            self._failed_event(lane, error, lane.frontier, lane.frontier, lane.failed)
            with self._dispatcher.lock:
                self._dispatcher.delay(lane, self._clock() + lane.plan.backoff.delay(lane.failed, random.random()))
            return False
        lane.consumer = consumer
        lane.hook_names = overridden_hooks(consumer)
        lane.failed = 0
        with self._dispatcher.lock:
            if not lane.closing:
                self._obey_handler(lane)  # a constructor may ask, too
        return True

    def _hook(self, lane: Lane, name: str) -> None:
        if name not in lane.hook_names:
            return
        frontier = lane.frontier
        try:
            result = getattr(lane.consumer, name)()
            if hasattr(result, "__await__"):
                self._runtime.wait_async(result)
            if lane.job_producer is not None:
                lane.job_producer.settle()
        except BaseException as error:
            self._board.count_error("hook")
            self._bus.publish(events.HookFailed(name, lane.topic, lane.partition, describe(error)))
            if lane.job_producer is not None and lane.job_producer.pending:
                # What the hook marked stands for outputs that were not delivered: it is read and handled again.
                lane.frontier = max(frontier, lane.committed, lane.sent)
                lane.seek_request = lane.frontier
                lane.forgive()
        with self._dispatcher.lock:
            if not lane.closing:
                self._obey_handler(lane)

    # -- a batch -----------------------------------------------------------------------------------------------------

    def _consume(self, lane: Lane) -> None:
        with self._dispatcher.lock:
            if lane.closing or not (lane.again or lane.chunks):
                return
            batch = lane.take()
            lane.halt = False
            lane.suppress = False
        attempt = lane.attempt
        first, last = batch[0].offset(), batch[-1].offset()
        at_most_once = lane.plan.delivery == "at_most_once"
        if at_most_once and not self._commit_first(lane, batch, last + 1):
            return
        began_at = lane.retry_from
        frontier_before = lane.frontier
        handled_before = lane.handled
        if attempt > 1:
            self._board.add(RETRIES)
        started = self._clock()
        group_id, topic_id = lane.string_ids
        self._board.job_begin(
            self._slot,
            started,
            self._runtime.job_limit(lane.plan),
            (group_id, topic_id, lane.partition, first, last, attempt),
        )
        failure: BaseException | None = None
        undelivered = False
        done = 0
        try:
            assert lane.runner is not None
            done = lane.runner(lane, batch, attempt)
        except BaseException as error:
            failure = error
        try:
            if lane.job_producer is not None:
                lane.job_producer.settle()
        except BaseException as error:
            failure = failure or error
            if not at_most_once:
                undelivered = True
                lane.take_back(frontier_before)
            lane.forgive()  # only now: while the failure stands, nothing of this lane is committed
        finally:
            self._board.job_end(self._slot)
        seconds = self._clock() - started
        if failure is None:
            self._succeeded(lane, batch, done, attempt, seconds, handled_before)
        else:
            self._failed(lane, batch, failure, undelivered, began_at, attempt, handled_before)

    def _commit_first(self, lane: Lane, batch: list[Record], end: int) -> bool:
        """At-most-once: nothing runs before the broker holds the offset behind it."""
        if lane.committed >= end:
            lane.frontier = max(lane.frontier, end)  # the answer to an earlier try came after we had given it up
            return True
        before = lane.frontier
        lane.frontier = end
        if lane.group.commit_now(lane):
            return True
        with self._dispatcher.lock:
            lane.frontier = before
            lane.again = batch + lane.again
            lane.batch = []
            if not lane.closing:
                self._dispatcher.delay(lane, self._clock() + 1.0)
        return False

    def _succeeded(
        self, lane: Lane, batch: list[Record], done: int, attempt: int, seconds: float, handled_before: int
    ) -> None:
        with self._dispatcher.lock:
            lane.handled = handled_before + lane.settle_success(done)
            self._board.batch_done(0, done, seconds)
            lane.group.report_handled(lane)
            if lane.lost:
                return
            self._obey_handler(lane)
            if not lane.again and not lane.chunks and "on_idle" in lane.hook_names:
                lane.idle_due = True
        if done and self._bus.wants(events.BatchConsumed):
            self._bus.publish(
                events.BatchConsumed(
                    lane.group.name,
                    lane.topic,
                    lane.partition,
                    batch[0].offset(),
                    batch[done - 1].offset(),
                    done,
                    attempt,
                    seconds,
                )
            )

    def _obey_handler(self, lane: Lane) -> None:
        """A pause or a seek that the handler asked for. Under the lock."""
        if lane.seek_request is not None:
            lane.seek_to, lane.seek_request = lane.seek_request, None
            lane.forget_buffer()
            lane.group.request_seek(lane)
        if lane.pause_request is not None:
            (seconds, offset), lane.pause_request = lane.pause_request, None
            lane.held_until = self._clock() + seconds
            if offset is not None and lane.seek_to is None:
                held = lane.again[0].offset() if lane.again else lane.taken_end
                if offset > held or not any(message.offset() == offset for message in lane.again):
                    lane.seek_to = offset
                    lane.forget_buffer()
                    lane.group.request_seek(lane)

    def _failed(
        self,
        lane: Lane,
        batch: list[Record],
        error: BaseException,
        undelivered: bool,
        began_at: int,
        attempt: int,
        handled_before: int,
    ) -> None:
        plan = lane.plan
        # Of `each`; a batch is counted when it has ended. Nothing is done, and nobody knows whose output it was, where one failed.
        done = 0 if undelivered else lane.handled - handled_before
        at = min(done, len(batch) - 1)
        first, last = batch[at].offset(), batch[-1].offset()
        self._failed_event(lane, error, first, last, 1 if done else attempt)
        text = describe(error)
        with self._dispatcher.lock:
            was_narrow = lane.narrow > 0
            if plan.delivery == "at_most_once":
                began_at = batch[0].offset()
                if plan.each:
                    lane.retry_from = first if done < len(batch) else last + 1
                else:
                    lane.retry_from = max(lane.retry_from, began_at)
            size = lane.settle_failure(began_at)
            lane.handled = handled_before + len(batch) - size
            lane.group.report_handled(lane)
            lane.seek_request = None
            lane.pause_request = None
            if lane.lost or lane.closing:
                if size and plan.delivery == "at_most_once":
                    # Committed before the run and never run again: what the end of the assignment cuts off is at least said.
                    self._dropped(lane, lane.again[:size], text)
                return
            if not size:
                return
            verdict = after_failure(
                plan,
                Failure(size, lane.failed, (plan.each and not undelivered) or size == 1, was_narrow),
                random.random(),
            )
            match verdict:
                case Retry(delay):
                    self._dispatcher.delay(lane, self._clock() + delay)
                    scheduled = events.RetryScheduled(
                        lane.group.name,
                        lane.topic,
                        lane.partition,
                        lane.again[0].offset(),
                        lane.attempt,
                        delay,
                    )
                    self._bus.publish(scheduled)
                case Narrow(smaller):
                    lane.search(smaller, lane.again[size - 1].offset() + 1)
                case SetAside():
                    lane.set_aside = (lane.again[0], text, lane.tries)
                case GiveUp(count):
                    self._give_up(lane, count, text)

    def _give_up(self, lane: Lane, count: int, error: str) -> None:
        """At-most-once: what failed never runs again. Under the lock."""
        given_up, rest = lane.again[:count], lane.again[count:]
        lane.attempt, lane.failed = 1, 0
        if lane.plan.dead_letter is not None:
            lane.again = rest
            lane.given_up = [(raw, error) for raw in given_up]
            lane.set_aside = (*lane.given_up.pop(0), 1)
            return
        lane.again = rest
        lane.handled += count
        self._dropped(lane, given_up, error)

    def _dropped(self, lane: Lane, messages: list[Record], error: str) -> None:
        first, last = messages[0].offset(), messages[-1].offset()
        self._bus.publish(events.MessageDropped(lane.group.name, lane.topic, lane.partition, first, last, error))

    def _failed_event(self, lane: Lane, error: BaseException, first: int, last: int, attempt: int) -> None:
        self._board.add(ERRORS)
        self._board.count_error("handler")
        # The frames of the runtime are of no use to the reader: begin with the application's.
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE) and trace.tb_next:
            trace = trace.tb_next
        lines = "".join(traceback.format_exception(type(error), error, trace))
        self._bus.publish(
            events.ConsumeFailed(
                lane.group.name,
                lane.topic,
                lane.partition,
                first,
                last,
                attempt,
                describe(error),
                lines[-_TRACEBACK_LIMIT:],
            )
        )

    def _set_aside(self, lane: Lane) -> None:
        """Deliver the dead letter, then go on behind the message; where it cannot be delivered, wait and try again."""
        assert lane.set_aside is not None
        assert lane.plan.dead_letter is not None
        raw, error, attempts = lane.set_aside
        target = lane.plan.dead_letter.topic
        try:
            lane.group.dead_letter(lane, raw, error, attempts)
        except (KafkaException, BufferError) as failure:
            self._board.count_error("dead_letter")
            self._bus.publish(
                events.DeadLetterFailed(
                    lane.group.name,
                    lane.topic,
                    lane.partition,
                    raw.offset(),
                    target,
                    describe(failure),
                    DEAD_LETTER_RETRY,
                )
            )
            with self._dispatcher.lock:
                if not lane.closing:
                    self._dispatcher.delay(lane, self._clock() + DEAD_LETTER_RETRY)
            return
        self._board.add(DEAD_LETTERS)
        with self._dispatcher.lock:
            lane.handled += 1
            lane.group.report_handled(lane)
            if lane.given_up:
                lane.set_aside = (*lane.given_up.pop(0), 1)
            else:
                lane.settle_set_aside(raw)
        self._bus.publish(
            events.MessageDeadLettered(
                lane.group.name, lane.topic, lane.partition, raw.offset(), target, attempts, error
            )
        )
