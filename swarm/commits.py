"""What one group commits, and when. Runs in the poller thread; knows lanes and a client, no assignment and no handler.

Only the poller commits, also for a handler that calls `commit()`: confluent-kafka lets one thread at a time into a client, so a
commit from a processing thread waits for the poll that is under way, and for good while the poller is inside a rebalance
callback that waits for that very thread (measured with 2.16.1). A handler therefore leaves a request and waits for the answer.

A commit never carries more than a lane's settled frontier, and nothing of a lane that was lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from swarm import events, remedies
from swarm.bus import Bus
from swarm.client import Client, Refusals
from swarm.dispatch import Dispatcher
from swarm.errors import describe
from swarm.lane import Lane
from swarm.scoreboard import COMMITS, Scoreboard

PATIENCE: Final = 30.0
"""Seconds for which a handler's commit is tried before it answers False."""
RETRY: Final = 0.1
"""Seconds between two tries of a commit that the group refused for the moment (a rebalance, a coordinator that moves)."""
OVERDUE: Final = 0.2
"""Seconds after which a commit that has no answer may be one that librdkafka is about to repeat (a connection was reset, the
coordinator has moved): a newer one would overtake it, and then be taken back by it (measured, three brokers, one of them frozen)."""
OUTLAST: Final = 1.3
"""Seconds after which such a repetition has been sent: librdkafka's longest pause (`retry.backoff.max.ms`) is 1 s, and 20 % at random."""
FORGOTTEN: Final = 90.0
"""Seconds after which no answer comes any more: a request is given up after 60 s (`socket.timeout.ms`)."""
LIVELY: Final = 1.0
"""Seconds after a handler's commit during which another one is expected: the poller then looks for requests every few ms."""

RETRIABLE: Final = frozenset(
    {
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.STALE_MEMBER_EPOCH,  # with the new protocol: the epoch has moved on, and the next heartbeat tells which it is
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError._TIMED_OUT,
        KafkaError._WAIT_COORD,
        KafkaError._TRANSPORT,
        KafkaError._IN_PROGRESS,
        KafkaError._TIMED_OUT_QUEUE,
    }
)

UNANSWERED: Final = frozenset(
    {
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
    }
)
"""Of these: errors after which the commit may have been carried out all the same."""

EVICTED: Final = frozenset({KafkaError.UNKNOWN_MEMBER_ID, KafkaError.FENCED_INSTANCE_ID})
"""The group does without us: somebody else may have our partitions already, and we shall be told."""
DOUBT: Final = 2.0
"""Seconds for which nothing more is begun then; if nobody takes the partitions meanwhile, they go on."""

Offsets = Sequence[tuple[str, int, int]]
Texts = Mapping[tuple[str, int], str]
"""Metadata by topic and partition; a partition that is missing has none."""
_NOTHING_REFUSED: Final[Refusals] = {}


@dataclass(slots=True)
class _Request:
    lane: Lane
    target: int
    metadata: str | None
    began: int
    """What was committed when it was asked."""
    deadline: float
    answered: threading.Event = field(default_factory=threading.Event)
    result: bool = False

    @property
    def reached(self) -> bool:
        """Whether the broker holds the target, which is lower than before after a seek backwards."""
        if self.target < self.began:
            return self.target <= self.lane.committed != self.began
        return self.lane.is_committed(self.target)

    def answer(self, result: bool) -> None:
        self.result = result
        self.answered.set()


