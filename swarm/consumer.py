"""What an application subclasses: one instance per assigned partition, for as long as the assignment lasts.

All methods are called by the runtime in a worker, by one processing thread at a time; instances share nothing. The methods that
are not hooks only look at and change the instance's own lane (`swarm.lane`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from swarm.errors import ConfigurationError
from swarm.message import Message, Messages

if TYPE_CHECKING:
    from swarm.lane import Lane
    from swarm.producer import JobProducer
    from swarm.transactions import Transaction
    from swarm.virtual import Slice


LONGEST_METADATA: Final = 4096
"""Bytes: the broker's default of `offset.metadata.max.bytes`. A longer text is refused with its offset, and with each one after it."""


class Consumer:
    """Handles the messages of one partition. Override `consume`, and hooks as needed."""

    _lane: Lane

    def consume(self, messages: Messages) -> None:
        """Handle a batch. Returning marks all of it (`offsets="automatic"`); raising repeats it from the first unmarked message."""
        raise NotImplementedError

    # -- hooks: each a no-op; one that raises is reported (HookFailed) and changes nothing ---------------------------

    def on_assigned(self) -> None:
        """The partition is ours; called before the first `consume`."""

    def on_revoked(self) -> None:
        """The partition is taken or lost; its in-flight batch has ended. What is marked here is still committed, unless it was lost."""

    def on_idle(self) -> None:
        """The partition has run out of messages; called once each time."""

    def on_tick(self) -> None:
        """About once a second between batches, with or without messages."""

    def on_shutdown(self) -> None:
        """The worker stops; called once, after the last `consume`. What is marked here is still committed."""

    # -- what a handler may ask and say ------------------------------------------------------------------------------

    def mark_as_consumed(self, message: Message, metadata: str | None = None) -> bool:
        """State that everything up to and including `message` is done. Stored now, committed by interval. Never blocks.

        metadata: a short text (up to 4096 bytes of UTF-8, the broker's default of `offset.metadata.max.bytes`; ValueError beyond that) that is
        committed with this offset and those after it, until another one is given; whoever gets the partition reads it as `offset_metadata`.
        False: the partition is no longer ours, and somebody else will handle the message again.
        With virtual partitions it speaks for the messages of the same slice.
        """
        return self._mark(message, metadata)

    def _mark(self, message: Message, metadata: str | None) -> bool:
        _check_length(metadata)
        lane = self._lane
        if (message.topic, message.partition) != lane.key:
            raise ValueError(
                f"{message!r} was marked at the consumer of {self.topic}/{self.partition}: mark it at its own."
            )
        division = lane.division
        target = (division.slice_of(message.offset) if division is not None else None) or lane
        if metadata is None:
            return target.mark(message.offset)
        with lane.group.lock:  # the poller must not send the one without the other
            marked = target.mark(message.offset)
            if marked:
                lane.metadata = metadata
        return marked

    def _slice(self) -> Slice | None:
        """The part of a divided batch that the calling thread or task runs."""
        if self._lane.division is None:
            return None
        from swarm.virtual import CURRENT

        part = CURRENT.get()
        return part if part is not None and part.lane is self._lane else None

    def commit(self, message: Message | None = None, metadata: str | None = None) -> bool:
        """Commit what is marked, with `message` marked first. Blocks until the broker has answered.

        True also where there was nothing new. False: the partition is no longer ours, or the broker refused (a CommitFailed event).
        With virtual partitions: what all slices together have done without a gap. Not within a transaction (ConfigurationError).
        """
        _check_length(metadata)
        if message is not None and not self._mark(message, metadata):
            return False
        if metadata is not None:
            self._lane.metadata = metadata
        return self._lane.commit()

    @property
    def offset_metadata(self) -> str | None:
        """The text that was committed with the partition's offset, or given since; None: none."""
        return self._lane.metadata

    def pause(self, seconds: float, offset: int | None = None) -> None:
        """After this run wait so long (s), then go on at `offset` (default: the first unmarked message). Nothing is marked automatically."""
        self._lane.pause(float(seconds), offset)
        self._suppress()

    def seek(self, offset: int) -> None:
        """After this run go on reading at `offset`. Nothing is marked automatically. Backwards, the committed offset follows."""
        self._lane.seek(int(offset))
        self._suppress()

    def _suppress(self) -> None:
        part = self._slice()
        if part is not None:
            part.suppress = True

    def dead_letter(self, message: Message, reason: str) -> None:
        """Produce `message` to the subscription's dead letter topic and wait for the delivery report; raises what prevents it.

        It does not mark the message.
        """
        self._lane.dead_letter(message._raw, reason)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction around what is produced through it (`tx.produce(…)`) and marked inside: all of that happens, or nothing.

        It is committed at the end of the block, which blocks until the broker has answered (some 20 ms), and undone if the
        block raises. With `delivery="exactly_once"` it is the run's own transaction, committed after the run. One of its own
        belongs to the handler's thread: ConfigurationError in an async handler, in a virtual partition and inside another one.
        A commit that fails for no fault of the handler's (swarm.transactions.Aborted) should be left to the runtime, which runs
        the messages again.
        """
        lane = self._lane
        if lane.plan.exactly_once:
            if lane.transaction is None:
                raise ConfigurationError("transaction(): there is none outside of consume() and hooks.")
            yield lane.transaction
            return
        from swarm.transactions import own_transaction

        with own_transaction(lane) as transaction:
            yield transaction

    @property
    def is_revoked(self) -> bool:
        """Whether the partition has been taken: what is not yet done will be done by somebody else."""
        return self._lane.revoked

    @property
    def attempt(self) -> int:
        """1 for the first run of these messages, 2 for the first retry, …"""
        return (self._slice() or self._lane).attempt

    @property
    def is_retrying(self) -> bool:
        """Whether this run repeats one that failed."""
        return self._lane.attempt > 1

    @property
    def topic(self) -> str:
        """The topic of this partition."""
        return self._lane.topic

    @property
    def partition(self) -> int:
        """The number of this partition."""
        return self._lane.partition

    @property
    def worker(self) -> int:
        """The index of this worker, 0 to N-1, kept over restarts."""
        return self._lane.worker

    @property
    def producer(self) -> JobProducer | Transaction:
        """A producer whose messages belong to this run: it succeeds only after their delivery reports, and fails with the first that failed.

        With `delivery="exactly_once"` they are part of the run's transaction.
        """
        return self._lane.producer()


def _check_length(metadata: str | None) -> None:
    if metadata is not None and (size := len(metadata.encode())) > LONGEST_METADATA:
        raise ValueError(
            f"metadata: a text of {size:,} bytes; the broker takes {LONGEST_METADATA:,} with an offset (offset.metadata.max.bytes). "
            "Keep the rest elsewhere, and a reference to it here."
        )
