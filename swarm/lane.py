"""One assigned partition inside a worker: its buffer, its frontier, its attempt. Rules only: no client, no thread, no clock.

A lane lives as long as one assignment (its identity is the assignment's epoch): a partition that comes back gets a new lane,
and what still refers to the old one finds it closed. It has at most one job in flight, so a partition's order holds.

Who may touch what. `lock` means the worker's one lock (`Dispatcher.lock`):
- `append`, `take`, `settle_*`, `close`, and everything in `phase`: under the lock.
- `frontier`, `retry_from`, `handled`: written by the one thread that runs the lane's job, read by the poller under the lock; each
  is a single store, so a reader sees the old or the new value and both are true.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from swarm.errors import ConfigurationError
from swarm.message import Record
from swarm.plan import Plan
from swarm.scoreboard import CLOSING, FULL, OUT_OF_RANGE, PAUSED, SEEKS, SUCCEEDS, Condition

if TYPE_CHECKING:
    from swarm.consumer import Consumer
    from swarm.group import Group
    from swarm.journal import LaneLog
    from swarm.producer import JobProducer
    from swarm.transactions import Seat, Transaction
    from swarm.virtual import Division, Slice

Phase = Literal["idle", "ready", "running", "waiting", "closed"]
Runner = Callable[["Lane | Slice", list[Any], int], int]
"""Runs a handler over messages as attempt n; returns how many were done (fewer only when `each` was halted)."""


@dataclass(frozen=True, slots=True)
class Aside:
    """A message that never runs again: it waits for its dead letter to be delivered (`letter`), or is to be dropped with an event."""

    message: Record
    error: str
    attempts: int
    letter: bool = True


def _offset_of(message: Record) -> int:
    return message.offset()


UNKNOWN: int = -1001
"""librdkafka's OFFSET_INVALID: not known."""


class Standing(NamedTuple):
    """Where a lane stood before a run. (Made for each run: a frozen dataclass takes six times as long.)"""

    frontier: int
    retry_from: int
    unmarked_end: int
    committed: int
    sent: int
    metadata: str | None
    holes: frozenset[int]