class Commits:
    """The commits of one group. `lanes` is the group's own mapping, read live."""

    def __init__(
        self,
        group: str,
        lanes: Mapping[tuple[str, int], Lane],
        dispatcher: Dispatcher,
        board: Scoreboard,
        bus: Bus,
        clock: Callable[[], float],
    ) -> None:
        self._group = group
        self._lanes = lanes
        self._dispatcher = dispatcher
        self._board = board
        self._bus = bus
        self._clock = clock
        self._requests: list[_Request] = []
        self._sent: list[tuple[float, tuple[tuple[str, int, int], ...], Texts]] = []
        self._retry_at = 0.0
        self.refused = ""
        """What was said to the last commit that had an answer; empty: it was taken."""
        self._asked_at = float("-inf")
        self._closed = False

    # -- processing threads ------------------------------------------------------------------------------------------

    def request(self, lane: Lane) -> bool:
        """Commit a lane's frontier and wait for the broker's answer. False: no longer ours, or refused for `PATIENCE` seconds."""
        now = self._clock()
        with self._dispatcher.lock:
            if lane.lost or lane.phase == "closed" or self._closed:
                return False
            if not lane.uncommitted:
                return True
            request = _Request(lane, lane.settled_frontier(), lane.metadata, lane.committed, now + PATIENCE)
            self._requests.append(request)
            self._asked_at = now
            self._dispatcher.rested.notify_all()  # the poller may be waiting in a rebalance
            self._dispatcher.room.notify_all()  # or hold back
        request.answered.wait()
        return request.result

    # -- the poller --------------------------------------------------------------------------------------------------

    def lively(self, now: float) -> bool:
        """Whether handlers are committing: then polls must be short."""
        return bool(self._requests) or now - self._asked_at < LIVELY

    def serve(self, client: Client, now: float) -> None:
        """Send what handlers ask for, without waiting; the answers come to `on_committed`."""
        if self._requests:
            self._answer_decided(now)
            if self._requests and now >= self._retry_at:
                self.send(client)

    def send(self, client: Client) -> None:
        """Send all that is new since the last commit, without waiting; nothing while that one has no answer (OVERDUE)."""
        now = self._clock()
        self._sent = [each for each in self._sent if now - each[0] < FORGOTTEN]
        if self._sent:
            return
        with self._dispatcher.lock:
            offsets = tuple(
                sorted(  # as librdkafka sorts them in its answer
                    (lane.topic, lane.partition, frontier)
                    for lane in self._lanes.values()
                    if not lane.lost
                    and lane.uncommitted
                    and ((frontier := lane.settled_frontier()) != lane.sent or lane.metadata != lane.metadata_sent)
                )
            )
            metadata = self._metadata(offsets)
        if not offsets:
            return
        try:
            client.commit_soon(offsets, metadata)
        except KafkaException as error:
            self._failed(error.args[0], offsets)
        else:
            self._sent.append((self._clock(), offsets, metadata))

    def _open(self, lanes: Iterable[Lane]) -> tuple[tuple[tuple[str, int, int], ...], dict[tuple[str, int], str]]:
        """What of these lanes is not committed, and the texts that go along."""
        with self._dispatcher.lock:
            offsets = tuple(
                (lane.topic, lane.partition, lane.settled_frontier())
                for lane in lanes
                if not lane.lost and lane.uncommitted
            )
            return offsets, self._metadata(offsets)

    def _metadata(self, offsets: Offsets) -> dict[tuple[str, int], str]:
        """The texts that go along; notes what is sent, and counts it first."""
        texts = {}
        for topic, partition, offset in offsets:
            lane = self._lanes.get((topic, partition))
            if lane is not None:
                lane.group.report_handled(lane)
                lane.sent = offset
                lane.metadata_sent = lane.metadata
                if lane.metadata is not None:
                    texts[lane.key] = lane.metadata
        return texts

    def on_committed(self, error: KafkaError | None, offsets: Offsets, refused: Refusals) -> None:
        """The broker's answer to `send` (from within a poll)."""
        answered = tuple(sorted(offsets))
        texts: Texts = {}
        for number, (began, sent, metadata) in enumerate(self._sent):
            if sent == answered:
                del self._sent[number]
                self._board.observe("commit_duration_seconds", self._clock() - began)
                texts = metadata
                break
        self._settle(error, answered, refused, texts)

    def commit_and_wait(
        self, client: Client, lanes: Iterable[Lane], patience: float, alive: Callable[[], None]
    ) -> bool:
        """Commit these lanes' frontiers before anything else happens: at a revocation and at the stop. Blocks.

        Gives up after `patience` seconds or at a refusal that no waiting mends. `alive` is called between two tries.
        """
        deadline = self._clock() + patience
        lanes = list(lanes)
        while True:
            offsets, metadata = self._open(lanes)
            if not offsets:
                self._answer_decided(self._clock())
                return True
            began = self._clock()
            error, refused = None, _NOTHING_REFUSED
            try:
                refused = client.commit_now(offsets, metadata) or _NOTHING_REFUSED
            except KafkaException as failure:
                error = failure.args[0]
            else:
                self._board.observe("commit_duration_seconds", self._clock() - began)
            self._settle(error, offsets, refused, metadata)
            failures = [error] if error is not None else list(refused.values())
            if not failures:
                if not any(self._clock() - began > OVERDUE for began, _, _ in self._sent):
                    return True
                failures = self._commit_behind(client, offsets, metadata, alive)
                if not failures:
                    return True
            if self._clock() > deadline or not all(failure.code() in RETRIABLE for failure in failures):
                return False
            alive()
            time.sleep(RETRY)

    def _commit_behind(
        self, client: Client, offsets: Offsets, metadata: Texts, alive: Callable[[], None]
    ) -> list[KafkaError]:
        """Commit the same once more when what is still to be repeated has been sent. Returns what was refused. Blocks for OUTLAST."""
        self._sent.clear()
        until = self._clock() + OUTLAST
        while (left := until - self._clock()) > 0:
            alive()
            with self._dispatcher.lock:
                self._dispatcher.rested.wait(min(RETRY, left))
        error, refused = None, _NOTHING_REFUSED
        try:
            refused = client.commit_now(offsets, metadata) or _NOTHING_REFUSED
        except KafkaException as failure:
            error = failure.args[0]
        self._settle(error, offsets, refused, metadata)
        return [error] if error is not None else list(refused.values())

    @property
    def behind(self) -> Offsets:
        """What was committed since, and would be taken back by a commit that is still under way."""
        with self._dispatcher.lock:
            found = {
                (topic, partition, lane.committed)
                for _, offsets, _ in self._sent
                for topic, partition, offset in offsets
                if (lane := self._lanes.get((topic, partition))) is not None and offset < lane.committed
            }
        return tuple(sorted(found))

    def commit_aside(
        self, client: Client, lanes: Iterable[Lane], commit: Callable[[Offsets, Texts, object], None]
    ) -> str:
        """Commit these lanes' frontiers by another way than the group's connection, on which no answer comes. Blocks; why it failed, or
        an empty text."""
        member = client.membership()
        if member is None:
            return "the client knows of no membership"
        offsets, metadata = self._open(lanes)
        try:
            commit(offsets, metadata, member)
        except (KafkaException, TimeoutError) as error:
            return describe(error)
        self._settle(None, offsets, _NOTHING_REFUSED, metadata)
        return ""

    def serve_and_wait(self, client: Client, alive: Callable[[], None]) -> None:
        """Commit what handlers ask for, from within a rebalance callback, where no answer could come to `on_committed`."""
        if self._requests:
            self._answer_decided(self._clock())
            wanted = [request.lane for request in self._requests]
            if wanted and self._clock() >= self._retry_at:
                self.commit_and_wait(client, wanted, 0.0, alive)

    def close(self, *, for_good: bool) -> None:
        """The client is gone: nobody's request can be carried out. `for_good`: nor will any later one."""
        with self._dispatcher.lock:
            self._closed = for_good
            requests, self._requests = self._requests, []
            self._sent.clear()
        for request in requests:
            request.answer(False)

    # -- what came of it ---------------------------------------------------------------------------------------------

    def _settle(self, error: KafkaError | None, offsets: Offsets, refused: Refusals, texts: Texts) -> None:
        """The broker answers for each partition: what it took is committed, whatever it says of the others."""
        held = []
        failures: dict[int, tuple[KafkaError, list[tuple[str, int, int]]]] = {}
        for offset in offsets:
            # With some refused, librdkafka gives the last refusal as the error of all (measured): the partitions know better.
            failure = refused.get(offset[:2], None if refused else error)
            if failure is None:
                held.append(offset)
            else:
                failures.setdefault(failure.code(), (failure, []))[1].append(offset)
        if held:
            self._succeeded(held, texts)
        for failure, those in failures.values():
            self._failed(failure, those)

    def _succeeded(self, offsets: Offsets, texts: Texts) -> None:
        self.refused = ""
        self._board.add(COMMITS)
        with self._dispatcher.lock:
            for topic, partition, offset in offsets:
                lane = self._lanes.get((topic, partition))
                if lane is not None:
                    lane.committed = lane.sent = offset
                    lane.unsure = False
                    lane.metadata_committed = lane.metadata_sent = texts.get(lane.key)
        if self._bus.wants(events.OffsetsCommitted):
            self._bus.publish(events.OffsetsCommitted(self._group, tuple(offsets)))
        self._answer_decided(self._clock())

    def _failed(self, error: KafkaError, offsets: Offsets) -> None:
        if error.code() == KafkaError._NO_OFFSET:
            return
        self._board.count_error("commit")
        self._retry_at = self._clock() + RETRY
        refused = error.code() not in RETRIABLE
        answered = []
        with self._dispatcher.lock:
            for topic, partition, offset in offsets:
                lane = self._lanes.get((topic, partition))
                if lane is not None:
                    if error.code() in UNANSWERED:
                        lane.perhaps_committed = max(lane.perhaps_committed, offset)
                    lane.sent = -1  # whatever the frontier is by then, it is sent again
                    lane.unsure |= offset < lane.committed
            if error.code() in EVICTED:
                self._hold()
            if refused:
                keys = {(topic, partition) for topic, partition, _ in offsets}
                answered = [request for request in self._requests if request.lane.key in keys]
                self._requests = [request for request in self._requests if request not in answered]
        mend = remedies.for_consuming(error.code(), self._group, offsets[0][0])
        text = f"{error.str().rstrip('.')}. {mend}" if mend else error.str()
        self.refused = text if error.code() not in UNANSWERED else ""
        self._bus.publish(events.CommitFailed(self._group, tuple(offsets), error.name(), text))
        for request in answered:
            request.answer(False)

    def _hold(self) -> None:
        """Begin nothing more for a while, and end `each` after the message in hand. Under the lock."""
        now = self._clock()
        for lane in self._lanes.values():
            lane.halt = True
            lane.held_until = max(lane.held_until, now + DOUBT)
            if lane.phase == "ready":
                lane.phase = "idle"
                self._dispatcher.offer(lane, now)

    def _answer_decided(self, now: float) -> None:
        decided: list[tuple[_Request, bool]] = []
        with self._dispatcher.lock:
            waiting = []
            for request in self._requests:
                lane = request.lane
                if request.reached and lane.metadata_committed == request.metadata:
                    decided.append((request, not lane.lost))
                elif lane.lost or lane.phase == "closed" or now > request.deadline:
                    decided.append((request, False))
                else:
                    waiting.append(request)
            self._requests = waiting
        for request, result in decided:
            request.answer(result)
