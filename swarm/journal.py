"""The journal that a process keeps of what it did, for `audit`, `doctor` and `why`. Knows no Kafka and no file (`swarm.journal_store`).

A worker says to it what it processes, batch by batch, and it hears the events of assignments, commits and failures. Nothing that goes wrong
here touches processing: the journal says so once, goes off, and is tried again.

Who may call what. `LaneLog.committing`, `begin`, `done` and `failed`: the thread that runs the lane's job. `Journal.hear` and the rest: any thread.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from swarm import __version__, events
from swarm import journal_format as form
from swarm.bus import Bus
from swarm.errors import describe
from swarm.journal_store import Store, journal_dir

if TYPE_CHECKING:
    from swarm.config import Settings
    from swarm.plan import Plan

GRAIN: Final = 15.0
"""Seconds after which a new record is begun, so that one can tell when something happened; a commit's record, too."""
RETRY: Final = 60.0
"""Seconds until a journal that could not be written is tried again."""
CLIENT_ERRORS: Final = frozenset(
    {"_MAX_POLL_EXCEEDED", "FENCED_INSTANCE_ID", "UNKNOWN_MEMBER_ID", "UNRELEASED_INSTANCE_ID"}
)
"""Those of a client that say why a membership ended; fatal ones are kept, too."""


class Offsets(Protocol):
    """A record of Kafka's, of which only the place matters here."""

    def offset(self) -> int: ...


def ranges(batch: Iterable[Offsets]) -> list[list[int]]:
    """The offsets of messages as [first, last] of those without a hole between."""
    found: list[list[int]] = []
    for message in batch:
        offset = message.offset()
        if found and offset == found[-1][1] + 1:
            found[-1][1] = offset
        else:
            found.append([offset, offset])
    return found


