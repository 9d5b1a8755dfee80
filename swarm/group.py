"""One consumer group inside a worker: the poller thread, its client and its lanes.

The poller alone polls, assigns, pauses, seeks and closes. It never waits for a handler, with one exception: inside a
revocation it waits, and keeps its poll instant fresh, until the in-flight batches of the partitions that are taken have ended
and are committed.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException, Message

from swarm import dead_letters, events
from swarm.client import CLOSE_WITHIN, PROBE, Client, Queued, Refusals, seat_error
from swarm.commits import RETRY, Commits
from swarm.errors import ConfigurationError
from swarm.folding import Folder
from swarm.handlers import wants_consumer
from swarm.lane import UNKNOWN, Lane
from swarm.message import Record
from swarm.plan import Edge, Plan
from swarm.producer import JobProducer
from swarm.rivals import Rivals
from swarm.scoreboard import REBALANCES, STALE
from swarm.standing import Sight, Standing

if TYPE_CHECKING:
    from swarm.worker import Runtime

POLL_WAIT: Final = 0.1
"""Seconds that one poll waits for messages: the longest that a stop, a seek or a resume waits for the poller."""
LIVELY_WAIT: Final = 0.005
"""The same while handlers commit by themselves: each of them waits for the poller."""
FETCH: Final = 2000
"""Messages that one pass takes from the client at most (more where `max_messages` asks for it). Each pass hands the interpreter's
lock to the processing threads and back: 500 reached 0.77 of a bare loop's pace, 2000 reaches 0.86, 4000 no more."""
FETCH_BYTES: Final = 16 << 20
"""The same in bytes, by the size of the largest message seen at the edges of recent runs."""
LANE_BYTES: Final = 32 << 20
"""Bytes that a lane buffers, by the same measure; at least one message always."""
HOLD: Final = 1.0
"""Seconds for which the poller holds back fetching while lanes are full, before it pauses them. A pause throws away what was
prefetched and costs up to a second at the resume (docs/design.md), so a short backpressure must not pause."""
HOLD_WHILE_OTHERS_STARVE: Final = 0.1
"""The same while another partition of ours has nothing to do: it may have messages waiting behind."""
HOLD_STEP: Final = 0.02
"""Seconds after which a poller that holds back looks again, whoever has called it or not."""
REVOKE_MARGIN: Final = 10.0
"""Seconds before `max.poll.interval.ms` at which waiting in a revocation ends: time to commit and to answer the group."""
MEMBERSHIP_PATIENCE: Final = 5.0
"""Seconds for which a handler's first transaction waits until the poller has come round."""
TOPIC_PATIENCE: Final = 1.0
"""Seconds for which an assignment waits until it is known where each partition begins: a broker that has just started denies one
for a moment. After that (the topic was deleted, a broker is away) the others go on, and the rest is asked for beside them."""
LONGEST_ASK: Final = 5.0
"""Seconds at most between two such questions, each of which may hold up the poller for 2 s."""
LEARN_PATIENCE: Final = 0.5
LEARN_AGAIN: Final = 1.0
"""Seconds that a poller waits for the list of topics, and until it asks again."""
STOP_SHARE: Final = 0.8
"""The part of `shutdown_timeout` after which a stop hurries: the rest is for the end of the process."""
LEAST_GOODBYE: Final = 1.0
"""Seconds that a client gets for its end in any case."""
ENDS_PATIENCE: Final = 0.5
"""Seconds that the poller waits for the ends of logs that do not move."""
LAST_COMMIT: Final = 5.0
"""Seconds that a stop waits for the broker's answer to its last commit."""
ASIDE_AFTER: Final = 1.0
"""Seconds of these after which it is tried by another way (`swarm.transactions.commit_aside`)."""
LOOK_EVERY: Final = 5.0
"""Seconds after which the group's offsets are looked at although there is nothing to commit."""
JOIN_PROBE: Final = 5.0
"""Seconds between two questions to the cluster while a join does not come to an end: each may hold up the poller for 0.5 s."""
JOIN_EXPLAINED: Final = 60.0
"""Seconds for which an error (a right that is missing, a broker that is away) explains why there is no membership: librdkafka repeats
it at least that often."""
JOIN_LASTS: Final = 10.0
"""Seconds after which a membership is one: with the new protocol the refusal of a static id may come just after we believed to be in."""
REBUILDS_COUNTED: Final = 120.0
"""Seconds for which a rebuild of the client is remembered."""
REFRESH: Final = 1.0
"""Seconds between two writings of the table of partitions."""

_partition_of: Final[Callable[[Record], int]] = Message.partition  # type: ignore[assignment]  # never None on a record
_topic_of: Final[Callable[[Record], str]] = Message.topic  # type: ignore[assignment]

_NO_REFUSALS: Final[Refusals] = {}

_MISSING_TOPIC: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)


