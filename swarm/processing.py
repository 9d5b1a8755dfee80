"""The processing threads: take a lane, run what is due in it, settle the result. The only place that calls an application's handlers.

Whatever a handler raises, `SystemExit` and `KeyboardInterrupt` included, is a failed attempt of its batch and nothing more.
What goes wrong outside a handler is ours: it ends the thread, and the worker is replaced (`Runtime.thread_died`).

A run has these steps: take a batch, let the flow options judge it (`swarm.flow`), commit first where that is asked for, run the
handler (whole, or in slices by several threads: `swarm.virtual`), wait for what it produced or commit its transaction, and
settle: the lane's rules say what is done, `after_failure` says what follows from a failure.
"""

from __future__ import annotations

import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, assert_never, get_args

from confluent_kafka import KafkaException

from swarm import events, flow, virtual
from swarm.errors import describe
from swarm.handlers import Around, bind, make_consumer, overridden_hooks
from swarm.lane import Aside, Lane, Standing
from swarm.message import Record
from swarm.outcome import Failure, GiveUp, Narrow, Retry, SetAside, Skip, Verdict, after_failure
from swarm.plan import Decision
from swarm.scoreboard import ABORTED, DEAD_LETTERS, ERRORS, RETRIES, SKIPPED
from swarm.transactions import Aborted, Transaction, Undecided
from swarm.virtual import Division, Slice
from swarm.wording import counted

if TYPE_CHECKING:
    from swarm.journal import LaneLog
    from swarm.worker import Runtime

DEAD_LETTER_RETRY: Final = 5.0
"""Seconds between attempts to reach a dead letter topic that does not answer."""
ALONE_PATIENCE: Final = 60.0
"""Seconds, at least, that a suspect waits for other jobs to end, while no other begins, before it lets them go on and tries again."""
HELD_SAYING: Final = 60.0
"""Seconds between two times that a held message is spoken of."""
TRANSACTION_RETRY: Final = 0.2
"""Seconds until a run is repeated whose transaction was aborted for no fault of its own, or could not be opened."""
SHARED_FOR: Final = 0.5
"""Seconds from the first run on in which further ones may join its transaction."""
BRIEF: Final = 0.0005
"""Seconds for a slice below which no other thread helps with the next batch: to call one, and to give it the interpreter's lock, takes
as long."""
_TRACEBACK_LIMIT: Final = 8000
_PACKAGE: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep


@dataclass(slots=True)
class _Run:
    """A handler's run over a batch, as it has ended, before anything follows from that."""

    lane: Lane
    batch: list[Record]
    attempt: int
    before: Standing
    handled_before: int
    started: float
    seconds: float
    done: int
    """So many messages of the batch, where it did not fail."""
    failure: BaseException | None
    undelivered: bool
    """It failed only when all of it was done."""
    division: Division | None

    @property
    def end(self) -> int:
        """Exactly-once: the next offset, if nothing fails."""
        lane, rest = self.lane, self.batch[self.done :]
        if lane.suppress or lane.plan.offsets == "manual":
            return lane.frontier
        return rest[0].offset() if rest else lane.batch_end