class Lane:
    """The state of one assigned partition."""

    def __init__(self, group: Group, plan: Plan, topic: str, partition: int, start: int, worker: int) -> None:
        self.group = group
        self.plan = plan
        self.topic = topic
        self.partition = partition
        self.worker = worker
        self.key = (topic, partition)
        self.start = start

        self.phase: Phase = "idle"
        self.revoked = False
        """Taken away, or about to be: shown to the handler as `is_revoked`."""
        self.lost = False
        """Nothing can be committed any more."""
        self.halt = False
        """Asks `each` to end after the message in hand."""
        self.closing: Literal["", "revoked", "lost", "shutdown"] = ""
        self.hook_due: str = ""
        """A hook to run before anything else: on_revoked or on_shutdown."""
        self.tick_due = False
        self.idle_due = False
        self.gathering = False
        """Waiting only for the batch to fill (`max_wait`)."""
        self.due_at = 0.0
        """While waiting: when to run again."""
        self.waits_for = ""
        """While waiting: what for (one of `scoreboard.WAITS`)."""
        self.phase_at = 0.0
        """Since when it is idle, ready or waiting, for people: a job says for itself when it began."""
        self.delayed_until: float | None = None
        """While running: when to run again after this run."""

        self.chunks: deque[list[Record]] = deque()
        self.buffered = 0
        self.wanted_at = -1
        """Of `buffered`: where the poller, which holds back because this lane is full, wants to be called."""
        self.message_bytes = 200
        """About the size of this lane's messages, with what an object costs."""
        self.fetch_next = start
        """The next offset that the client may hand us; what is below it was seen already."""
        self.log_end = (-1, -1)
        """What the client had read to when it met the end of the log, and that end: nothing between the two is anybody's to handle."""
        self.predecessor: Lane | None = None
        """The lane of an assignment before, whose job still runs: two jobs of one partition never run at once."""
        self.client_paused = False
        self.held_until = 0.0
        """A pause by the handler, or after an offset out of range."""
        self.paused = False
        """An operator paused it (`swarm.pauses`): no job begins. Written under the lock."""
        self.rests = False
        """It is paused, and the poller has seen that no job of it runs any more."""
        self.out_of_range = False
        """The group's offset is not in the log, and nobody said where to go on: nothing more is fetched."""
        self.seek_request: int | None = None
        """A handler's wish, carried out when its run has succeeded."""
        self.seek_to: int | None = None
        """Where the poller shall read on; until it does, what it fetches is stale. Written under the lock."""

        self.batch: list[Record] = []
        """What is being run."""
        self.batch_end = start
        """The next offset after what `batch` stands for: with it are done, too, messages that are skipped, or were done before."""
        self.again: list[Record] = []
        """What is to be run before the buffer: a failed batch's unmarked rest. Everything else below `taken_end` is done."""
        self.again_end = start
        """As `batch_end`, for `again`."""
        self.division: Division | None = None
        """While a batch runs in slices."""
        self.brief = False
        """The slices of the last batch were short (`processing.BRIEF`)."""
        self.transaction: Transaction | None = None
        """While one is open: marks belong to it, and nothing of this lane is committed otherwise."""
        self.seat: Seat | None = None
        """Where the thread that runs this lane gets its transactional producer."""
        self.taken_end = start
        """The next offset after all that was ever taken from the buffer."""
        self.frontier = start
        """Next offset of the consumed frontier: everything below is done. This is what is committed."""
        self.retry_from = start
        """Where a retry would start: the frontier, unless the handler marked an older message after a newer one, or returned
        without marking (manual offsets)."""
        self.strict = (
            plan.virtual_partitions is not None and plan.offsets == "manual" and plan.delivery != "at_most_once"
        )
        """A mark speaks for its slice and not for all before it, so what was returned from without one has to be remembered."""
        self.holes: set[int] = set()
        """Where `strict`: offsets of messages that a run has returned from without marking them. The frontier does not pass them."""
        self.marked_to = start
        """Where `strict`: messages of `batch` below it were marked."""
        self.unmarked_end = start
        """Manual offsets: the next offset after the last message that was returned from without being marked."""
        self.committed = start
        self.sent = start
        """The next offset last sent for committing."""
        self.perhaps_committed = start
        """A commit of this offset was sent and has no answer that says whether it arrived."""
        self.unsure = False
        """A commit of less than `committed` (after a seek backwards) has failed, and may have arrived all the same."""
        self.metadata: str | None = None
        """The text that goes along with the next commit; None: none was ever given."""
        self.metadata_sent: str | None = None
        self.metadata_committed: str | None = None

        self.aborts = 0
        """Transactions in a row that did not happen."""
        self.attempt = 1
        self.failed = 0
        """Failed runs in a row that began with the same message."""
        self.repeat_end = start
        """`each`: below it every message runs again, for outputs of their run were not delivered; else only the first does."""
        self.narrow = 0
        """While a failing message is searched for: the size of the next slice; 0: not searching."""
        self.suspect_end = start
        """While searching: the next offset after the slice that failed."""
        self.tries = 0
        """Failed runs in a row of which the message that is searched for was a part."""
        self.alone = 0
        """Of these, failed runs in a row in which nothing else can have raised."""
        self.healthy_end = 0
        """Exactly-once `each`: messages below it were healthy in a run that was undone, and run alone next; 0: none."""
        self.condemned: Aside | None = None
        """Exactly-once `each`: the message that undid that run, if it is to be set aside when those are committed."""
        self.blamed: dict[int, int] = {}
        """`each`: offsets of messages that are to run again because they failed, and how often they did."""
        self.aside: deque[Aside] = deque()
        """Messages that go to the dead letter topic, or are dropped, before anything else runs."""
        self.suppress = False
        """The handler paused or sought: nothing is marked automatically."""
        self.pause_request: tuple[float, int | None] | None = None

        self.handled = 0
        """Messages of this assignment that are done, handled or set aside."""
        self.handled_before = 0
        """The same when the run in hand began."""
        self.reported = 0
        """So many of them are counted in the scoreboard."""
        self.consumer: Consumer | None = None
        self.runner: Runner | None = None
        self.job_producer: JobProducer | None = None
        self.hook_names: frozenset[str] = frozenset()
        self.string_ids = (0, 0)
        self.log: LaneLog | None = None
        """Its place in the journal; None: there is no journal."""
        self.high = UNKNOWN
        self.high_at = 0.0

    # -- the poller, under the lock ----------------------------------------------------------------------------------

    def append(self, chunk: list[Record]) -> int:
        """Take in messages in the order of their offsets; returns how many were dropped as seen already."""
        dropped = 0
        first = chunk[0].offset()
        if first < self.fetch_next:
            kept = [message for message in chunk if message.offset() >= self.fetch_next]
            dropped = len(chunk) - len(kept)
            chunk = kept
        if chunk:
            limit = self.plan.max_messages
            if len(chunk) <= limit:
                self.chunks.append(chunk)
            else:  # cut once: to cut the rest of the rest at each batch touches every message as often
                self.chunks.extend(chunk[at : at + limit] for at in range(0, len(chunk), limit))
            self.buffered += len(chunk)
            # A sample, because to ask every message costs more than it tells; it falls slowly and rises at once.
            self.message_bytes = max(len(chunk[0]), len(chunk[-1]), self.message_bytes * 7 // 8) + 100
            self.fetch_next = chunk[-1].offset() + 1
        return dropped

    def pass_over_end(self) -> None:
        """Where all that was read is done, so is what lies between it and the end of the log: markers of transactions, or what was
        compacted away. Else a group would seem to lag behind for ever."""
        read, end = self.log_end
        if self.closing or self.phase == "running" or self.seek_to is not None or self.again or self.aside:
            return
        if read == self.fetch_next == self.taken_end == self.frontier and end > read:
            self.fetch_next = self.taken_end = self.retry_from = self.frontier = end

    @property
    def has_work(self) -> bool:
        """Whether a processing thread has something to do here."""
        return bool(self.hook_due or self.aside or self.again or self.chunks or self.tick_due or self.idle_due)

    def forget_buffer(self) -> None:
        """Drop what was fetched and not begun."""
        self.chunks.clear()
        self.buffered = 0

    def forget_all(self) -> None:
        """Drop also what was begun and is not done: reading goes on elsewhere."""
        self.forget_buffer()
        self.again = []
        self.attempt, self.failed, self.alone, self.narrow = 1, 0, 0, 0
        self.healthy_end, self.condemned = 0, None
        self.blamed.clear()
        if self.plan.delivery != "at_most_once":
            self.aside.clear()  # it is read again, or was to be skipped

    # -- the processing thread, under the lock -----------------------------------------------------------------------

    def leave_for(self, target: int) -> None:
        """A handler wants to go on at `target`, where the poller will read as soon as it comes round.

        Backwards, the commits follow at once: else a partition that is taken before that, or a death in the middle of the replay,
        would skip the rest of what was asked for.
        """
        self.seek_to = target
        self.forget_all()
        self.frontier = self.unmarked_end = min(self.frontier, target)

    def take(self) -> list[Record]:
        """The next batch: the rest of a failed one first, else up to `max_messages` of the buffer."""
        if self.again:
            healthy = sum(1 for message in self.again if message.offset() < self.healthy_end)
            size = self.narrow or healthy or len(self.again)
            self.batch, self.again = self.again[:size], self.again[size:]
            self.batch_end = self.again[0].offset() if self.again else self.again_end
            self.marked_to = self.batch[0].offset()
            return self.batch
        limit = self.plan.max_messages
        chunks = self.chunks
        batch = chunks.popleft()
        if len(batch) > limit:
            chunks.appendleft(batch[limit:])
            batch = batch[:limit]
        elif len(batch) < limit and chunks:
            batch = list(batch)
            while chunks and len(batch) < limit:
                chunk = chunks.popleft()
                room = limit - len(batch)
                if len(chunk) > room:
                    chunks.appendleft(chunk[room:])
                    chunk = chunk[:room]
                batch.extend(chunk)
        self.buffered -= len(batch)
        self.batch = batch
        self.batch_end = self.taken_end = batch[-1].offset() + 1
        self.marked_to = batch[0].offset()
        if self.holes:  # after a seek backwards: they come again
            self.holes = {offset for offset in self.holes if offset < self.marked_to}
        return batch

    def put_back(self, rest: list[Record]) -> None:
        """These messages of `batch` are not done: they come before all else."""
        if not rest:
            return
        if not self.again:
            self.again_end = self.batch_end
        self.again = rest + self.again

    def cut(self, size: int) -> None:
        """Run only the first `size` messages of `batch` now."""
        rest = self.batch[size:]
        self.put_back(rest)
        if rest:
            self.batch = self.batch[:size]
            self.batch_end = rest[0].offset()

    def settle_success(self, done: int) -> int:
        """The run returned after `done` messages of `batch` (fewer than all only where `each` was halted).

        Marks what was done, unless marking is the handler's; what was not done runs again. Returns how many do not.
        """
        batch, self.batch = self.batch, []
        if self.suppress and self.plan.delivery != "at_most_once":  # whose messages never run again
            rest = [message for message in batch if message.offset() >= self.retry_from]
            if not rest and not self.strict and batch and self.frontier > batch[-1].offset():
                self.frontier = max(self.frontier, self.batch_end)  # and so are those that were skipped behind it
        else:
            rest = batch[done:]
            end = rest[0].offset() if rest else self.batch_end
            # Manual offsets: messages that no handler saw are done where all before them is.
            marked = self.frontier > batch[-1].offset() if batch else self.frontier >= self.unmarked_end
            if self.strict:
                pass  # see below
            elif self.plan.offsets == "automatic" or (marked and not rest):
                self.frontier = max(self.frontier, end)
            elif self.frontier < end:
                self.unmarked_end = end
            self.retry_from = end
        self._settle_rest(batch, rest)
        if self.blamed:
            for message in batch[:done]:  # also where the handler asks for it again
                self.blamed.pop(message.offset(), None)
        self.start_over()
        self.aborts = 0
        if self.healthy_end:
            self._go_on_with_culprit()
        self._go_on_searching()
        return len(batch) - len(rest)

    def _settle_rest(self, batch: list[Record], rest: list[Record]) -> None:
        """What is left of a batch that ran as a whole runs again."""
        self.put_back(rest)
        if self.strict:
            end = rest[0].offset() if rest else self.batch_end
            self.holes.update(offset for m in batch if self.marked_to <= (offset := m.offset()) < end)
            self._reach(end)

    def _reach(self, end: int) -> None:
        """Where `strict`: everything below `end` has been run; the frontier goes there, or to the first that waits for its mark."""
        self.frontier = max(self.frontier, min(end, *self.holes) if self.holes else end)

    def blame(self, message: Record) -> int:
        """`each`: this message has failed. Returns how often it has."""
        offset = message.offset()
        times = self.blamed[offset] = self.blamed.get(offset, 0) + 1
        return times

    def blame_after_healthy(self, message: Record) -> int:
        """Exactly-once `each`: this message undid a run, with others before it that were healthy. Returns how often it has failed."""
        self.failed = 0  # of the first of the others
        self.healthy_end = message.offset()
        return self.blame(message)

    def start_over(self) -> None:
        """What comes next has not failed, or did so elsewhere."""
        self.attempt = 1
        self.failed = 0
        if self.blamed:
            left = {message.offset() for message in self.again}
            self.blamed = {offset: times for offset, times in self.blamed.items() if offset in left}
            if self.again:
                self.failed = self.blamed.get(self.again[0].offset(), 0)
                self.attempt = self.failed + 1
        self.alone = self.failed

    def _go_on_with_culprit(self) -> None:
        """What was healthy is committed: next comes the message that undid it."""
        if self.again and self.again[0].offset() < self.healthy_end:
            return
        self.healthy_end = 0
        condemned, self.condemned = self.condemned, None
        if condemned is not None and self.again and condemned.message.offset() == self.again[0].offset():
            self.aside.append(condemned)

    def _go_on_searching(self) -> None:
        """After a healthy slice: the failing message is among what is left of the suspects."""
        if self.narrow:
            left = sum(1 for message in self.again if message.offset() < self.suspect_end)
            self.narrow = max(1, left // 2) if left else 0
            if self.narrow:  # they were tried with the others before: to a handler this is no first attempt
                self.attempt = self.tries + 1

    def settle_failure(self, began_at: int, culprit: Record | None = None) -> int:
        """The run of `batch` raised; `began_at` is the `retry_from` it began with. Returns how many messages run again.

        culprit: the message that raised, where it is known (`each`).
        """
        batch, self.batch = self.batch, []
        start = self.retry_from
        rest = [message for message in batch if message.offset() >= start]
        self._settle_rest(batch, rest)
        if rest and culprit is not None and culprit.offset() == rest[0].offset():
            self.blame(culprit)
            self.start_over()
            self.tries = self.tries + 1 if self.narrow else self.failed
        else:
            self._count_failure(start > began_at, len(rest))
        if not rest:  # the handler marked all of the batch and raised afterwards: all of it is done
            if not self.strict:
                self.frontier = max(self.frontier, self.batch_end)
            self.start_over()
            self._go_on_searching()
        return len(rest)

    def settle_slices(self, division: Division, failed: bool) -> int:
        """All slices of `batch` have ended: the collective frontier moves, what is not done runs again. Returns how many do."""
        batch, self.batch = self.batch, []
        rest = division.undone()
        if self.strict:
            self.holes |= division.unmarked()
            self._reach(rest[0].offset() if rest else self.batch_end)
        else:
            self.frontier = max(self.frontier, division.frontier(self.batch_end))
            if self.frontier < self.batch_end:
                self.unmarked_end = self.batch_end
        self.retry_from = rest[0].offset() if rest else self.batch_end
        self.put_back(rest)
        if failed and rest and not self.plan.each:
            self._count_failure(len(rest) < len(batch), len(rest))
        else:
            for part in division.slices if failed else ():
                if part.failure is not None and (undone := part.undone()):
                    self.blame(undone[0])
            self.start_over()
        return len(rest)

    def settle_aborted(self) -> None:
        """A transaction did not happen, for no fault of the handler's: what is not marked runs again, as the same attempt."""
        batch, self.batch = self.batch, []
        rest = [message for message in batch if message.offset() >= self.retry_from]
        self.put_back(rest)
        if len(rest) < len(batch):  # transactions before it did
            self.start_over()
        if not rest:
            self.frontier = max(self.frontier, self.batch_end)

    def _count_failure(self, advanced: bool, size: int) -> None:
        self.failed = 1 if advanced else self.failed + 1
        self.alone = 0 if size > 1 else 1 if advanced else self.alone + 1
        self.tries = self.tries + 1 if self.narrow else self.failed
        self.attempt = self.tries + 1

    def search(self, size: int, end: int) -> None:
        """Begin or go on to look for the failing message: run `size` messages next, of a slice that ends before offset `end`."""
        self.narrow = size
        self.suspect_end = end

    def settle_aside(self) -> None:
        """The first of `aside` is in the dead letter topic, or dropped: go on behind it."""
        end = self.end_without(self.aside.popleft().message)
        if self.strict:
            self._reach(end)
        elif self.plan.offsets == "automatic" or self.frontier >= self.unmarked_end:
            self.frontier = max(self.frontier, end)  # else messages before it wait for the handler's mark
        self.retry_from = end
        self.start_over()
        self.narrow = 0

    def end_without(self, message: Record) -> int:
        """Take a message out of `again`; the next offset that is not done then."""
        offset = message.offset()
        self.again = [other for other in self.again if other.offset() != offset]
        return self.again[0].offset() if self.again else self.again_end

    # -- the handler, in its processing thread -----------------------------------------------------------------------

    def mark(self, offset: int) -> bool:
        """Everything up to and including `offset` is done."""
        if self.lost or self.phase == "closed" or offset >= self.taken_end:
            return False  # the last: a message of an earlier assignment, or from before a seek: it comes again
        if self.transaction is not None and not self.plan.exactly_once:
            self.transaction.mark(offset)
            return True
        if self.division is not None or (self.strict and self.batch and offset < self.batch[0].offset()):
            self.holes.discard(offset)  # kept from an earlier run: it speaks for itself alone
            return True
        self.retry_from = offset + 1
        if not self.strict:
            self.frontier = max(self.frontier, offset + 1)
        elif self.batch:
            self.marked_to = max(self.marked_to, offset + 1)
            self._reach(self.marked_to)
        else:  # a hook, which speaks for all
            self.holes = {other for other in self.holes if other > offset}
            self._reach(offset + 1)
        return True

    @property
    def may_share(self) -> bool:
        """Whether its next run may be in one transaction with those of other lanes: only fresh messages are due, and nothing of it has
        failed, or was undone, of late. Under the lock."""
        return (
            self.plan.transaction_partitions > 1
            and self.consumer is not None
            and not (self.hook_due or self.aside or self.tick_due or self.closing or self.paused)
            and not (self.failed or self.aborts or self.narrow or self.blamed or self.condemned)
        )

    @property
    def countable(self) -> int:
        """Messages of this assignment that are done, with those that may be committed before their run has ended: of the run in hand, and of
        what runs again although the handler has marked it. Under the lock."""
        if self.plan.delivery == "at_most_once":  # whose frontier is ahead of what is done
            return self.handled
        reached = self.reached()
        handled = self.handled
        if self.batch:
            handled = max(handled, self.handled_before + bisect_left(self.batch, reached, key=_offset_of))
        return handled + bisect_left(self.again, reached, key=_offset_of) if self.again else handled

    def settled_frontier(self) -> int:
        """The next offset that may be committed: the frontier, or what was committed while outputs are still under way, or while a
        transaction is open that will carry it. Under the lock, under which transactions end.

        The frontier is read first: outputs that belong below it were produced before that.
        """
        frontier = self.reached()
        return self.committed if self.withheld else frontier

    def reached(self) -> int:
        """The frontier, with what slices that are running have done."""
        frontier, division = self.frontier, self.division
        if division is not None:
            frontier = max(frontier, min(division.frontier(self.batch_end), *tuple(self.holes), self.batch_end))
        return frontier

    @property
    def uncommitted(self) -> bool:
        """Whether there is something that may be committed and is not; or something else, from before a seek and back, is under way."""
        settled = self.settled_frontier()
        return (
            settled != self.committed
            or not self.is_committed(settled)
            or (self.metadata != self.metadata_committed and not self.withheld)
        )

    def is_committed(self, target: int) -> bool:
        """Whether the broker holds `target` or more, and nothing less is under way (after a seek backwards)."""
        return self.committed >= target and (self.sent < 0 or self.sent >= target) and not self.unsure

    @property
    def withheld(self) -> bool:
        """Whether what is marked may not be committed yet: outputs are under way, or a transaction will carry it."""
        return self.transaction is not None or (self.job_producer is not None and self.job_producer.pending)

    def take_back(self, before: Standing) -> None:
        """Outputs of this run were not delivered: what it marked and nobody committed is not done after all."""
        floor = before.frontier
        if self.committed > before.committed:
            floor = max(floor, self.committed)
        if self.sent > before.sent:
            floor = max(floor, self.sent)
        self.frontier = self.retry_from = floor
        self.holes = set(before.holes)
        self.metadata = before.metadata if floor == before.frontier else self.metadata_sent
        if self.batch:
            self.repeat_end = self.batch[-1].offset() + 1

    def standing(self) -> Standing:
        """Where the lane stands before something that may have to be taken back."""
        return Standing(
            self.frontier,
            self.retry_from,
            self.unmarked_end,
            self.committed,
            self.sent,
            self.metadata,
            frozenset(self.holes),
        )

    def restore(self, before: Standing) -> None:
        """Nothing of what was marked since `before` is so: the transaction it belonged to did not happen."""
        self.frontier, self.retry_from, self.unmarked_end = before.frontier, before.retry_from, before.unmarked_end
        self.metadata = before.metadata

    def forgive(self) -> None:
        """The failed delivery has had its consequence."""
        if self.job_producer is not None:
            self.job_producer.forgive()

    def commit(self) -> bool:
        """Commit the frontier, synchronously; first waits for what was produced, and raises if it was not delivered."""
        if self.plan.exactly_once or self.transaction is not None:
            raise ConfigurationError(
                "commit() inside a transaction: its offsets are committed with it, at its end. Call mark_as_consumed(message) instead."
            )
        if self.job_producer is not None:
            self.job_producer.settle()
        return self.group.commit_now(self)

    def pause(self, seconds: float, offset: int | None) -> None:
        """Ask for a pause after this run."""
        self.suppress = True
        self.pause_request = (max(0.0, seconds), offset)

    def seek(self, offset: int) -> None:
        """Ask for another position after this run."""
        self.suppress = True
        self.seek_request = offset

    def dead_letter(self, raw: Record, reason: str) -> None:
        """Produce to the dead letter topic now; within a transaction as a part of it."""
        self.group.dead_letter(self, raw, reason, self.attempt)

    def producer(self) -> JobProducer | Transaction:
        """The producer whose deliveries belong to this lane's runs."""
        if self.plan.exactly_once:
            if self.transaction is None:
                raise ConfigurationError(
                    "producer: there is no transaction outside of consume() and the hooks that follow it. Produce there."
                )
            return self.transaction
        if self.job_producer is None:
            with self.group.lock:  # slices run at once: one that nobody waits for would lose outputs
                if self.job_producer is None:
                    self.job_producer = self.group.make_job_producer()
        return self.job_producer


def condition_of(lane: Lane) -> Condition:
    """How it is, for who looks from outside. The poller; what other threads write is read as it is."""
    predecessor = lane.predecessor
    bits = (
        lane.paused * PAUSED
        | lane.out_of_range * OUT_OF_RANGE
        | bool(lane.closing) * CLOSING
        | (predecessor is not None and predecessor.phase != "closed") * SUCCEEDS
        | lane.client_paused * FULL
        | (lane.seek_to is not None) * SEEKS
    )
    waiting = lane.phase == "waiting"
    waits_for, until = (lane.waits_for, lane.due_at) if waiting else ("", 0.0)
    if lane.phase == "idle" and lane.held_until > 0.0:  # it has nothing to run, but is not fetched either until then
        waits_for, until = "pause", lane.held_until
    return Condition(
        lane.phase, lane.phase_at, waits_for, until, bits, lane.attempt, lane.buffered, max(lane.frontier, UNKNOWN)
    )