class Journal:
    """One process's journal. Made in the process that writes it: no lock and no mapping of it comes over a fork."""

    def __init__(
        self,
        make_store: Callable[[Callable[[], bytes]], Store],
        identity: dict[str, Any],
        bus: Bus,
        *,
        brief: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """make_store: given what makes the preface of a segment. identity: what that says of the process: pid, worker, name, host, …
        brief: let go of the segment after each record, for a process whose children would hold it, too."""
        self._store = make_store(self._preface)
        self._identity = identity
        self._bus = bus
        self._brief = brief
        self.clock = clock
        self._lock = threading.RLock()  # an event of the journal itself may come back to it
        self._lanes = 0
        self._open: dict[tuple[str, str, int], LaneLog] = {}
        self._off_until = 0.0
        self._missing_since = 0.0
        self._ended = False

    # -- appending ---------------------------------------------------------------------------------------------------

    def fact(self, what: str, **data: Any) -> None:
        """Say that something has happened."""
        now = self.clock()
        self.append(form.pack_fact(now, what, data), now)

    def append(self, record: bytes, now: float, log: LaneLog | None = None) -> tuple[mmap.mmap, int] | None:
        """The map that holds the record now, and where; None where it cannot be written. log: whose it is."""
        with self._lock:
            if self._ended or now < self._off_until:
                return None
            try:
                if log is not None and log.introduced is not self._store.reserve(len(record) + form.LONGEST_FACT):
                    log.introduced, _ = self._store.append(log.introduction(now))
                placed = self._store.append(record)
                self._store.prune_if_due(now)
                if self._brief:
                    self._store.close()
            except Exception as error:  # whatever it is: processing goes on
                self._fail(error, now)
                return None
            return placed

    def _preface(self) -> bytes:
        now = self.clock()
        identity = dict(self._identity)
        if self._missing_since:
            identity["missing_since"], self._missing_since = self._missing_since, 0.0
        return form.pack_fact(now, "process", identity)

    def _fail(self, error: Exception, now: float) -> None:
        self._off_until = now + RETRY
        self._missing_since = self._missing_since or now
        with contextlib.suppress(OSError):
            self._store.close()
        self._bus.publish(events.JournalFailed(describe(error), RETRY))

    # -- a worker's ---------------------------------------------------------------------------------------------------

    def lane(self, group: str, topic: str, partition: int, start: int, plan: Plan) -> LaneLog:
        """What will be processed in an assignment that begins now. Writes nothing yet."""
        traits = {
            "delivery": plan.delivery,
            "offsets": plan.offsets,
            "each": plan.each,
            "virtual": plan.virtual_partitions is not None,
            "long_running": plan.long_running,
        }
        with self._lock:
            self._lanes += 1
            log = LaneLog(self, self._lanes, (group, topic, partition), start, traits)
            self._open[log.key] = log
        return log

    def forget(self, log: LaneLog) -> None:
        """Its assignment has ended."""
        with self._lock:
            if self._open.get(log.key) is log:
                del self._open[log.key]

    def listen(self, bus: Bus) -> None:
        """Hear what else belongs into a worker's journal."""
        for event, hear in (
            (events.PartitionsAssigned, self._assigned),
            (events.OffsetsCommitted, self._committed),
            (events.CommitFailed, self._commit_failed),
            (events.PartitionSought, self._sought),
            (events.PartitionPaused, self._of_partition),
            (events.OffsetOutOfRange, self._out_of_range),
            (events.TopicRecreated, self._of_partition),
            (events.MessageDeadLettered, self._of_partition),
            (events.MessageDropped, self._of_partition),
            (events.RevocationGivenUp, self._of_group),
            (events.ClientRebuilt, self._of_group),
            (events.SeatContested, self._of_group),
            (events.ClientError, self._client_error),
            (events.PartitionsLost, self._of_group),
        ):
            bus.add(event, hear)

    def end(self, code: int) -> None:
        """The process ends in good order; nothing is written after this."""
        self.fact("ended", code=code)
        with self._lock:
            self._ended = True
            self._store.close()

    def _log_of(self, event: Any) -> LaneLog | None:
        return self._open.get((event.group, event.topic, event.partition))

    def _assigned(self, event: Any) -> None:
        for topic, partition, _ in event.partitions:
            log = self._open.get((event.group, topic, partition))
            if log is not None:
                log.fact("begun")

    def _committed(self, event: Any) -> None:
        for topic, partition, offset in event.offsets:
            log = self._open.get((event.group, topic, partition))
            if log is not None:
                log.committed(offset)

    def _commit_failed(self, event: Any) -> None:
        for topic, partition, offset in event.offsets:
            log = self._open.get((event.group, topic, partition))
            if log is not None:
                log.fact("commit_failed", offset=offset, code=event.code, error=event.error)

    def _sought(self, event: Any) -> None:
        log = self._log_of(event)
        if log is not None:
            log.moved(event.offset, "seek")

    def _out_of_range(self, event: Any) -> None:
        log = self._log_of(event)
        if log is not None and event.target is not None:
            log.moved(event.target, "out_of_range", edge=event.action)

    def _of_partition(self, event: Any) -> None:
        log = self._log_of(event)
        facts = event.facts()
        if log is None:
            self.fact(event.event_name(), **facts)
            return
        for name in ("group", "topic", "partition"):
            del facts[name]
        log.fact(event.event_name(), **facts)

    def _of_group(self, event: Any) -> None:
        self.fact(event.event_name(), **event.facts())

    def _client_error(self, event: Any) -> None:
        if event.fatal or event.code in CLIENT_ERRORS:
            self.fact("client_error", **event.facts())


class LaneLog:
    """What one assignment of one partition has processed.

    `position` is the next offset after all that was begun. Between what was processed and the first message of a batch that goes on from
    there may be a hole in the log, or messages that were skipped: both are done with. So a span goes on over them.
    """

    def __init__(
        self, journal: Journal, number: int, key: tuple[str, str, int], start: int, traits: dict[str, Any]
    ) -> None:
        self._journal = journal
        self.number = number
        self.key = key
        self._start = start
        self._traits = traits
        self._wall = journal.clock
        self._assigned_at = journal.clock()
        self.introduced: mmap.mmap | None = None
        """The segment that says which partition this number means."""
        self.position = start
        self._moved_to: int | None = None
        self._map: mmap.mmap | None = None
        """Of the span that grows; None: the next batch begins another."""
        self._at = 0
        self._until = 0.0
        self._single: tuple[float, int] | None = None
        """A run that is recorded by itself: since when, and its attempt."""
        self._batches = self._messages = 0
        self._seconds = self._longest = 0.0
        self._histogram = [0] * form.BUCKETS
        self._commit: tuple[mmap.mmap, int] | None = None
        self._commit_until = 0.0
        self._held = start
        self._ahead: tuple[mmap.mmap, int] | None = None
        self._ahead_until = 0.0

    # -- the thread that runs the lane's job: what is called for each batch ------------------------------------------

    def committing(self, first: int, end: int, offset: int) -> None:
        """At-most-once: messages [first, end) begin to run as soon as the broker holds `offset`, which is sent now."""
        now = self._wall()
        if self._ahead is not None and now < self._ahead_until:
            form.AHEAD_LATEST.pack_into(self._ahead[0], self._ahead[1] + form.AHEAD_LATEST_AT, first, end, offset, now)
            return
        self._ahead = self._journal.append(form.pack_ahead(now, self.number, first, end, offset), now, self)
        self._ahead_until = now + GRAIN

    def begin(self, batch: Sequence[Offsets], first: int, last: int, attempt: int) -> None:
        """A handler is about to see these messages."""
        now = self._wall()
        if (
            self._map is not None
            and attempt == 1
            and first >= self.position
            and now < self._until
            and self._moved_to is None
        ):
            self.position = last + 1
            form.SPAN_BEGUN.pack_into(self._map, self._at + form.SPAN_BEGUN_AT, last + 1, now)
            return
        self._begin_anew(batch, first, last, attempt, now)

    def done(self, end: int, count: int, seconds: float) -> None:
        """The run that was begun has succeeded, up to before `end`: `count` messages (`each` may be asked to end early)."""
        segment = self._map
        if segment is None:
            self._end_single("done", [], None, seconds, end=end)
            return
        self._batches += 1
        self._messages += count
        self._seconds += seconds
        self._longest = max(self._longest, seconds)
        now, at = self._wall(), self._at
        form.SPAN_DONE.pack_into(
            segment,
            at + form.SPAN_DONE_AT,
            end,
            now,
            self._batches,
            self._messages,
            self._seconds,
            self._longest,
        )
        place = form.bucket(seconds)
        self._histogram[place] = times = self._histogram[place] + 1
        form.SPAN_BUCKET.pack_into(segment, at + form.SPAN_HISTOGRAM_AT + 4 * place, times)
        if end != self.position:  # what was not begun of the batch after all, nobody has seen
            self.position = end
            form.SPAN_BEGUN.pack_into(segment, at + form.SPAN_BEGUN_AT, end, now)

    # -- the same thread, now and then -------------------------------------------------------------------------------

    def failed(self, outcome: str, batch: Sequence[Offsets], attempt: int, error: str, seconds: float) -> None:
        """The run that was begun did not succeed. outcome: failed, or aborted (its transaction did not happen).

        batch: the messages that the handler has seen.
        """
        seen = ranges(batch)
        segment, self._map = self._map, None
        if segment is None:
            self._end_single(outcome, seen, error, seconds)
            return
        self.fact("ran", outcome=outcome, seen=seen, attempt=attempt, error=error, seconds=round(seconds, 6))
        done, _ = form.SPAN_BEGUN.unpack_from(segment, self._at + form.SPAN_DONE_AT)
        form.SPAN_BEGUN.pack_into(segment, self._at + form.SPAN_BEGUN_AT, done, self._wall())

    def _begin_anew(self, batch: Sequence[Offsets], first: int, last: int, attempt: int, now: float) -> None:
        """Begin a span, or, where it is no first attempt that goes on from where the last one ended, a run that is recorded by itself."""
        moved = self._moved_to
        if moved is not None and first >= moved:
            self.position, self._moved_to = moved, None
        self._map = self._single = None
        if attempt > 1 or first < self.position:
            self._single = now, attempt
            self.position = max(self.position, last + 1)
            if not self.fact("run", attempt=attempt, ranges=ranges(batch)):
                self._begun_unseen(last + 1, now)
            return
        start, self.position = self.position, last + 1
        placed = self._journal.append(form.pack_span(now, self.number, start), now, self)
        if placed is None:
            self._begun_unseen(last + 1, now)
            return
        self._map, self._at = placed
        self._until = now + GRAIN
        self._batches = self._messages = 0
        self._seconds = self._longest = 0.0
        self._histogram = [0] * form.BUCKETS
        form.SPAN_BEGUN.pack_into(self._map, self._at + form.SPAN_BEGUN_AT, last + 1, now)

    def _begun_unseen(self, end: int, now: float) -> None:
        """A run begins, and there is no room to say so: what was said of its commit may not be taken for messages that never began."""
        if self._ahead is not None:
            segment, at = self._ahead
            form.AHEAD_LATEST.pack_into(segment, at + form.AHEAD_LATEST_AT, end, end, end, now)

    def _end_single(
        self, outcome: str, seen: list[list[int]], error: str | None, seconds: float, end: int | None = None
    ) -> None:
        """seen: of a run that failed. end: the next offset after what is done, of one that did not."""
        if self._single is None:
            return
        (_, attempt), self._single = self._single, None
        facts: dict[str, Any] = {"end": end} if end is not None else {"seen": seen, "error": error}
        self.fact("ran", outcome=outcome, attempt=attempt, seconds=round(seconds, 6), **facts)

    # -- any thread --------------------------------------------------------------------------------------------------

    def introduction(self, now: float) -> bytes:
        """The record that says what this assignment is."""
        group, topic, partition = self.key
        facts = {"lane": self.number, "group": group, "topic": topic, "partition": partition, "start": self._start}
        return form.pack_fact(now, "assigned", {**facts, "since": self._assigned_at, **self._traits})

    def fact(self, what: str, **data: Any) -> bool:
        """Say that something has happened to this assignment. False: there is no room for it."""
        now = self._wall()
        return self._journal.append(form.pack_fact(now, what, {"lane": self.number, **data}), now, self) is not None

    def released(self, how: str, *, late: bool, committed: int) -> None:
        """The assignment has ended: `how` is revoked, lost or shutdown; `late`: a job of it still runs, and ends unheard."""
        self.fact("released", how=how, late=late, committed=committed)
        self._journal.forget(self)

    def moved(self, offset: int, why: str, **data: Any) -> None:
        """It goes on at `offset`, because of a `seek`, or because its offset was `out_of_range`."""
        self.fact("moved", to=offset, position=self.position, why=why, **data)
        self._moved_to = offset

    def committed(self, offset: int) -> None:
        """The broker holds this next offset."""
        now = self._wall()
        if self._commit is not None and now < self._commit_until and offset >= self._held:
            form.COMMIT_LATEST.pack_into(self._commit[0], self._commit[1] + form.COMMIT_LATEST_AT, offset, now)
        else:
            self._commit = self._journal.append(form.pack_commit(now, self.number, offset), now, self)
            self._commit_until = now + GRAIN
        self._held = offset


def of_worker(settings: Settings, state_dir: Path, index: int, bus: Bus) -> Journal | None:
    """A worker's journal; None where the settings want none. After the fork."""
    if not settings.journal.enabled:
        return None
    identity = {**_identity(settings, index), "app": settings.swarm.app, "app_version": _version_of(settings.swarm.app)}
    journal = Journal(_store(settings, state_dir, f"worker-{index:04d}"), identity, bus)
    journal.listen(bus)
    return journal


def of_supervisor(settings: Settings, state_dir: Path, bus: Bus) -> None:
    """Let a supervisor's journal hear what it does with its workers, where the settings want it."""
    if not settings.journal.enabled:
        return
    journal = Journal(_store(settings, state_dir, "supervisor"), _identity(settings, None), bus, brief=True)
    for event in (
        events.SwarmStarted,
        events.SwarmStopped,
        events.SwarmScaled,
        events.SwarmReloaded,
        events.WorkerStarted,
        events.WorkerStopping,
        events.WorkerKilled,
        events.WorkerExited,
    ):
        bus.add(event, lambda said: journal.fact(said.event_name(), **said.facts()))


def _store(settings: Settings, state_dir: Path, writer: str) -> Callable[[Callable[[], bytes]], Store]:
    return partial(Store, journal_dir(state_dir), writer, settings.journal.size, settings.journal.age)


def _identity(settings: Settings, worker: int | None) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "began_at": time.time(),
        "worker": worker,
        "name": settings.swarm.name,
        "host": settings.swarm.host,
        "version": __version__,
    }


def _version_of(app: str | None) -> str | None:
    """What the application's module, or the package it is in, says of its version."""
    module = (app or "").partition(":")[0]
    for name in (module, module.partition(".")[0]):
        version = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            return version
    return None