class Group:
    """A consumer group's membership of this worker."""

    def __init__(self, runtime: Runtime, name: str, plans: Sequence[Plan], properties: dict[str, Any]) -> None:
        self.runtime = runtime
        self.name = name
        self.plans = list(plans)
        self._properties = properties
        self._board = runtime.board
        self._bus = runtime.bus
        self._dispatcher = runtime.dispatcher
        self._clock = runtime.clock
        self._slot = self._board.add_group(name)
        self.lanes: dict[tuple[str, int], Lane] = {}
        self._lingering: dict[tuple[str, int], Lane] = {}
        """Lanes of ended assignments whose job still runs."""
        self._born: list[Lane] = []
        self._seeks: deque[Lane] = deque()
        self._rereads: deque[Lane] = deque()
        self.lock = self._dispatcher.lock
        self.transactional = any(plan.exactly_once for plan in self.plans)
        self.member: Any = None
        """The group's metadata as of the last pass, for transactions; written under the lock. Known once a lane was run in one."""
        self.commits = Commits(name, self.lanes, self._dispatcher, self._board, self._bus, self._clock)
        self._client: Client | None = None
        self._fatal: KafkaError | None = None
        self._rivals = Rivals()
        self._contested_said = False
        self._rebuilds: deque[float] = deque(maxlen=8)
        # Where fetches may be left without an answer for long, their silence says nothing.
        silent = 2 * float(properties.get("fetch.wait.max.ms", 500)) / 1000 >= runtime.standing_timeout
        self.standing = Standing(0.0 if silent else runtime.standing_timeout)
        self._errors = Folder()
        self._error_at = float("-inf")
        self._look_at = self._looked_at = float("-inf")
        self._unjoined_since = self._stuck_since = self._next_probe = 0.0
        self._absent: set[str] = set()
        """Topics and patterns of which librdkafka said, once, that there is nothing: without any, it does not join (measured)."""
        self._missing: dict[str, float] = {}
        self._missing_partitions: set[tuple[str, int]] = set()
        """Of those that are bound to us, and said."""
        self._startless: set[tuple[str, int]] = set()
        """Assigned partitions that are not fetched yet, because nobody could say where they begin."""
        self._ask_at = self._ask_delay = 0.0
        self._known: set[str] | None = None
        """The topics that existed before we got our first partitions, for `initial_offset="latest"`; without those that went since."""
        self._learn_at = 0.0 if any(plan.initial_offset == "latest" for plan in self.plans) else float("inf")
        self._appeared: set[str] = set()
        self._joined_at = 0.0
        self._hold_since = 0.0
        self._next_commit = 0.0
        self._draining: list[Lane] = []
        self._kept: set[tuple[str, int]] = set()
        """What the stop gives back, and of it what the group has not taken yet."""
        self._not_aside: str | None = None
        """At the stop: why a commit by another way failed, empty where it did not; None: it was not tried."""
        self._next_refresh = 0.0
        self._fetch_most = max(FETCH, *(plan.max_messages for plan in self.plans))
        self._max_poll_interval = float(properties.get("max.poll.interval.ms", 300_000)) / 1000
        self._bound = sorted(place for plan in self.plans for place in plan.assigned_to(runtime.index))
        """Partitions that are ours without the group's doing (`partitions=`)."""
        self._taken = False
        self._topics: list[str] = []
        self._one_topic: str | None = None
        for plan in self.plans:
            if plan.pattern is not None:
                self._topics.append(_subscription(plan.pattern, properties))
            self._topics.extend(plan.topics)
        if len(self._topics) == 1 and self.plans[0].pattern is None:
            self._one_topic = self._topics[0]
        self.rejoin_requested = False
        """The supervisor wants this member to leave the group and to join it again."""
        self.stop_requested = False
        self.leave = False
        self.joined = False
        self.paused_for_quiet = False

    @property
    def queued(self) -> Queued | None:
        """What the client has fetched and not handed out, as it said last. Any thread."""
        client = self._client
        return client.queued if client is not None else None

    @property
    def leaderless(self) -> frozenset[tuple[str, int]]:
        """Partitions that no broker leads, as the client said last (`statistics.interval.ms`). Any thread."""
        client = self._client
        return client.leaderless if client is not None else frozenset()

    @property
    def withheld(self) -> frozenset[tuple[str, int]]:
        """Partitions whose next messages an open transaction hides, as the client said last. Any thread."""
        client = self._client
        return client.withheld if client is not None else frozenset()

    # -- the poller thread -------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the client. Raises KafkaException for properties that librdkafka refuses."""
        self._client = Client(self._properties, None if self._bound else self._topics, self)
        self._taken = False
        if self._bus.wants(events.Subscribed):
            for plan in self.plans:
                self._bus.publish(
                    _subscribed(self.name, plan, str(self._properties.get("group.protocol", "classic")).lower())
                )

    def run(self) -> None:
        """Poll until the stop, then drain, commit and close. What it raises replaces the worker."""
        while not self.stop_requested:
            try:
                self._pass()
            except KafkaException as error:
                self._survive(error)
        try:
            self._drain()
        except KafkaException as error:
            self._survive(error)  # fenced while leaving: somebody else has the seat, there is nothing left to hand over

    def _survive(self, error: KafkaException) -> None:
        """A fatal error ends the client, which `_rebuild` replaces; any other exception is a fault of ours and ends the worker."""
        failure = error.args[0]
        if not isinstance(failure, KafkaError) or not (failure.fatal() or failure.code() == KafkaError._FATAL):
            raise error
        self.on_error(failure, None, None, None)

    def _pass(self) -> None:
        now = self._clock()
        self._board.polled(self._slot, now)
        if self._fatal is not None:
            self._rebuild(self._fatal)
            return
        if self._bound and not self._taken:
            self._taken = True
            self.on_assigned(self._bound)
        if self.rejoin_requested:
            self.rejoin_requested = False
            self._rejoin()
        self._housekeeping(now)
        if self._known is None and now >= self._learn_at:
            self._learn_topics(now)
        if self._hold_back(now):
            return
        assert self._client is not None
        self._born = []
        largest = max((lane.message_bytes for lane in self.lanes.values()), default=1)
        wait = LIVELY_WAIT if self.commits.lively(now) else POLL_WAIT
        messages = self._client.fetch(min(self._fetch_most, max(1, FETCH_BYTES // largest)), wait)
        if messages:
            self._distribute(messages)
        self._client.tell_errors()

    def _distribute(self, messages: list[Record]) -> None:
        # librdkafka hands out a partition's messages in runs: one step of Python per run, C per message.
        buckets: dict[tuple[str, int], list[Record]] = {}
        for partition, same_partition in groupby(messages, _partition_of):
            chunk = list(same_partition)
            if self._one_topic is not None:
                runs = [(self._one_topic, chunk)]
            else:
                runs = [(topic, list(run)) for topic, run in groupby(chunk, _topic_of)]
            for topic, run in runs:
                bucket = buckets.get((topic, partition))
                if bucket is None:
                    buckets[(topic, partition)] = run
                else:
                    bucket.extend(run)
        now = self._clock()
        with self._dispatcher.lock:
            for key, chunk in buckets.items():
                lane = self.lanes.get(key)
                if lane is None or lane.closing:
                    self._stale(key, len(chunk))
                    continue
                if lane.seek_to is not None:
                    self._stale(key, len(chunk))
                    continue
                if lane in self._born and chunk[0].offset() != lane.start:
                    # The partition was taken and came back within this very call: the messages may be of the assignment
                    # before. Read again from the start; doing so once too often costs one fetch.
                    self._stale(key, len(chunk))
                    lane.seek_to = lane.start
                    self._seeks.append(lane)
                    continue
                dropped = lane.append(chunk)
                if dropped:
                    self._stale(key, dropped)
                self._dispatcher.offer(lane, now)

    def _stale(self, key: tuple[str, int], count: int) -> None:
        self._board.add(STALE, count)
        if self._bus.wants(events.StaleMessagesDropped):
            self._bus.publish(events.StaleMessagesDropped(self.name, *key, count))

    # -- backpressure ------------------------------------------------------------------------------------------------

    def _capacity(self, lane: Lane) -> int:
        return max(1, min(max(2 * FETCH, 4 * lane.plan.max_messages), LANE_BYTES // lane.message_bytes))

    def _hold_back(self, now: float) -> bool:
        """Whether to fetch nothing in this pass, because lanes are full and nobody would gain by more."""
        full = [
            lane for lane in self.lanes.values() if not lane.client_paused and lane.buffered >= self._capacity(lane)
        ]
        if not full:
            self._hold_since = 0.0
            return False
        if not self._hold_since:
            self._hold_since = now
        starving = any(self._starves(lane) for lane in self.lanes.values())
        if now - self._hold_since < (HOLD_WHILE_OTHERS_STARVE if starving else HOLD):
            return self._wait_for_room(full)
        self._pause(full)
        self._hold_since = 0.0
        return False

    def _wait_for_room(self, full: Sequence[Lane]) -> bool:
        """Wait until one of these lanes is half empty, for a moment at most; False: one is already."""
        half = {lane: self._capacity(lane) // 2 for lane in full}
        with self._dispatcher.lock:
            if any(lane.buffered <= at for lane, at in half.items()):
                return False
            for lane, at in half.items():
                lane.wanted_at = at
            self._dispatcher.room.wait(HOLD_STEP)
            for lane in full:
                lane.wanted_at = -1
        return True

    def _starves(self, lane: Lane) -> bool:
        """Whether a lane has nothing to do although there is more in its partition (the watermark moves without our fetching)."""
        if lane.phase != "idle" or lane.chunks or lane.closing or lane.client_paused:
            return False
        assert self._client is not None
        return self._client.high_watermark(*lane.key) > lane.fetch_next

    def _pause(self, lanes: Iterable[Lane]) -> None:
        assert self._client is not None
        lanes = [lane for lane in lanes if not lane.client_paused]
        if lanes:
            self._client.pause([lane.key for lane in lanes])
            for lane in lanes:
                lane.client_paused = True

    def _resume_drained(self, now: float) -> None:
        assert self._client is not None
        if self._dispatcher.quiet or self._dispatcher.stopping:
            return
        drained = [
            lane
            for lane in self.lanes.values()
            if lane.client_paused
            and lane.buffered <= self._capacity(lane) // 2
            and lane.held_until <= now
            and not lane.paused
            and not lane.out_of_range
            and not lane.closing
        ]
        if drained:
            self._client.resume([lane.key for lane in drained])
            for lane in drained:
                lane.client_paused = False

    # -- what is done now and then -----------------------------------------------------------------------------------

    def _housekeeping(self, now: float) -> None:
        assert self._client is not None
        self._refresh_membership()
        self._dispatcher.call_helpers()
        for _ in range(len(self._rereads)):
            self._reread(self._rereads.popleft())
        for _ in range(len(self._seeks)):  # one that must be tried again is tried in the next pass
            self._seek(self._seeks.popleft())
        if self._startless and now >= self._ask_at:
            self._ask_again(now)
        if self._dispatcher.quiet != self.paused_for_quiet:
            self.paused_for_quiet = self._dispatcher.quiet
            if self.paused_for_quiet:
                self._pause(self.lanes.values())
        if self.runtime.pauses:
            self._obey_pauses()
        self._resume_drained(now)
        if now >= self._next_commit:
            self._next_commit = now + self.runtime.commit_interval
            self._look_for_namesakes()
            self.commits.send(self._client)
        self.commits.serve(self._client, now)
        if now >= self._next_refresh:
            self._next_refresh = now + REFRESH
            self._refresh(now)

    def _obey_pauses(self) -> None:
        """Fetch nothing for partitions that an operator paused; when the job in hand has ended, commit it and say so."""
        paused = [lane for lane in self.lanes.values() if lane.paused]
        self._pause(paused)
        with self._dispatcher.lock:
            resting = [lane for lane in paused if lane.paused and not lane.rests and lane.phase != "running"]
            for lane in resting:
                lane.rests = True
                self._bus.publish(events.ConsumptionPaused(self.name, *lane.key, lane.settled_frontier()))
        if resting:
            self._next_commit = self._next_refresh = 0.0

    def _refresh(self, now: float) -> None:
        assert self._client is not None
        if not self.joined and (self.lanes or self._client.is_member):
            self.joined = True
            self._joined_at = now
            self._errors = Folder()  # what was counted before would read as if it went on
            self.runtime.group_joined()
        elif self.joined and not self.lanes and not self._client.is_member:
            self.joined = False
            self._joined_at = 0.0
        for error in self._errors.due(now):
            self._bus.publish(error)
        self._check_missing(now)
        self._watch_join(now)
        if self.joined and now - self._joined_at >= JOIN_LASTS:
            self._rivals.let_in()
        self._board.contested(self._slot, self._rivals.times(now))
        with self._dispatcher.lock:
            for lane in self.lanes.values():
                high = self._client.high_watermark(*lane.key)
                if high >= 0 and (high != lane.high or not lane.client_paused):
                    lane.high, lane.high_at = high, now
                self.report_handled(lane)
                lane.pass_over_end()
                if lane.phase == "idle" and "on_tick" in lane.hook_names:
                    lane.tick_due = True
                    self._dispatcher.offer(lane, now)
        if self.standing.timeout:
            self._move_standing(now)
        self._board.joined(self._slot, self._joined_at, len(self.lanes))
        self.runtime.publish_assignment()

    def _move_standing(self, now: float) -> None:
        """Look for partitions that stand still although their log grows, and have those fetched afresh."""
        assert self._client is not None
        fetching = not (self._dispatcher.quiet or self._dispatcher.stopping or self._hold_since)
        with self._dispatcher.lock:
            sights = [_sight(lane, now, fetching=fetching) for lane in self.lanes.values()]
        ask = self.standing.look(sights, now)
        if ask:
            try:
                ends = self._client.ends(ask, timeout=ENDS_PATIENCE)
            except KafkaException:
                self.standing.told(None, self._clock())
            else:
                self.standing.told(ends, self._clock())
        for key, position, end, seconds in self.standing.due(now):
            lane = self.lanes[key]
            self._bus.publish(events.PartitionStands(self.name, *key, position, end, seconds, "seek"))
            try:
                self._client.seek(*key, lane.fetch_next)
            except KafkaException:
                self._fetch_again(lane)  # nothing fetches it at all

    def _watch_join(self, now: float) -> None:
        """Say since when the join has not come to an end although the cluster answers and no error explains it."""
        limit = self.runtime.join_timeout
        if not limit or self.joined:
            self._unjoined_since = self._stuck_since = 0.0
            self._absent.clear()
        elif self._absent.issuperset(self._topics) or now - self._error_at < JOIN_EXPLAINED:
            self._stuck_since = 0.0
        else:
            interval = min(JOIN_PROBE, limit / 4)
            if not self._unjoined_since:
                self._unjoined_since, self._next_probe = now, now + interval  # most joins are done by then
            elif now >= self._next_probe:
                assert self._client is not None
                self._next_probe = now + interval
                if not self._client.cluster_answers(timeout=0.5):
                    self._stuck_since = 0.0
                elif not self._stuck_since:
                    self._stuck_since = now
        self._board.join_stuck(self._slot, self._stuck_since)

    def report_handled(self, lane: Lane) -> None:
        """Add what a lane handled since the last time to the scoreboard. Under the lock.

        Before what is done is committed: what is committed and not counted when the process is killed would be counted by nobody.
        """
        fresh = lane.countable - lane.reported
        # It falls where outputs of a run were not delivered: what is repeated is not counted again.
        if fresh > 0 and not lane.withheld:
            lane.reported += fresh
            self.runtime.count_messages(fresh)

    def _seek(self, lane: Lane) -> None:
        assert self._client is not None
        target = lane.seek_to
        if target is None or self.lanes.get(lane.key) is not lane:
            return
        if lane.out_of_range:  # nothing is fetched there, so nothing can seek: begin anew
            with self._dispatcher.lock:
                lane.forget_all()
                lane.fetch_next = lane.taken_end = lane.retry_from = target
                lane.seek_to = None
                lane.out_of_range = lane.client_paused = False
            self._fetch_again(lane)
            return
        try:
            self._client.seek(*lane.key, target)
        except KafkaException:
            self._seeks.append(lane)  # its fetcher is not up yet
            return
        with self._dispatcher.lock:
            lane.forget_all()
            lane.fetch_next = lane.taken_end = lane.retry_from = target
            # Again, for a hook may have marked meanwhile what will be replayed.
            lane.frontier = lane.unmarked_end = min(lane.frontier, target)
            if lane.seek_to == target:  # else a hook has asked for another place meanwhile, and that is in the queue
                lane.seek_to = None
            lane.out_of_range = False
            self._dispatcher.offer(lane, self._clock())

    def request_seek(self, lane: Lane) -> None:
        """Called by a processing thread after a handler asked to seek."""
        self._seeks.append(lane)
        if lane.seek_to is not None and self._bus.wants(events.PartitionSought):
            self._bus.publish(events.PartitionSought(self.name, lane.topic, lane.partition, lane.seek_to))

    def _refresh_membership(self) -> None:
        """What a transaction needs, which the broker checks: taken in the poller, because the client is the poller's."""
        if self.transactional and self._client is not None:
            member = self._client.membership()
            with self._dispatcher.lock:
                self.member = member

    def need_membership(self) -> None:
        """A handler of a group that is not exactly-once opens a transaction. Processing threads; waits for up to a few seconds."""
        self.transactional = True
        self.runtime.end_predecessors()
        deadline = self._clock() + MEMBERSHIP_PATIENCE
        with self._dispatcher.lock:
            while self.member is None and self._clock() < deadline:
                self._dispatcher.rested.wait(0.02)

    def request_reread(self, lane: Lane) -> None:
        """Begin this lane anew where the broker says that the group stands: whether its last commit happened is not known.

        Under the lock, by a processing thread.
        """
        lane.forget_all()
        lane.seek_to = lane.committed  # what is fetched from now on is stale
        self._rereads.append(lane)

    def _reread(self, lane: Lane) -> None:
        assert self._client is not None
        if self.lanes.get(lane.key) is not lane or lane.closing:
            return
        edges = {lane.topic: lane.plan.initial_offset}
        try:
            offset = self._client.resolve([lane.key], edges, timeout=2.0)[lane.key]
        except KafkaException as error:
            self.on_error(error.args[0], None, None, None)
            self._rereads.append(lane)
            return
        with self._dispatcher.lock:
            lane.committed = lane.sent = lane.frontier = lane.unmarked_end = offset
            lane.seek_to = offset
        self._seek(lane)

    # -- committing --------------------------------------------------------------------------------------------------

    def on_committed(
        self, error: KafkaError | None, offsets: list[tuple[str, int, int]], refused: Refusals = _NO_REFUSALS
    ) -> None:
        """The broker's answer to a commit that was sent without waiting."""
        self.commits.on_committed(error, offsets, refused)

    def commit_now(self, lane: Lane) -> bool:
        """Commit one lane's frontier and wait. Processing threads."""
        return self.commits.request(lane)

    def alive(self) -> None:
        """The poller is waiting for something that it may wait for. Any thread."""
        self._board.polled(self._slot, self._clock())

    # -- assignment --------------------------------------------------------------------------------------------------

    @property
    def startless(self) -> list[tuple[str, int]]:
        """Assigned partitions that are not fetched yet, because nobody could say where they begin. Any thread."""
        return sorted(self._startless.copy())

    def plan_of(self, topic: str) -> Plan:
        """The subscription a topic belongs to; one that names it goes before a pattern."""
        for plan in self.plans:
            if topic in plan.topics:
                return plan
        return next(plan for plan in self.plans if plan.matches(topic))

    def on_assigned(self, partitions: list[tuple[str, int]]) -> None:
        """Partitions were given to us (librdkafka, in the poller thread), or are bound to us (the poller)."""
        assert self._client is not None
        if not self._bound:
            self._board.add(REBALANCES)
            self._board.gives_back(self._slot, 0.0)
        self._refresh_membership()  # of the generation that the partitions are given in
        early = self._client.new_protocol
        if early:
            # Until they are taken up, librdkafka tells the broker of what we had before. If it has to tell it in full meanwhile (a
            # connection broke), the broker takes that for a revocation, and gives them to somebody else at once (docs/design.md).
            self._client.take_up((*key, UNKNOWN) for key in partitions)
        starts = self._starts(partitions, TOPIC_PATIENCE)
        self._make_lanes(starts)
        if early:
            self._client.begin((*key, offset) for key, offset in starts.items())
        else:
            self._client.take_up((*key, starts.get(key, UNKNOWN)) for key in partitions)
        self._startless.update(key for key in partitions if key not in starts)
        self._ask_at = self._ask_delay = 0.0
        self._begin(starts)

    def _make_lanes(self, starts: Mapping[tuple[str, int], int]) -> None:
        assert self._client is not None
        with self._dispatcher.lock:
            for (topic, partition), offset in starts.items():
                lane = Lane(self, self.plan_of(topic), topic, partition, max(offset, 0), self.runtime.index)
                lane.string_ids = (self._board.string(self.name), self._board.string(topic))
                if self.runtime.journal is not None:
                    lane.log = self.runtime.journal.lane(self.name, topic, partition, lane.start, lane.plan)
                old = self._lingering.get(lane.key)
                if old is not None and old.phase != "closed":
                    lane.predecessor = old
                if lane.key in self._client.uncommitted:
                    lane.committed = lane.sent = -1
                lane.metadata = lane.metadata_sent = lane.metadata_committed = self._client.metadata.get(lane.key)
                lane.hook_due = "on_assigned"
                lane.paused = self.runtime.pauses.holds(self.name, topic, partition)
                self.lanes[lane.key] = lane
                self._born.append(lane)
        self._client.uncommitted.clear()
        self._client.metadata.clear()

    def _begin(self, starts: Mapping[tuple[str, int], int]) -> None:
        now = self._clock()
        self._pause(lane for lane in self.lanes.values() if lane.paused or self._dispatcher.quiet)
        with self._dispatcher.lock:
            for key in starts:
                self._dispatcher.offer(self.lanes[key], now)
        self._missing_partitions.difference_update(starts)
        for topic, _ in starts:
            self._missing.pop(topic, None)
        self._bus.publish(
            events.PartitionsAssigned(self.name, tuple((*key, offset) for key, offset in sorted(starts.items())))
        )
        self._next_refresh = 0.0

    def _starts(self, partitions: Iterable[tuple[str, int]], patience: float) -> dict[tuple[str, int], int]:
        """Where partitions begin, as far as it could be learnt: to guess would lose or repeat messages. Blocks."""
        assert self._client is not None
        waiting: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for key in partitions:
            # A topic's are asked for at once; not those that are bound to us, of which one may not exist.
            waiting.setdefault(key if self._bound else (key[0], UNKNOWN), []).append(key)
        starts: dict[tuple[str, int], int] = {}
        failures: dict[tuple[str, int], KafkaError] = {}
        deadline = self._clock() + patience
        delay = 0.1
        while not self.stop_requested and self._fatal is None:
            for asked, keys in list(waiting.items()):
                self.alive()
                topic = asked[0]
                try:
                    starts |= self._client.resolve(keys, {topic: self._edge(topic)}, timeout=2.0)
                except KafkaException as error:
                    failures[asked] = error.args[0]
                    if failures[asked].code() == KafkaError._TIMED_OUT:  # perhaps withheld by a transaction left open
                        self.runtime.end_predecessors()
                else:
                    del waiting[asked]
            if not waiting or self._clock() >= deadline:
                break
            time.sleep(delay)
            delay = min(delay * 2, 1.0)
        for asked in waiting.keys() & failures.keys():
            topic, partition = asked
            if failures[asked].code() not in _MISSING_TOPIC:
                self.on_error(failures[asked], topic, None, None)
            elif self._bound and any(key[0] == topic for key in (*starts, *self.lanes)):
                self._partition_missing(topic, partition)
            else:
                self._topic_missing(topic, self._clock())
        return starts

    def _learn_topics(self, now: float) -> None:
        """Before the first assignment, and not within its callback: confluent-kafka (2.16.1) forgets there, over this question, that a poll is
        under way, and the next callback of that poll ends the process (an assertion in CallState_get; met once in a scenario)."""
        assert self._client is not None
        try:
            self._known = self._client.topics(timeout=LEARN_PATIENCE) - self._appeared
        except KafkaException:
            self._learn_at = now + LEARN_AGAIN

    def _edge(self, topic: str) -> Edge:
        """Where a topic begins in which the group has no offset. One that appeared while we were there, at its beginning: what was
        written before somebody noticed it is not of the time before the group. Blocks; raises KafkaException."""
        assert self._client is not None
        edge = self.plan_of(topic).initial_offset
        if edge == "earliest":
            return edge
        if self._known is None:
            self._known = self._client.topics(timeout=2.0) - self._appeared
        return "latest" if topic in self._known else "earliest"

    def _ask_again(self, now: float) -> None:
        """Take up what was assigned and could not begin: its topic is back, or its broker."""
        self._ask_delay = min(max(0.1, 2 * self._ask_delay), LONGEST_ASK)
        self._ask_at = now + self._ask_delay
        starts = self._starts(sorted(self._startless), 0.0)
        if not starts:
            return
        self._startless.difference_update(starts)
        self._make_lanes(starts)
        self._start_at_last(starts)
        self._begin(starts)

    def _start_at_last(self, starts: Iterable[tuple[str, int]]) -> None:
        """Partitions that were taken up paused, without a start, are sought where they begin, and go on after that.

        Not by giving them up and taking them up anew: where a revocation waits for our poll, librdkafka takes that for its answer, joins the
        group anew, and what is still worked on is given to somebody else (chaos met it; `rd_kafka_cgrp_incremental_unassign`).
        """
        assert self._client is not None
        for key in starts:
            lane = self.lanes[key]
            try:
                self._client.seek(*key, lane.start)
            except KafkaException:
                self._fetch_again(lane)  # an error has stopped it: its topic was made again
            else:
                lane.client_paused = True  # `_resume_drained` lets it go on

    def on_revoked(self, partitions: list[tuple[str, int]]) -> None:
        """Partitions are taken, and we are still a member: end what runs, commit, then let go (librdkafka, in the poller thread)."""
        if self._client is None:  # while a fenced client is being closed
            self.on_lost(partitions)
            return
        self._board.add(REBALANCES)
        began = self._clock()
        self._board.gives_back(self._slot, began)
        if not self.stop_requested:
            self._say_deleted(partitions)
        lanes = self._begin_release(partitions, "revoked")
        deadline = began + max(1.0, self._max_poll_interval - REVOKE_MARGIN)
        # When we return, the client joins anew, and no commit is answered before that is: at a stop the others end with these.
        others = [lane for lane in self._draining if lane not in lanes and not lane.lost]
        waited = [lane for lane in (*lanes, *others) if not lane.plan.long_running]
        self._wait_for_rest(waited, deadline)
        self.commits.commit_and_wait(self._client, [*lanes, *others], 5.0, self.alive)
        with self._dispatcher.lock:
            ended = [lane for lane in lanes if lane.plan.long_running and lane.uncommitted]
        if ended:  # meanwhile
            self.commits.commit_and_wait(self._client, ended, 0.0, self.alive)
        late = self._end_release(lanes)
        stuck = tuple(lane.key for lane in late if not lane.plan.long_running)
        if stuck:
            self._bus.publish(events.RevocationGivenUp(self.name, stuck, self._clock() - began))
        self._kept.difference_update(partitions)
        if partitions:
            self._bus.publish(events.PartitionsRevoked(self.name, tuple(sorted(partitions)), self._clock() - began))

    def on_lost(self, partitions: list[tuple[str, int]]) -> None:
        """Partitions were taken after we had been evicted: nothing can be committed; what runs ends unheard."""
        self._board.add(REBALANCES)
        self._board.gives_back(self._slot, 0.0)
        lanes = self._begin_release(partitions, "lost")
        self._end_release(lanes)
        self._kept.difference_update(partitions)
        if partitions:
            self._bus.publish(events.PartitionsLost(self.name, tuple(sorted(partitions))))

    def _begin_release(self, partitions: Iterable[tuple[str, int]], why: str) -> list[Lane]:
        partitions = list(partitions)
        self._startless.difference_update(partitions)
        with self._dispatcher.lock:
            lanes = [self.lanes[key] for key in partitions if key in self.lanes]
            for lane in lanes:
                lane.closing = why  # type: ignore[assignment]
                lane.halt = True
                lane.forget_buffer()
                lane.revoked = why != "shutdown"
                if why == "lost":
                    lane.lost = True
                hook = "on_shutdown" if why == "shutdown" else "on_revoked"
                lane.hook_due = hook if hook in lane.hook_names and lane.consumer is not None else ""
                if lane.phase == "ready":
                    lane.phase = "idle"
                self._dispatcher.offer(lane, self._clock())
            return lanes

    def _wait_for_rest(self, lanes: Sequence[Lane], deadline: float) -> None:
        assert self._client is not None
        while True:
            self.alive()
            self._refresh_membership()
            self.commits.serve_and_wait(self._client, self.alive)
            now = self._clock()
            if now >= self._next_refresh:  # else nobody would see what is being taken, and what it waits for
                self._next_refresh = now + REFRESH
                self.runtime.publish_assignment()
            with self._dispatcher.lock:
                if all(lane.phase != "running" and not lane.hook_due for lane in lanes) or now >= deadline:
                    return
                self._dispatcher.rested.wait(min(0.1, deadline - now))

    def _end_release(self, lanes: Sequence[Lane]) -> list[Lane]:
        """Close lanes; returns those whose job still runs."""
        late = []
        with self._dispatcher.lock:
            for lane in lanes:
                self.report_handled(lane)
                lane.lost = True
                lane.revoked = True
                if lane.phase == "running" or lane.hook_due:
                    late.append(lane)
                    self._lingering[lane.key] = lane
                else:
                    lane.phase = "closed"
                    self.say_dropped(lane)
                if self.lanes.get(lane.key) is lane:
                    del self.lanes[lane.key]
        for lane in lanes:
            if lane.log is not None:
                lane.log.released(lane.closing, late=lane in late, committed=lane.committed)
        self._next_refresh = 0.0
        return late

    def say_dropped(self, lane: Lane) -> None:
        """At-most-once: messages that were committed, and whose run or dead letter was still to come, are read by nobody again.

        Under the lock. Says it once. Where a commit is still under way, nobody knows, and it is said, too.
        """
        if lane.plan.delivery != "at_most_once":
            return
        gone = {aside.message.offset(): aside.error for aside in lane.aside}
        perhaps = max(lane.sent, lane.perhaps_committed)
        for message in lane.again:
            if message.offset() < lane.committed:
                gone.setdefault(message.offset(), "the assignment ended before it was run")
            elif message.offset() < perhaps:
                gone.setdefault(
                    message.offset(), "the assignment ended while its commit was under way: perhaps it is not run"
                )
        lane.aside.clear()
        lane.again = []
        # Neighbours of one fate are one event.
        for _, run in groupby(enumerate(sorted(gone.items())), lambda entry: (entry[1][0] - entry[0], entry[1][1])):
            part = [entry for _, entry in run]
            (first, error), (last, _) = part[0], part[-1]
            self._bus.publish(events.MessageDropped(self.name, lane.topic, lane.partition, first, last, error))

    def successor_of(self, lane: Lane) -> Lane | None:
        """The lane that waits for an ended assignment's job, if there is one. Under the lock."""
        if self._lingering.get(lane.key) is lane:
            del self._lingering[lane.key]
        successor = self.lanes.get(lane.key)
        return successor if successor is not None and successor.predecessor is lane else None

    # -- errors ------------------------------------------------------------------------------------------------------

    def on_error(self, error: KafkaError, topic: str | None, partition: int | None, offset: int | None) -> None:
        """librdkafka reports an error, of the client or of a partition (poller thread)."""
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            lane = self.lanes.get((topic or "", -1 if partition is None else partition))
            if (
                lane is not None and lane not in self._born and offset is not None
            ):  # else perhaps of the assignment before
                with self._dispatcher.lock:
                    lane.log_end = (lane.fetch_next, offset)
                    lane.pass_over_end()
            return
        if code in _MISSING_TOPIC:
            if topic:
                self._absent.add(topic)
                self._topic_missing(topic, self._clock())
            return
        if code == KafkaError._AUTO_OFFSET_RESET and topic is not None and partition is not None:
            self._out_of_range(topic, partition)
            return
        self._error_at = self._clock()
        self._board.client_failed(self._slot, self._error_at)
        if (error.fatal() or code == KafkaError._FATAL) and self._fatal is None:
            self._fatal = error
        self._board.count_error("client")
        said = self._errors.say(self.name, error, self._clock(), topic or "")
        if said is not None:
            self._bus.publish(said)

    def _topic_missing(self, topic: str, now: float) -> None:
        if topic not in self._missing:
            self._bus.publish(events.TopicMissing(self.name, topic))
        self._missing[topic] = now
        self._appeared.add(topic)  # if it ever comes
        if self._known is not None:
            self._known.discard(topic)

    def _partition_missing(self, topic: str, partition: int) -> None:
        if (topic, partition) not in self._missing_partitions:
            self._missing_partitions.add((topic, partition))
            self._bus.publish(events.PartitionMissing(self.name, topic, partition))

    def _check_missing(self, now: float) -> None:
        for topic, seen in list(self._missing.items()):
            if now - seen > 60.0:  # librdkafka says it with each refresh of the metadata: silence means it is there
                del self._missing[topic]

    def _out_of_range(self, topic: str, partition: int) -> None:
        lane = self.lanes.get((topic, partition))
        if lane is None or self._client is None:
            return
        edge = lane.plan.offset_out_of_range
        position = lane.fetch_next
        if self._made_again(lane):
            self._begin_anew(lane)
            return
        target = None
        if edge is None:
            self._pause([lane])
            with self._dispatcher.lock:
                lane.out_of_range = True  # what was fetched before is valid, and may exist nowhere else by now
        else:
            try:
                target = self._client.edge(topic, partition, edge, timeout=2.0)
            except KafkaException as error:
                self.on_error(error.args[0], None, None, None)
                target = position  # tried again: the broker will answer the same, and we ask again
            self._go_on_at(lane, target)
        self._bus.publish(events.OffsetOutOfRange(self.name, topic, partition, position, edge or "pause", target))

    def _begin_anew(self, lane: Lane) -> None:
        """Its topic was deleted and made again: what runs ends unheard, and the new log is read from its beginning."""
        topic, partition = lane.key
        self._bus.publish(events.TopicRecreated(self.name, topic, partition, lane.fetch_next))
        self.on_lost([lane.key])
        self._startless.add(lane.key)
        self._appeared.add(topic)
        if self._known is not None:
            self._known.discard(topic)
        self._ask_at = self._ask_delay = 0.0

    def _say_deleted(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Partitions are taken, perhaps because their topic is gone: whoever gets one that was made again begins where nothing was read of
        it, and would seem to repeat what was done."""
        assert self._client is not None
        if self.transactional or self._bound:
            return
        with suppress(KafkaException):
            for topic, partition in self._client.forgotten(partitions, PROBE):
                lane = self.lanes.get((topic, partition))
                if lane is not None:
                    self._bus.publish(events.TopicRecreated(self.name, topic, partition, lane.fetch_next))

    def _look_for_namesakes(self) -> None:
        """Before each commit by interval: whether a topic was deleted meanwhile and is there again, filled beyond what we had read.

        Nothing else would tell: the fetch goes on at the old position, and a commit would be taken for one of the new log. Not with
        transactions, of which an open one withholds the offsets, and not where nobody is a member, for there offsets expire; there, and at
        a handler's own commit, only a log that is shorter than ours was is noticed.
        """
        assert self._client is not None
        now = self._clock()
        if self.transactional or self._bound or now < self._look_at:
            return
        with self._dispatcher.lock:
            is_open = any(lane.uncommitted for lane in self.lanes.values())
        if not is_open and now < self._looked_at + LOOK_EVERY:
            return
        self._looked_at = now
        try:
            for topic, partition in self._client.forgotten(self.lanes, PROBE):
                self._client.edge(topic, partition, "earliest", timeout=PROBE)  # raises where it is not there
                self._begin_anew(self.lanes[(topic, partition)])
        except KafkaException:  # the brokers have something else to do: commits are not answered then, either
            self._look_at = self._clock() + LOOK_EVERY

    def _made_again(self, lane: Lane) -> bool:
        """Whether the log is another one than the lane's: with a topic the broker deletes the offsets that groups have in it."""
        assert self._client is not None
        if lane.committed < 0:
            return False
        try:
            return self._client.committed(*lane.key, timeout=2.0) < 0
        except KafkaException as error:
            self.on_error(error.args[0], None, None, None)
            return False

    def _go_on_at(self, lane: Lane, target: int) -> None:
        """Fetch on at `target`, and commit that: else a restart before the next message would find the old offset again."""
        assert self._client is not None
        with self._dispatcher.lock:
            in_hand = lane.phase == "running" or lane.has_work
            lane.frontier = min(lane.frontier, target) if in_hand else target
            lane.fetch_next = target
            if not in_hand:
                lane.taken_end = lane.retry_from = target
        self._fetch_again(lane)

    def _fetch_again(self, lane: Lane) -> None:
        assert self._client is not None
        paused = [other for other in self.lanes.values() if other.client_paused]
        ours = [(*other.key, other.fetch_next) for other in self.lanes.values()]
        self._client.fetch_again(lane.key, ours + [(*key, UNKNOWN) for key in self._startless])
        for other in paused:
            other.client_paused = False
        self._pause(paused)

    def _rebuild(self, error: KafkaError) -> None:
        """A fatal error (fenced, …) ends the client, not the process: close it, wait a little, make a new one."""
        assert self._client is not None
        now = self._clock()
        self.on_lost([*self.lanes, *self._startless])
        self.joined = False
        self._joined_at = 0.0
        self._board.joined(self._slot, 0.0, 0)
        self.runtime.client_fenced(True)
        taken = seat_error(error)
        if taken is not None:
            wait = self._seat_taken(taken, now)
        else:
            recent = sum(1 for at in self._rebuilds if now - at < REBUILDS_COUNTED)
            self._rebuilds.append(now)
            self._board.rebuilt(self._slot, recent + 1)
            wait = min(30.0, 0.5 * 2.0**recent)
        self.commits.close(for_good=False)
        old, self._client = self._client, None
        old.close(leave=False, alive=self.alive, patience=CLOSE_WITHIN)
        self._bus.publish(events.ClientRebuilt(self.name, error.str()))
        until = now + wait
        while self._clock() < until and not self.stop_requested:
            self._board.polled(self._slot, self._clock())
            time.sleep(0.05)
        self._fatal = None
        self.open()
        self.runtime.client_fenced(False)

    def _rejoin(self) -> None:
        """Leave and join again, so that the group's leader shares all partitions out anew. What runs ends and is committed before."""
        assert self._client is not None
        if self._bound:
            return  # there is nothing to join
        if self._client.new_protocol:
            return  # there the coordinator shares them out, and sees for itself what is missing
        self._client.rejoin(self._topics, self.alive)
        self._bus.publish(events.GroupRejoined(self.name))

    def _seat_taken(self, code: int, now: float) -> float:
        """Our static id is somebody else's: returns for how long to leave it to them, and says so where it is no accident."""
        fenced = code == KafkaError.FENCED_INSTANCE_ID
        if not fenced and self.runtime.joins_without_seat:
            seat = str(self._properties.pop("group.instance.id", ""))
            self._bus.publish(events.SeatForgone(self.name, seat))
            return 0.0
        wait = self._rivals.fenced(now) if fenced else self._rivals.refused(now)
        times = self._rivals.times(now)
        self._board.contested(self._slot, times)
        if times and (times & (times - 1) == 0 or not self._contested_said):
            self._bus.publish(
                events.SeatContested(self.name, str(self._properties.get("group.instance.id", "")), times, wait)
            )
        self._contested_said = times > 0
        return wait

    # -- the stop ----------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """End what runs, commit, close. Goes on polling meanwhile, so that the membership lasts as long as the drain."""
        if self._client is None:
            return
        until = self._clock() + STOP_SHARE * self.runtime.shutdown_timeout
        self._draining = lanes = self._begin_release(sorted(self.lanes), "shutdown")
        self._kept = {lane.key for lane in lanes}
        self._pause(lanes)
        while self._fatal is None:
            self._board.polled(self._slot, self._clock())
            with self._dispatcher.lock:
                if all(lane.phase != "running" and not lane.hook_due for lane in lanes):
                    break
                self._dispatcher.rested.wait(0.05)
            self._refresh_membership()
            if self._clock() >= self._next_commit:  # whatever else runs for how long: this is done
                self._next_commit = self._clock() + self.runtime.commit_interval
                self.commits.send(self._client)
            self.commits.serve(self._client, self._clock())
            for message in self._client.fetch(1, 0.0):  # paused: this only serves callbacks
                self._stale((message.topic(), message.partition()), 1)
            self._client.tell_errors()
        settled = self._commit_last(lanes) if self._fatal is None else True
        if not settled:
            self._say_uncommitted(lanes)
        self._end_release(lanes)
        self.commits.close(for_good=True)
        self._board.joined(self._slot, 0.0, 0)
        began = self._clock()
        # After a commit aside the good-bye stands behind the join, too.
        patience = max(LEAST_GOODBYE, min(CLOSE_WITHIN, until - began) if self._not_aside is None else 0.0)
        closed = settled and self._client.close(leave=self.leave, alive=self.alive, patience=patience)
        if self._kept and closed and self._bound:  # else the client has told of it
            self._bus.publish(events.PartitionsRevoked(self.name, tuple(sorted(self._kept)), 0.0))
        if self._bus.wants(events.ClientClosed):
            self._bus.publish(events.ClientClosed(self.name, self.leave, closed, self._clock() - began))
        if self._kept and (not closed or self._fatal is not None):
            # Nobody has answered, or somebody else has our seat: the group takes them, if it has not done so.
            self._bus.publish(events.PartitionsLost(self.name, tuple(sorted(self._kept))))
        self._client = None

    def _commit_last(self, lanes: Sequence[Lane]) -> bool:
        """The commit before the end. Without waiting inside the client: where the broker is away, that took 45 s and more.

        False: no answer within 5 s, or none that takes it; then there is nobody to say good-bye to either, and the process just ends.
        """
        assert self._client is not None
        began = self._clock()
        deadline = began + LAST_COMMIT
        taken_back = False
        while self._fatal is None:
            open_ = [lane for lane in lanes if not lane.lost and lane.uncommitted]
            if open_ and self._not_aside == "" and not taken_back:
                # An older commit was carried out after the transaction: the connection answers again, so the newer one gets its time.
                taken_back, deadline = True, self._clock() + LAST_COMMIT
            if not open_ and not self.commits.behind:
                return True
            if self._clock() >= deadline:
                return False
            if open_ and self._not_aside is None and self._clock() >= began + ASIDE_AFTER and not self._client.direct:
                self._not_aside = self.commits.commit_aside(self._client, open_, self.runtime.commit_aside)
                # What is still under way takes that back, if it comes: then it is answered, and done again. Else it ends with the process.
                deadline = self._clock() + LAST_COMMIT if not self._not_aside else deadline
                continue
            self.alive()
            self.commits.send(self._client)
            for message in self._client.fetch(1, RETRY if self.commits.refused else 0.02):
                self._stale((message.topic(), message.partition()), 1)
            self._client.tell_errors()
        return True

    def _say_uncommitted(self, lanes: Sequence[Lane]) -> None:
        """What was done and stays uncommitted is repeated by somebody: that has to be told."""
        offsets = tuple(
            (lane.topic, lane.partition, lane.settled_frontier())
            for lane in lanes
            if not lane.lost and lane.uncommitted
        )
        if offsets:
            refused = self.commits.refused
            text = f"refused at the stop: {refused}" if refused else f"no answer within {LAST_COMMIT:g} s at the stop"
            if self._not_aside:
                text += f", nor by a transaction: {self._not_aside}"
            self._bus.publish(events.CommitFailed(self.name, offsets, "_TIMED_OUT", text))
        if behind := self.commits.behind:
            text = "an older commit is still under way, and may take this one back"
            self._bus.publish(events.CommitFailed(self.name, tuple(behind), "_IN_DOUBT", text))

    # -- for lanes ---------------------------------------------------------------------------------------------------

    def make_job_producer(self) -> JobProducer:
        """A producer for one lane, over the process's producer."""
        return JobProducer(lambda: self.runtime.app.producer)

    def dead_letter(self, lane: Lane, raw: Any, error: str, attempts: int) -> None:
        """Produce a dead letter and wait for its delivery; raises KafkaException. Processing thread."""
        if lane.plan.dead_letter is None:
            raise ConfigurationError(
                f"dead_letter: the subscription to {lane.topic} has no dead letter topic. Give it dead_letter=DeadLetter(topic)."
            )
        producer = self.runtime.app.producer
        error = self.runtime.hide(error)  # whoever reads the dead letter topic is not whom the secret was given to
        if lane.transaction is not None:
            dead_letters.send_within(
                lane.transaction, producer.partitions, lane.plan.dead_letter.topic, raw, self.name, error, attempts
            )
        else:
            dead_letters.send(producer, lane.plan.dead_letter.topic, raw, self.name, error, attempts)


def _sight(lane: Lane, now: float, *, fetching: bool) -> Sight:
    """What there is to see of a lane for `swarm.standing`. Under the lock. `fetching`: nothing holds all of them back."""
    at_rest = lane.phase == "idle" and not lane.has_work and not lane.closing and lane.seek_to is None
    held = lane.client_paused or lane.paused or lane.out_of_range or lane.held_until > now
    read, end = lane.log_end
    return Sight(
        lane.key,
        fetching and at_rest and not held,
        lane.fetch_next,
        max(lane.high, end if read == lane.fetch_next else -1),
    )


def _subscription(pattern: str, properties: Mapping[str, Any]) -> str:
    """A pattern as librdkafka wants it: it begins with ^. With the new protocol the broker looks for topics, whose whole name has to match
    (KIP-848), where librdkafka is content with its beginning."""
    if str(properties.get("group.protocol", "classic")).lower() == "consumer":
        return f"^({pattern}).*"
    return pattern if pattern.startswith("^") else "^" + pattern


def _subscribed(group: str, plan: Plan, protocol: str) -> events.Subscribed:
    marks = plan.each or plan.exactly_once or inspect.isclass(plan.handler) or wants_consumer(plan.handler)
    return events.Subscribed(
        group,
        plan.topics,
        plan.pattern,
        plan.delivery,
        plan.offsets,
        plan.each,
        plan.virtual_partitions is not None,
        plan.long_running,
        marks,
        protocol,
    )


Clock = Callable[[], float]
