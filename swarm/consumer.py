"""What an application subclasses: one instance per assigned partition, for as long as the assignment lasts.

All methods are called by the runtime in a worker, by one processing thread at a time; instances share nothing. The methods that
are not hooks only look at and change the instance's own lane (`swarm.lane`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from swarm.errors import NotYet
from swarm.message import Message, Messages

if TYPE_CHECKING:
    from swarm.lane import Lane
    from swarm.producer import JobProducer


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

    def mark_as_consumed(self, message: Message) -> bool:
        """State that everything up to and including `message` is done. Stored now, committed by interval. Never blocks.

        False: the partition is no longer ours, and somebody else will handle the message again.
        """
        return self._mark(message)

    def _mark(self, message: Message) -> bool:
        if (message.topic, message.partition) != self._lane.key:
            raise ValueError(
                f"{message!r} was marked at the consumer of {self.topic}/{self.partition}: mark it at its own."
            )
        return self._lane.mark(message.offset)

    def commit(self, message: Message | None = None) -> bool:
        """Commit what is marked, with `message` marked first. Blocks until the broker has answered.

        True also where there was nothing new. False: the partition is no longer ours, or the broker refused (a CommitFailed event).
        """
        if message is not None and not self._mark(message):
            return False
        return self._lane.commit()

    def pause(self, seconds: float, offset: int | None = None) -> None:
        """After this run wait so long (s), then go on at `offset` (default: the first unmarked message). Nothing is marked automatically."""
        self._lane.pause(float(seconds), offset)

    def seek(self, offset: int) -> None:
        """After this run go on reading at `offset`. Nothing is marked automatically."""
        self._lane.seek(int(offset))

    def dead_letter(self, message: Message, reason: str) -> None:
        """Produce `message` to the subscription's dead letter topic and wait for the delivery report; raises what prevents it.

        It does not mark the message.
        """
        self._lane.dead_letter(message._raw, reason)

    def transaction(self) -> AbstractContextManager[Any]:
        """A transaction of its own around what is produced and marked inside."""
        raise NotYet(
            "Consumer.transaction() is not there yet. Produce with self.producer and keep the handler idempotent."
        )

    @property
    def is_revoked(self) -> bool:
        """Whether the partition has been taken: what is not yet done will be done by somebody else."""
        return self._lane.revoked

    @property
    def attempt(self) -> int:
        """1 for the first run of these messages, 2 for the first retry, …"""
        return self._lane.attempt

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
    def producer(self) -> JobProducer:
        """A producer whose messages belong to this run: it succeeds only after their delivery reports, and fails with the first that failed."""
        return self._lane.producer()