class Processor:
    """One processing thread's work. `slot` is its place in the scoreboard's table of jobs."""

    def __init__(self, runtime: Runtime, slot: int) -> None:
        self._runtime = runtime
        self._slot = slot
        self._board = runtime.board
        self._bus = runtime.bus
        self._dispatcher = runtime.dispatcher
        self._clock = runtime.clock
        self._wall: Callable[[], float] = time.time
        self._seat = runtime.make_seat(slot)
        self._hide = runtime.hide

    def _describe(self, error: BaseException) -> str:
        """What it says, without the secrets that it quotes: it goes to the log, the journal, listeners and dead letters."""
        return self._hide(describe(error))

    def run(self) -> None:
        """Work until the dispatcher ends."""
        dispatcher = self._dispatcher
        self._seat.thread = threading.get_ident()
        self._take_seat()
        while (work := dispatcher.next()) is not None:
            if isinstance(work, Slice):
                self._help(work)
                continue
            work.seat = self._seat
            self._work(work)
            self._let_go(work)

    def _let_go(self, lane: Lane) -> None:
        """This thread is done with a lane, for now."""
        dispatcher = self._dispatcher
        with dispatcher.lock:
            dispatcher.done(lane)
            if lane.lost and not lane.hook_due:
                lane.phase = "closed"
                lane.group.say_dropped(lane)
                successor = lane.group.successor_of(lane)
                if successor is not None:
                    dispatcher.offer(successor, self._clock())
            else:
                dispatcher.offer(lane, self._clock())

    def _take_seat(self) -> None:
        """End what a predecessor left open before anybody waits for it: its partitions' offsets are withheld until then."""
        if not self._runtime.exactly_once:
            return
        try:
            self._seat.producer()
        except KafkaException as error:  # tried again when a run needs it
            self._board.count_error("client")
            self._bus.publish(events.ClientError("", error.args[0].name(), self._describe(error), False, 1))

    def _work(self, lane: Lane) -> None:
        """Whatever is due in this lane, in the order of its weight."""
        if lane.consumer is None and not self._set_up(lane):
            return
        if lane.hook_due:
            hook, lane.hook_due = lane.hook_due, ""
            self._hook(lane, hook)
            if lane.closing or lane.seek_to is not None or not lane.has_work or lane.held_until > self._clock():
                return
            if lane.hook_due:  # it has to wait for its transaction
                return
            if self._dispatcher.quiet or self._dispatcher.stopping or lane.paused:
                return
        if lane.closing:
            return
        if lane.aside:
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
            lane.runner = bind(lane.plan, consumer, self._runtime.wait_async, self._around(lane))
        except BaseException as error:
            lane.failed += 1
            lane.seek_request = lane.pause_request = None
            self._failed_event(lane, error, lane.frontier, lane.frontier, lane.failed)
            with self._dispatcher.lock:
                self._dispatcher.delay(
                    lane, self._clock() + lane.plan.backoff.delay(lane.failed, random.random()), "set_up"
                )
            return False
        lane.consumer = consumer
        lane.hook_names = overridden_hooks(consumer)
        lane.failed = 0
        with self._dispatcher.lock:
            if not lane.closing:
                self._obey_handler(lane)  # a constructor may ask, too
        return True

    def _around(self, lane: Lane) -> Around | None:
        """What is put around each call of the handler; None: nothing."""
        tracing = self._runtime.tracing
        if tracing is None:
            return None
        plan, group = lane.plan, lane.group.name
        return lambda handler, asynchronous: tracing.around(plan, group, handler, asynchronous)

    def _hook(self, lane: Lane, name: str) -> None:
        if name not in lane.hook_names:
            return
        before = lane.standing()
        try:
            if lane.plan.exactly_once and not lane.lost:
                try:
                    lane.transaction = Transaction(self._seat, lane)
                except Aborted:
                    if name == "on_assigned" and self._later(lane, name):
                        return
                    raise
            result = getattr(lane.consumer, name)()
            if hasattr(result, "__await__"):
                self._runtime.wait_async(result)
            if lane.job_producer is not None:
                lane.job_producer.settle()
            if lane.transaction is not None:
                lane.transaction.commit(lane.frontier)
        except BaseException as error:
            self._board.count_error("hook")
            self._bus.publish(events.HookFailed(name, lane.topic, lane.partition, self._describe(error)))
            if lane.transaction is not None:
                if lane.transaction.open:
                    lane.transaction.abort()
                with self._dispatcher.lock:
                    lane.restore(before)
                    lane.transaction = None
                    if isinstance(error, Undecided):
                        lane.group.request_reread(lane)
            if lane.job_producer is not None and lane.job_producer.pending:
                # What the hook marked stands for outputs that were not delivered: it is read and handled again.
                lane.take_back(before)
                lane.seek_request = lane.frontier
                lane.forgive()
        finally:
            lane.transaction = None
        with self._dispatcher.lock:
            if not lane.closing:
                self._obey_handler(lane)

    def _later(self, lane: Lane, hook: str) -> bool:
        """Run a hook when its transaction is to be had: nothing of the lane runs before it. False: the partition is going."""
        with self._dispatcher.lock:
            if lane.closing:
                return False
            lane.hook_due = hook
            self._dispatcher.delay(lane, self._clock() + TRANSACTION_RETRY, "transaction")
            return True

    # -- a batch -----------------------------------------------------------------------------------------------------

    def _consume(self, lane: Lane) -> None:
        if not self._take_batch(lane):
            return
        if self._runtime.suspicion and self._under_suspicion(lane):
            return
        self._run(lane)

    def _take_batch(self, lane: Lane) -> bool:
        """Take what runs next; False: none of it runs now."""
        with self._dispatcher.lock:
            if lane.closing or lane.paused or not (lane.again or lane.chunks):
                return False
            lane.take()
            lane.halt = False
            lane.suppress = False
        return not lane.plan.controls_flow or self._admit(lane)

    def _run(self, lane: Lane) -> None:
        """Run the handler over the lane's batch, and settle the result."""
        run = self._handle(lane)
        if run is None:
            return
        if lane.transaction is None:
            self._settle(run)
            return
        others = self._share(run, lane.transaction)
        self._close_transaction(lane.transaction, [run, *others])
        self._settle(run)
        for other in others:
            self._settle(other)
            self._let_go(other.lane)

    def _share(self, run: _Run, transaction: Transaction) -> list[_Run]:
        """Let runs of other partitions be part of a run's transaction, one after the other, as far as that is wanted, they are ready,
        and nothing has failed. None for long: readers, and whoever is to get a partition, wait for the commit."""
        runs = [run]
        until = run.started + SHARED_FOR
        while (
            len(runs) < run.lane.plan.transaction_partitions
            and runs[-1].failure is None
            and not self._runtime.suspicion
            and not any(each.lane.closing for each in runs)
            and self._clock() < until
        ):
            lane = self._dispatcher.take_another(run.lane)
            if lane is None:
                break
            lane.seat = self._seat
            other = self._handle(lane, transaction) if self._take_batch(lane) else None
            if other is None:
                self._let_go(lane)
                break  # it may be ready again at once
            runs.append(other)
        return runs[1:]

    def _handle(self, lane: Lane, transaction: Transaction | None = None) -> _Run | None:
        """Run the handler over the lane's batch; None: it was not to be had now, and runs later. `transaction`: one to be part of."""
        batch, attempt = lane.batch, lane.attempt
        first, last = batch[0].offset(), batch[-1].offset()
        at_most_once = lane.plan.delivery == "at_most_once"
        if at_most_once and not self._commit_first(lane):
            return None
        if lane.plan.exactly_once and not self._open_transaction(lane, transaction):
            return None
        before = lane.standing()
        handled_before = lane.handled_before = lane.handled
        if attempt > 1:
            self._board.add(RETRIES)
        started = self._clock()
        before_threads = self._runtime.strays.begin(started)
        self._job_begins(lane, first, last, attempt, started)
        if self._bus.wants(events.BatchStarted):
            parts = virtual.ranges(batch)
            gaps = tuple((a[-1].offset() + 1, b[0].offset() - 1) for a, b in pairwise(parts))
            self._bus.publish(
                events.BatchStarted(lane.group.name, lane.topic, lane.partition, first, last, len(batch), attempt, gaps)
            )
        log = lane.log
        if log is not None:
            log.begin(batch, first, last, attempt)
        failure: BaseException | None = None
        undelivered = False
        done = 0
        division = self._divide(lane) if lane.plan.virtual_partitions is not None else None
        try:
            if division is None:
                assert lane.runner is not None
                done = lane.runner(lane, batch, attempt)
            else:
                self._run_slices(lane, division)
                failure = next((part.failure for part in division.slices if part.failure is not None), None)
        except BaseException as error:
            failure = error
        try:
            if lane.job_producer is not None:
                lane.job_producer.settle()
        except BaseException as error:
            failure = failure or error
            if not at_most_once:
                undelivered = True
                lane.take_back(before)
            elif division is not None:
                division.fail(error, whole=not lane.plan.each)
            lane.forgive()  # only now: while the failure stands, nothing of this lane is committed
        finally:
            self._board.job_end(self._slot)
        seconds = self._clock() - started
        if before_threads is not None:
            job = (threading.get_ident(), started)
            self._runtime.strays.end(before_threads, lane.plan.label, lane.plan.handler, job)
        return _Run(
            lane, batch, attempt, before, handled_before, started, seconds, done, failure, undelivered, division
        )

    def _settle(self, run: _Run) -> None:
        """A run has ended, and so has its transaction: what follows."""
        lane, batch, attempt, handled_before = run.lane, run.batch, run.attempt, run.handled_before
        done, failure, division, seconds = run.done, run.failure, run.division, run.seconds
        log = lane.log
        if log is not None:  # before anything of it can be committed
            if failure is not None:
                self._journal_failure(lane, log, division, failure, attempt, seconds, lane.handled - handled_before)
            elif division is not None or done == len(batch):
                log.done(batch[-1].offset() + 1, len(batch), seconds)
            else:
                log.done(batch[done].offset(), done, seconds)
        at_most_once = lane.plan.delivery == "at_most_once"
        if isinstance(failure, (Aborted, Undecided)) and not at_most_once:  # also of a transaction of the handler's own
            lane.handled = handled_before + sum(1 for message in batch if message.offset() < lane.retry_from)
            self._aborted(lane, failure)
        elif division is not None and not run.undelivered:
            self._settle_slices(lane, division, failure, attempt, seconds, handled_before)
        elif failure is None:
            self._succeeded(lane, batch, done, attempt, seconds, handled_before)
        else:
            self._failed(lane, batch, failure, run.undelivered, run.before.retry_from, attempt, seconds, handled_before)

    def _journal_failure(
        self,
        lane: Lane,
        log: LaneLog,
        division: Division | None,
        failure: BaseException,
        attempt: int,
        seconds: float,
        done: int,
    ) -> None:
        """Tell the journal what the handler has seen of a batch; of `each`, that ends with the message that failed."""
        batch: Sequence[Record] = lane.batch
        if lane.plan.each and division is None:
            batch = batch[: done + 1]
        elif lane.plan.each and division is not None:
            unseen = {record.offset() for part in division.slices for record in part.undone()[1:]}
            batch = [record for record in batch if record.offset() not in unseen]
        undone = isinstance(failure, (Aborted, Undecided)) and lane.plan.delivery != "at_most_once"
        log.failed("aborted" if undone else "failed", batch, attempt, self._describe(failure), seconds)

    def _job_begins(self, lane: Lane, first: int, last: int, attempt: int, now: float) -> None:
        group_id, topic_id = lane.string_ids
        limit = self._runtime.job_limit(lane.plan)
        self._board.job_begin(self._slot, now, limit, (group_id, topic_id, lane.partition, first, last, attempt))

    def _admit(self, lane: Lane) -> bool:
        """Let the flow options judge the batch; False: none of it runs now. The clock of timestamps is the wall's."""
        bucket = self._runtime.bucket(lane.plan)
        now = self._clock()
        allowed = None if bucket is None else bucket.take(len(lane.batch), now)
        judged = flow.admit(lane.plan, lane.batch, self._wall(), allowed, lane.attempt)
        if bucket is not None and allowed is not None:
            bucket.give_back(allowed - len(judged.run))
            if judged.limited and not judged.run:
                judged.wait = bucket.wait(now)
        for skipped, reason in ((judged.expired, "expired"), (judged.filtered, "filtered")):
            if skipped:
                self._board.add(SKIPPED, len(skipped))
                if self._bus.wants(events.MessagesSkipped):
                    self._say_skipped(lane, skipped, reason)
        with self._dispatcher.lock:
            lane.cut(max(judged.considered, 1 if judged.failure is not None else 0))
            if judged.run:
                lane.batch = judged.run
                return True
            if judged.considered:
                lane.batch = []
                lane.settle_success(0)
                if not lane.again and not lane.chunks and "on_idle" in lane.hook_names:
                    lane.idle_due = True
            elif judged.failure is None:
                lane.put_back(lane.batch)
                lane.batch = []
            if judged.failure is None:
                if judged.wait > 0 and not lane.closing:
                    self._dispatcher.delay(lane, now + judged.wait, "rate" if judged.limited else "not_before")
                return False
            if judged.considered:
                return False  # the message comes first next time
        self._failed(lane, lane.batch, judged.failure, False, lane.retry_from, lane.attempt, 0.0, lane.handled)
        return False

    # -- messages that may kill their process ------------------------------------------------------------------------

    def _under_suspicion(self, lane: Lane) -> bool:
        """Run a suspect alone, keep a condemned message from running at all; False: the batch (perhaps cut) runs as it is."""
        suspicion = self._runtime.suspicion
        key = (lane.group.name, lane.topic, lane.partition)
        step, count = suspicion.first_step(*key, lane.batch)
        if step == "run":
            with self._dispatcher.lock:
                lane.cut(count)
            return False
        with self._dispatcher.lock:
            lane.cut(1)
        if step == "condemned":
            self._condemned(lane, suspicion.deaths(*key, lane.batch[0].offset()))
            return True
        if (
            lane.plan.long_running
        ):  # it would hold up all others for as long; who dies beside others is not condemned for it
            return False
        if not self._dispatcher.begin_alone(lane, max(ALONE_PATIENCE, self._runtime.job_limit(lane.plan))):
            self._hold(lane, suspicion.deaths(*key, lane.batch[0].offset()))
            return True
        try:
            self._run(lane)
        finally:
            self._dispatcher.end_alone()
        return True

    def _condemned(self, lane: Lane, deaths: int) -> None:
        message = lane.batch[0]
        if lane.plan.dead_letter is None:
            self._hold(lane, deaths)
            return
        with self._dispatcher.lock:
            lane.put_back(lane.batch)
            lane.batch = []
            if not lane.closing:
                lane.aside.append(Aside(message, f"it killed its process {counted(deaths, 'time')}", deaths))

    def _hold(self, lane: Lane, deaths: int) -> None:
        """Let the lane's message wait, and say so."""
        message = lane.batch[0]
        with self._dispatcher.lock:
            lane.put_back(lane.batch)
            lane.batch = []
            if lane.closing or lane.paused or self._dispatcher.quiet or self._dispatcher.stopping:
                return
            self._dispatcher.delay(lane, self._clock() + HELD_SAYING, "held")
        self._bus.publish(events.MessageHeld(lane.group.name, lane.topic, lane.partition, message.offset(), deaths))

    def _say_skipped(self, lane: Lane, skipped: list[Record], reason: str) -> None:
        for part in virtual.ranges(skipped):
            self._bus.publish(
                events.MessagesSkipped(
                    lane.group.name,
                    lane.topic,
                    lane.partition,
                    part[0].offset(),
                    part[-1].offset(),
                    len(part),
                    reason,
                )
            )

    def _commit_first(self, lane: Lane) -> bool:
        """At-most-once: nothing runs before the broker holds the offset behind it."""
        end = lane.batch_end
        if lane.is_committed(end):
            lane.frontier = max(lane.frontier, end)  # the answer to an earlier try came after we had given it up
            return True
        before = lane.frontier
        lane.frontier = end
        if lane.log is not None:  # a death from here on until the run begins leaves these to nobody
            lane.log.committing(lane.batch[0].offset(), lane.batch[-1].offset() + 1, end)
        if lane.group.commit_now(lane):
            return True
        with self._dispatcher.lock:
            lane.frontier = before
            self._not_now(lane, 1.0, "commit")
        return False

    def _not_now(self, lane: Lane, seconds: float, waits_for: str) -> None:
        """Run the batch later. Under the lock."""
        lane.put_back(lane.batch)
        lane.batch = []
        if not lane.closing:
            self._dispatcher.delay(lane, self._clock() + seconds, waits_for)

    def _succeeded(
        self, lane: Lane, batch: list[Record], done: int, attempt: int, seconds: float, handled_before: int
    ) -> None:
        with self._dispatcher.lock:
            settled = lane.settle_success(done)
            lane.handled = handled_before + settled
            self._rest(lane, done, seconds)
        self._say_consumed(lane, batch if settled == len(batch) else batch[:settled], attempt, seconds)

    def _rest(self, lane: Lane, done: int, seconds: float) -> None:
        """A run was a success: what follows from that. Under the lock."""
        self._board.batch_done(0, done, seconds)
        lane.group.report_handled(lane)
        if lane.lost:
            return
        self._obey_handler(lane)
        if not lane.again and not lane.chunks and "on_idle" in lane.hook_names:
            lane.idle_due = True

    def _say_consumed(self, lane: Lane, done: Sequence[Record], attempt: int, seconds: float) -> None:
        if not done or not self._bus.wants(events.BatchConsumed):
            return
        for part in virtual.ranges(done):
            self._bus.publish(
                events.BatchConsumed(
                    lane.group.name,
                    lane.topic,
                    lane.partition,
                    part[0].offset(),
                    part[-1].offset(),
                    len(part),
                    attempt,
                    seconds,
                )
            )

    def _obey_handler(self, lane: Lane) -> None:
        """A pause or a seek that the handler asked for. Under the lock."""
        if lane.seek_request is not None:
            target, lane.seek_request = lane.seek_request, None
            lane.leave_for(target)
            lane.group.request_seek(lane)
        if lane.pause_request is not None:
            (seconds, offset), lane.pause_request = lane.pause_request, None
            lane.held_until = self._clock() + seconds
            if self._bus.wants(events.PartitionPaused):
                self._bus.publish(events.PartitionPaused(lane.group.name, lane.topic, lane.partition, seconds, offset))
            if offset is not None and lane.seek_to is None:
                held = lane.again[0].offset() if lane.again else lane.taken_end
                if offset > held or not any(message.offset() == offset for message in lane.again):
                    lane.leave_for(offset)
                    lane.group.request_seek(lane)

    # -- in slices ---------------------------------------------------------------------------------------------------

    def _divide(self, lane: Lane) -> Division | None:
        """The slices of a batch; None: it runs whole, as a retry does, or one whose partitioner raised."""
        if lane.attempt > 1 or lane.narrow or lane.blamed:
            return None
        plan, batch = lane.plan, lane.batch
        assert plan.virtual_partitions is not None
        most = plan.virtual_partitions.maximum or self._runtime.concurrency
        try:
            slices = virtual.split(batch, plan.virtual_partitions, most, plan.deserializer)
        except BaseException as error:
            self._board.count_error("handler")
            first, last = batch[0].offset(), batch[-1].offset()
            self._bus.publish(
                events.PartitionerFailed(
                    lane.group.name, lane.topic, lane.partition, first, last, self._describe(error)
                )
            )
            return None
        if len(slices) == 1:
            return None
        return Division(Slice(lane, records, lane.attempt) for records in slices)

    def _run_slices(self, lane: Lane, division: Division) -> None:
        """Work on a batch in slices, with whoever is idle, until all of them have ended."""
        lane.division = division
        with self._dispatcher.lock:
            self._dispatcher.divide(division, brief=lane.brief)
            part = self._dispatcher.next_slice(division)
        while part is not None:
            self._run_slice(part)
            with self._dispatcher.lock:
                self._dispatcher.slice_done(division)
                part = self._dispatcher.next_slice(division)
        self._board.job_end(self._slot)
        with self._dispatcher.lock:
            self._dispatcher.await_slices(division)
            lane.brief = division.likely_seconds() < BRIEF
            lane.frontier = lane.reached()
            lane.division = None

    def _help(self, part: Slice) -> None:
        """Run a slice of another thread's batch."""
        division = part.lane.division
        assert division is not None  # its owner waits for this slice
        self._run_slice(part)
        self._board.job_end(self._slot)
        with self._dispatcher.lock:
            self._dispatcher.slice_done(division)

    def _run_slice(self, part: Slice) -> None:
        records, began = part.records, self._clock()
        self._job_begins(part.lane, records[0].offset(), records[-1].offset(), part.attempt, began)
        part.run()
        part.seconds = self._clock() - began

    def _settle_slices(
        self,
        lane: Lane,
        division: Division,
        failure: BaseException | None,
        attempt: int,
        seconds: float,
        handled_before: int,
    ) -> None:
        batch = lane.batch
        failed = [part for part in division.slices if part.failure is not None]
        for part in failed:
            assert part.failure is not None
            undone = part.undone() or part.records[-1:]
            self._failed_event(lane, part.failure, undone[0].offset(), undone[-1].offset(), attempt)
        with self._dispatcher.lock:
            lane.settle_slices(division, bool(failed))
            undone_offsets = {record.offset() for record in lane.again}
            done = [record for record in batch if record.offset() not in undone_offsets] if undone_offsets else batch
            lane.handled = handled_before + len(done)
            if failure is None:
                self._rest(lane, len(done), seconds)
            else:
                lane.group.report_handled(lane)
        if failure is not None:
            self._judge_slices(lane, failed)
        self._say_consumed(lane, done, attempt, seconds)

    def _judge_slices(self, lane: Lane, failed: list[Slice]) -> None:
        """What follows where slices failed."""
        plan = lane.plan
        known = plan.each or len(lane.again) == 1
        causes = []  # of each slice: what runs again of it, how often that failed, why, and what follows
        for part in failed:
            undone, error = part.undone(), part.failure
            assert error is not None
            if undone:
                # At-most-once gives up a whole slice, for nobody knows which of it was done.
                size = len(undone) if plan.delivery == "at_most_once" else len(lane.again)
                times = lane.blamed.get(undone[0].offset(), 1)
                decision = self._decide(lane, error, times, undone[0])
                failure = Failure(size, times, known or size == 1, times, times, decision)
                causes.append((undone, times, self._describe(error), after_failure(plan, failure, random.random())))
        with self._dispatcher.lock:
            lane.seek_request = lane.pause_request = None
            if lane.lost or lane.closing:
                if plan.delivery == "at_most_once":
                    self._cut_off(lane, [(undone[:1] if plan.each else undone, text) for undone, _, text, _ in causes])
                return
            retry: tuple[Verdict, str] | None = None
            for undone, times, text, verdict in causes:
                if isinstance(verdict, GiveUp):
                    self._give_up(lane, undone[: verdict.size], text, verdict.letter)
                elif isinstance(verdict, (SetAside, Skip)):
                    lane.aside.append(Aside(undone[0], text, times, isinstance(verdict, SetAside)))
                elif retry is None:
                    retry = verdict, text
            if retry is not None and lane.again:
                self._follow(lane, retry[0], len(lane.again), retry[1])

    # -- a transaction around the run --------------------------------------------------------------------------------

    def _open_transaction(self, lane: Lane, shared: Transaction | None) -> bool:
        """Exactly-once: begin the run's transaction, or join one; False: not to be had now, the batch runs later."""
        if shared is not None and lane.uncommitted:
            with self._dispatcher.lock:
                self._not_now(lane, 0.0, "transaction")  # in one of its own: this one has no time to wait for a commit
            return False
        try:
            if lane.uncommitted and not lane.group.commit_now(lane):
                # It must not arrive after what the transaction commits.
                raise Aborted("what was skipped, or where the group begins, is not committed yet")
            transaction = shared or Transaction(self._seat, lane)
        except (KafkaException, Aborted) as error:
            self._aborted(lane, error)
            return False
        with self._dispatcher.lock:
            if not lane.closing:
                lane.transaction = transaction
                if shared is not None:
                    shared.join(lane)
                return True
            self._not_now(lane, 0.0, "transaction")  # the partition went while the broker was waited for
        if shared is None:
            transaction.abort()
        return False

    def _close_transaction(self, transaction: Transaction, runs: Sequence[_Run]) -> None:
        """Commit the transaction of these runs, or undo it after a failure; each is told why it did not happen."""
        failed = next((run for run in runs if run.failure is not None), None)
        why: BaseException | None = None
        if failed is None:
            try:
                transaction.commit(*(run.end for run in runs))
            except (Aborted, Undecided) as error:
                why = error
            except KafkaException as error:  # a message can never be delivered
                why = error if len(runs) == 1 else Aborted(describe(error))  # of several runs nobody knows whose
        else:
            transaction.abort()
            why = Aborted(
                f"it shared its transaction with a run of {failed.lane.topic}/{failed.lane.partition}, which failed"
            )
        with self._dispatcher.lock:  # the poller must not see one without the other
            for run in runs:
                if why is not None:
                    run.lane.restore(run.before)
                    if run.failure is None:
                        run.failure, run.undelivered = why, True
                run.lane.transaction = None

    def _aborted(self, lane: Lane, error: BaseException) -> None:
        """A transaction did not happen, for no fault of the handler's: what it belonged to runs again and counts as the same attempt."""
        batch = lane.batch
        done = [message for message in batch if message.offset() < lane.retry_from]  # by transactions before it
        self._say_consumed(lane, done, lane.attempt, 0.0)
        self._board.add(ABORTED)
        first = batch[min(len(done), len(batch) - 1)].offset()
        self._bus.publish(
            events.TransactionAborted(
                lane.group.name, lane.topic, lane.partition, first, batch[-1].offset(), self._describe(error)
            )
        )
        with self._dispatcher.lock:
            lane.seek_request = lane.pause_request = None
            lane.settle_aborted()
            lane.group.report_handled(lane)
            if lane.lost or lane.closing:
                return
            if isinstance(error, Undecided):
                lane.group.request_reread(lane)
            else:
                lane.aborts += 1
                pause = max(
                    TRANSACTION_RETRY, lane.plan.backoff.delay(lane.aborts, random.random()) if lane.aborts > 1 else 0.0
                )
                self._dispatcher.delay(lane, self._clock() + pause, "transaction")

    # -- after a failure ---------------------------------------------------------------------------------------------

    def _failed(
        self,
        lane: Lane,
        batch: list[Record],
        error: BaseException,
        undelivered: bool,
        began_at: int,
        attempt: int,
        seconds: float,
        handled_before: int,
    ) -> None:
        plan = lane.plan
        # Of `each`; a batch is counted when it has ended. Nothing is done, and nobody knows whose output it was, where one failed.
        done = 0 if undelivered else lane.handled - handled_before
        at = min(done, len(batch) - 1)
        first, last = batch[at].offset(), batch[-1].offset()
        if plan.exactly_once:
            self._failed_event(lane, error, batch[0].offset(), last, attempt)  # all of the run was undone
        else:
            self._failed_event(lane, error, first, last, 1 if done else attempt)
        text = self._describe(error)
        with self._dispatcher.lock:
            if plan.delivery == "at_most_once":
                began_at = batch[0].offset()
                if plan.each:
                    lane.retry_from = first if done < len(batch) else last + 1
                else:
                    lane.retry_from = max(lane.retry_from, began_at)
            culprit = batch[done] if plan.each and not undelivered and done < len(batch) else None
            size = lane.settle_failure(began_at, culprit)
            lane.handled = handled_before + len(batch) - size
            lane.group.report_handled(lane)
            lane.seek_request = None
            lane.pause_request = None
            consumed = batch[: len(batch) - size]
            failed, tries, alone = lane.failed, lane.tries, lane.alone
            blames = plan.exactly_once and culprit is not None and done > 0
            if blames:  # what was healthy was undone with the rest: it runs alone first, and is committed
                failed = tries = alone = lane.blame_after_healthy(batch[done])
        if size:
            at = done if blames else 0
            known = (plan.each and not undelivered) or size == 1
            decision = self._decide(lane, error, tries, batch[len(batch) - size + at])
            verdict = after_failure(plan, Failure(size, failed, known, tries, alone, decision), random.random())
            with self._dispatcher.lock:
                if lane.lost or lane.closing:
                    if plan.delivery == "at_most_once":
                        self._cut_off(lane, [(lane.again[: 1 if plan.each else size], text)])
                elif blames and isinstance(verdict, (SetAside, Skip)):
                    lane.condemned = Aside(batch[done], text, tries, isinstance(verdict, SetAside))
                elif len(lane.again) >= size:  # else it was sought elsewhere meanwhile
                    self._follow(lane, verdict, size, text)
        self._say_consumed(lane, consumed, attempt, seconds)

    def _decide(self, lane: Lane, error: BaseException, attempt: int, message: Record) -> Decision | None:
        """What the application says to a failure; None: nothing. Not under the lock: it is the application's code."""
        letter = lane.plan.dead_letter
        if letter is None or letter.decide is None:
            return None
        try:
            decision = letter.decide(error, attempt)
            if decision not in (None, *get_args(Decision)):
                raise ValueError(f"expected retry, dead_letter, skip or None, got {decision!r}")
        except BaseException as failure:
            self._bus.publish(
                events.DeciderFailed(
                    lane.group.name, lane.topic, lane.partition, message.offset(), self._describe(failure)
                )
            )
            return None
        return decision

    def _follow(self, lane: Lane, verdict: Verdict, size: int, error: str) -> None:
        """Carry out a verdict on the first `size` messages that run again. Under the lock."""
        match verdict:
            case Retry(delay):
                self._dispatcher.delay(lane, self._clock() + delay)
                scheduled = events.RetryScheduled(
                    lane.group.name, lane.topic, lane.partition, lane.again[0].offset(), lane.attempt, delay
                )
                self._bus.publish(scheduled)
            case Narrow(smaller):
                lane.search(smaller, lane.again[size - 1].offset() + 1)
            case SetAside():
                lane.aside.append(Aside(lane.again[0], error, lane.tries))
            case Skip():
                lane.aside.append(Aside(lane.again[0], error, lane.tries, letter=False))
            case GiveUp(count, letter):
                self._give_up(lane, lane.again[:count], error, letter)
            case _ as unknown:
                assert_never(unknown)

    def _give_up(self, lane: Lane, messages: list[Record], error: str, letter: bool) -> None:
        """At-most-once: what failed never runs again. Under the lock."""
        gone = {message.offset() for message in messages}
        lane.again = [message for message in lane.again if message.offset() not in gone]
        lane.start_over()
        if letter and lane.plan.dead_letter is not None:
            lane.aside.extend(Aside(message, error, 1) for message in messages)
            return
        # Of what a filter raised at, nothing is committed yet.
        lane.frontier = max(lane.frontier, lane.again[0].offset() if lane.again else lane.again_end)
        lane.handled += len(messages)
        lane.group.report_handled(lane)
        self._dropped(lane, messages, error)

    def _cut_off(self, lane: Lane, culprits: list[tuple[list[Record], str]]) -> None:
        """At-most-once: the assignment ends, and what was committed and not done is read by nobody again; it is said when the
        assignment is over. Under the lock."""
        for messages, error in culprits:
            lane.aside.extend(Aside(m, error, 1) for m in messages if m.offset() < lane.committed)

    def _dropped(self, lane: Lane, messages: list[Record], error: str) -> None:
        for part in virtual.ranges(messages):
            first, last = part[0].offset(), part[-1].offset()
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
                self._describe(error),
                self._hide(lines)[-_TRACEBACK_LIMIT:],
            )
        )

    def _set_aside(self, lane: Lane) -> None:
        """Deliver the dead letter, then go on behind the message; where it cannot be delivered, wait and try again."""
        letter = lane.plan.dead_letter
        assert letter is not None
        aside = lane.aside[0]
        raw, target = aside.message, letter.topic
        try:
            if lane.plan.exactly_once:
                self._set_aside_within(lane, aside)
            elif aside.letter:
                lane.group.dead_letter(lane, raw, aside.error, aside.attempts)
        except Undecided as error:
            self._board.add(ABORTED)
            offset = raw.offset()
            self._bus.publish(
                events.TransactionAborted(
                    lane.group.name, lane.topic, lane.partition, offset, offset, self._describe(error)
                )
            )
            with self._dispatcher.lock:
                lane.aside.clear()
                if not lane.closing:
                    lane.group.request_reread(lane)
            return
        except Exception as failure:  # whatever it is, the message stays where it is
            self._board.count_error("dead_letter")
            self._bus.publish(
                events.DeadLetterFailed(
                    lane.group.name,
                    lane.topic,
                    lane.partition,
                    raw.offset(),
                    target,
                    self._describe(failure),
                    DEAD_LETTER_RETRY,
                )
            )
            with self._dispatcher.lock:
                if not lane.closing:
                    self._dispatcher.delay(lane, self._clock() + DEAD_LETTER_RETRY, "dead_letter")
            return
        if aside.letter:
            self._board.add(DEAD_LETTERS)
        with self._dispatcher.lock:
            lane.handled += 1
            lane.settle_aside()
            lane.group.report_handled(lane)  # only now: until then it would be counted as one that runs again, too
        if aside.letter:
            self._bus.publish(
                events.MessageDeadLettered(
                    lane.group.name, lane.topic, lane.partition, raw.offset(), target, aside.attempts, aside.error
                )
            )
        else:
            self._dropped(lane, [raw], aside.error)

    def _set_aside_within(self, lane: Lane, aside: Aside) -> None:
        """Exactly-once: the dead letter and the offset behind the message are one transaction."""
        lane.transaction = transaction = Transaction(self._seat, lane)
        try:
            if aside.letter:
                lane.group.dead_letter(lane, aside.message, aside.error, aside.attempts)
            offset = aside.message.offset()
            end = next((other.offset() for other in lane.again if other.offset() != offset), lane.again_end)
            transaction.commit(end if lane.plan.offsets == "automatic" else lane.frontier)
        finally:
            if transaction.open:
                transaction.abort()
            lane.transaction = None
