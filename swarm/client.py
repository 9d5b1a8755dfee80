"""The one place that touches `confluent_kafka.Consumer`: a port with the few verbs that a group needs. Made after the fork only.

All methods are called by the group's poller thread: librdkafka's clients are thread-safe, but confluent-kafka lets one thread at
a time into a client (see `swarm.commits`).
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol, cast

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from swarm.message import Record

DEFAULTS: Final[Mapping[str, Any]] = {
    # Measured: the default of 1000 ms lets a fast consumer run dry each time its queue was full, and 100,000 messages of
    # prefetch cost memory and gain nothing (docs/design.md, throughput).
    "fetch.queue.backoff.ms": 10,
    "queued.min.messages": 20000,
    "partition.assignment.strategy": "cooperative-sticky",
    # A rebalance is noticed at the next heartbeat: with the default of 3 s three workers took 7 s to share a topic.
    "heartbeat.interval.ms": 1000,
    # A topic that appears later, or new partitions, are met within this time instead of five minutes.
    "topic.metadata.refresh.interval.ms": 10000,
    # One connection error per second and client is enough to know.
    "reconnect.backoff.max.ms": 2000,
    # How much is queued only the statistics tell; measured, a report costs 0.24 ms with 3 partitions and 1.2 ms with 300.
    "statistics.interval.ms": 10000,
}
"""Our defaults for librdkafka's; the user's `[kafka]` wins."""

NOWHERE: Final = 0
"""Where a partition is held, paused, whose start is not known yet. An offset by number, and the lowest: with OFFSET_END the question
where that is may be answered after the partition was given its start, and win (measured: 1,300 messages were passed over)."""

_CLASSIC_ONLY: Final = ("session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy")
"""Refused by librdkafka with `group.protocol=consumer`: ours are left out then, the user's are the user's error."""

OWNED: Final[Mapping[str, Any]] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
}
"""What the runtime does itself."""

_PRODUCER_ONLY: Final = frozenset(
    [
        "acks",
        "request.required.acks",
        "linger.ms",
        "queue.buffering.max.ms",
        "queue.buffering.max.messages",
        "queue.buffering.max.kbytes",
        "enable.idempotence",
        "enable.gapless.guarantee",
        "transaction.timeout.ms",
        "compression.codec",
        "compression.type",
        "compression.level",
        "batch.size",
        "batch.num.messages",
        "delivery.timeout.ms",
        "message.timeout.ms",
        "request.timeout.ms",
        "retries",
        "message.send.max.retries",
        "partitioner",
        "sticky.partitioning.linger.ms",
        "delivery.report.only.error",
        "dr_cb",
        "dr_msg_cb",
        "queue.buffering.backpressure.threshold",
        "max.in.flight",
    ]
)
_CONSUMER_ONLY: Final = frozenset(
    [
        "fetch.queue.backoff.ms",
        "queued.min.messages",
        "queued.max.messages.kbytes",
        "partition.assignment.strategy",
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
        "fetch.wait.max.ms",
        "fetch.min.bytes",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "max.partition.fetch.bytes",
        "fetch.error.backoff.ms",
        "isolation.level",
        "check.crcs",
        "group.protocol",
        "group.remote.assignor",
        "group.instance.id",
        "group.id",
        "group.protocol.type",
        "coordinator.query.interval.ms",
        "auto.offset.reset",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.partition.eof",
        "auto.commit.interval.ms",
        "consume.callback.max.messages",
        "allow.auto.create.topics",
        "offset.store.method",
        "client.rack",
    ]
)


def consumer_properties(user: Mapping[str, Any], group: str, instance: str | None) -> dict[str, Any]:
    """What the consumer of `group` is made with: our defaults, the user's properties, and what is ours alone. Pure."""
    result = {**DEFAULTS, **{k: v for k, v in user.items() if k not in _PRODUCER_ONLY}}
    if str(user.get("group.protocol", "classic")).lower() == "consumer":
        for name in _CLASSIC_ONLY:
            if name not in user:
                result.pop(name, None)
    result |= OWNED
    result["group.id"] = group
    if instance is not None:
        result["group.instance.id"] = instance
    return result


def producer_properties(user: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker's producer is made with: idempotent (KIP-98) unless the user says otherwise. Pure."""
    return {
        "enable.idempotence": True,
        "linger.ms": 5,
        # A message that could be read can be set aside: the broker and the topic say how large one may be, not the client's 1 MB.
        # Batches are no larger for it (batch.size).
        "message.max.bytes": 100_000_000,
        **{k: v for k, v in user.items() if k not in _CONSUMER_ONLY and k != "client.rack"},
    }


LONGEST_COMMIT: Final = 60.0
"""Seconds for which a poller that waits for a commit's answer counts as polling."""


def common_properties(user: Mapping[str, Any]) -> dict[str, Any]:
    """What any client needs to reach the brokers, for one that neither consumes nor produces. Pure."""
    return {k: v for k, v in user.items() if k not in _PRODUCER_ONLY and k not in _CONSUMER_ONLY}


BACK: Final = 0.2
"""Seconds in which a broker that is back answers: a stop without one must not take longer for the question."""
CLOSE_WITHIN: Final = 10.0
"""Seconds at most that the end of a client is waited for: half of them to leave, the rest to close."""
PROBE: Final = 1.0
"""Seconds in which the group's coordinator has to answer a question before something is committed with waiting: librdkafka holds
a commit for as long as the session lasts (45 s) where nobody answers, and there is no limit to be given."""

BULK: Final = 500
"""Messages in one fetch that mean that there is a backlog, for which a moment more is no matter."""
BULK_WAIT: Final = 0.002
"""Seconds that a fetch then waits at most until it is full. Below BULK messages in this time (250,000 a second) it ends by itself."""

_GROUPS: Final = "__consumer_offsets"
"""The topic whose partitions' leaders are the groups' coordinators."""

_NO_METADATA: Final[Mapping[tuple[str, int], str]] = {}


def positions(offsets: Sequence[tuple[str, int, int]], metadata: Mapping[tuple[str, int], str]) -> list[TopicPartition]:
    return [TopicPartition(t, p, offset, metadata.get((t, p), "")) for t, p, offset in offsets]


class Queued(NamedTuple):
    """What a client has fetched and not handed out, as of a CLOCK_MONOTONIC instant. Bytes are those of keys and values."""

    at: float
    messages: int
    bytes: int


_QUEUED: Final = re.compile(r'"fetchq_cnt": ?(\d+), ?"fetchq_size": ?(\d+)')


def queued(statistics: str) -> tuple[int, int]:
    """Messages and bytes that librdkafka's statistics say are queued. Pure.

    Each partition is reported with the count of the queue that all of them share (measured with 2.16: three partitions with 3000, 2000 and 4000
    messages said 9000 each), so the largest is the sum. Not parsed as JSON, for a report has 740 bytes for each partition.
    """
    found = [(int(messages), int(size)) for messages, size in _QUEUED.findall(statistics)]
    return max((each[0] for each in found), default=0), max((each[1] for each in found), default=0)


_LEADERLESS: Final = re.compile(r'"partition": ?\d+, ?"broker": ?-?\d+, ?"leader": ?-1\b')


def leaderless(statistics: str) -> frozenset[tuple[str, int]]:
    """Partitions that, as librdkafka's statistics say, no broker leads. Pure. Parsed as JSON only where there is one."""
    if not _LEADERLESS.search(statistics):
        return frozenset()
    return frozenset(
        (topic, about["partition"])
        for topic, said in json.loads(statistics)["topics"].items()
        for about in said["partitions"].values()
        if about["leader"] == -1 and about["partition"] >= 0  # -1: of messages that have no partition yet
    )


_STABLE: Final = re.compile(r'"hi_offset": ?(\d+), ?"ls_offset": ?(\d+)')


def withheld(statistics: str) -> frozenset[tuple[str, int]]:
    """Partitions of which, as librdkafka's statistics say, all was fetched up to the last stable offset, and more stands behind it: an open
    transaction hides that from who reads what is committed. Pure. Parsed as JSON only where there may be one."""
    if all(high == stable for high, stable in _STABLE.findall(statistics)):
        return frozenset()
    return frozenset(
        (topic, about["partition"])
        for topic, said in json.loads(statistics)["topics"].items()
        for about in said["partitions"].values()
        if 0 <= about["ls_offset"] < about["hi_offset"] and about["next_offset"] >= about["ls_offset"]
    )


Refusals = Mapping[tuple[str, int], KafkaError]
"""Partitions whose part of a commit the broker refused: it answers for each of them, and may hold the others."""


_SEAT_TAKEN: Final = (KafkaError.FENCED_INSTANCE_ID, KafkaError.UNRELEASED_INSTANCE_ID)
_IN_WORDS: Final = {code: KafkaError(code).str() for code in _SEAT_TAKEN}


def seat_error(error: KafkaError) -> int | None:
    """FENCED_INSTANCE_ID where somebody took our static id, UNRELEASED_INSTANCE_ID where somebody has it still; None for all else.

    A fatal error's own code is _FATAL (measured with 2.16.1): what it was, it says in words, which are librdkafka's own for the code.
    """
    return next((code for code, words in _IN_WORDS.items() if error.code() == code or words in error.str()), None)


class Callbacks(Protocol):
    """What a client tells its group; all in the poller thread, from within `fetch` or `close`."""

    def on_assigned(self, partitions: list[tuple[str, int]]) -> None: ...
    def on_revoked(self, partitions: list[tuple[str, int]]) -> None: ...
    def on_lost(self, partitions: list[tuple[str, int]]) -> None: ...
    def on_committed(
        self, error: KafkaError | None, offsets: list[tuple[str, int, int]], refused: Refusals
    ) -> None: ...
    def on_error(self, error: KafkaError, topic: str | None, partition: int | None, offset: int | None) -> None: ...
    def alive(self) -> None:
        """The poller is in a call that may last; from another thread."""


def _refusals(partitions: Iterable[TopicPartition]) -> Refusals:
    return {(p.topic, p.partition): p.error for p in partitions if p.error is not None}


class Client:
    """A member of one consumer group; or, where `topics` is None, one who is told its partitions by `take_up`, and only commits there."""

    def __init__(self, properties: Mapping[str, Any], topics: Sequence[str] | None, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        self.direct = topics is None
        self.cooperative = str(
            properties.get("group.protocol", "classic")
        ).lower() == "consumer" or "cooperative" in str(properties.get("partition.assignment.strategy", ""))
        self.new_protocol = str(properties.get("group.protocol", "classic")).lower() == "consumer"
        self.static = "group.instance.id" in properties
        if self.direct:
            self.cooperative = self.static = self.new_protocol = False
        self._all_down = False
        """Whether all brokers were away at some time."""
        self._late: list[Message] = []
        self.uncommitted: set[tuple[str, int]] = set()
        """Starts that `resolve` could not commit."""
        self.metadata: dict[tuple[str, int], str] = {}
        """The texts that `resolve` found with committed offsets."""
        self._resolved: set[tuple[str, int]] = set()
        """Partitions for which the broker was seen to hold an offset of the group's."""
        self._answered = False
        self._bulk = False
        """The last fetch found a backlog."""
        self._raised: BaseException | None = None
        self.queued: Queued | None = None
        """As librdkafka said last; None: not yet, or never (`statistics.interval.ms` = 0)."""
        self.leaderless: frozenset[tuple[str, int]] = frozenset()
        self.withheld: frozenset[tuple[str, int]] = frozenset()
        """Partitions that nobody leads, as it said last."""
        self._raw = Consumer(
            {
                **properties,
                "on_commit": self._on_commit,
                "error_cb": self._on_error,
                "stats_cb": self._on_statistics,
            },
            logger=logging.getLogger("librdkafka"),
        )
        if topics is not None:
            self._subscribe(topics)

    def _subscribe(self, topics: Sequence[str]) -> None:
        self._raw.subscribe(list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    # -- callbacks ---------------------------------------------------------------------------------------------------

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        with self._keep_what_is_raised():
            self._callbacks.on_assigned([(p.topic, p.partition) for p in partitions])

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        with self._keep_what_is_raised():
            self._callbacks.on_revoked([(p.topic, p.partition) for p in partitions])

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        with self._keep_what_is_raised():
            self._callbacks.on_lost([(p.topic, p.partition) for p in partitions])

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        with self._keep_what_is_raised():
            self._callbacks.on_committed(
                error, [(p.topic, p.partition, p.offset) for p in partitions], _refusals(partitions)
            )

    def _on_error(self, error: KafkaError) -> None:
        self._all_down |= error.code() == KafkaError._ALL_BROKERS_DOWN
        with self._keep_what_is_raised():
            self._callbacks.on_error(error, None, None, None)

    def _on_statistics(self, text: str) -> None:
        with self._keep_what_is_raised():
            self.queued = Queued(time.monotonic(), *queued(text))
            self.leaderless = leaderless(text)
            self.withheld = withheld(text)

    @contextmanager
    def _keep_what_is_raised(self) -> Iterator[None]:
        """An exception that passes through librdkafka comes out as "SystemError: exception <class 'str'> is not a BaseException
        subclass" where C code raised it (measured with 2.16.1 on Python 3.11): it is kept, and raised when the call has returned."""
        try:
            yield
        except BaseException as error:
            self._raised = self._raised or error

    def _raise_what_was_kept(self) -> None:
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised

    # -- verbs -------------------------------------------------------------------------------------------------------

    def fetch(self, most: int, timeout: float) -> list[Record]:
        """Messages in hand, up to `most`; waits up to `timeout` seconds for the first. Serves callbacks meanwhile.

        `poll` for the first and `consume` for what else is there: the latency of the one with the throughput of the other. Where
        that was much the last time, waits for a moment (BULK_WAIT) for more: each pass costs as much as some hundred messages.
        """
        first = self._raw.poll(timeout)
        self._raise_what_was_kept()
        if first is None:
            self._bulk = False
            return []
        messages = self._raw.consume(most - 1, BULK_WAIT if self._bulk else 0)
        self._bulk = len(messages) >= BULK
        self._raise_what_was_kept()
        messages.insert(0, first)
        if any(map(Message.error, messages)):
            messages = self._without_errors(messages)
        return cast("list[Record]", messages)

    def _without_errors(self, messages: list[Message]) -> list[Message]:
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                good.append(message)
            else:
                self._late.append(message)
        return good

    def tell_errors(self) -> None:
        """Tell of the errors that the last `fetch` met. After its messages were taken in: they came before, and what an error
        (an offset out of range) leads to must not make them look old."""
        late, self._late = self._late, []
        for message in late:
            error = message.error()
            if error is not None:
                self._callbacks.on_error(error, message.topic(), message.partition(), message.offset())

    def take_up(self, starts: Iterable[tuple[str, int, int]]) -> None:
        """Begin to fetch partitions that were assigned, each at its next offset (negative: not known yet, nothing is fetched).

        Only from within `on_assigned`, but for a direct client's. All that was assigned: librdkafka cannot take back what was not taken up.
        """
        starts = list(starts)
        partitions = [TopicPartition(t, p, offset if offset >= 0 else NOWHERE) for t, p, offset in starts]
        if self.cooperative:
            self._raw.incremental_assign(partitions)
        else:
            self._raw.assign(partitions)
        self._hold(starts)

    def begin(self, starts: Iterable[tuple[str, int, int]]) -> None:
        """Fetch partitions that were taken up without a start, from these next offsets on. Only with cooperative protocols, and only from
        within `on_assigned`: elsewhere it may be taken for the answer to a revocation."""
        partitions = [TopicPartition(*start) for start in starts]
        if partitions:
            self._raw.incremental_unassign(partitions)
            self._raw.incremental_assign(partitions)
            self._raw.resume(partitions)  # what was paused stays so although it is assigned anew (measured)

    def _hold(self, starts: Iterable[tuple[str, int, int]]) -> None:
        unknown = [(t, p) for t, p, offset in starts if offset < 0]
        if unknown:
            self.pause(unknown)

    def resolve(
        self, partitions: Sequence[tuple[str, int]], edges: Mapping[str, str], timeout: float
    ) -> dict[tuple[str, int], int]:
        """Where to start: the committed offset, else an edge of the log, which is committed before it is used.

        edges: topic -> "earliest" or "latest", for a group without an offset there. The start at `latest` is fixed for all
        partitions of the topic at once, so that one that is added later, and finds the others committed, starts at its
        beginning instead of losing what was produced before somebody noticed it. Blocks; raises KafkaException.
        """
        answer = self._raw.committed([TopicPartition(t, p) for t, p in partitions], timeout=timeout)
        found = {}
        for p in answer:
            if p.error is not None:
                raise KafkaException(p.error)
            found[(p.topic, p.partition)] = p.offset
            if p.metadata:
                self.metadata[(p.topic, p.partition)] = p.metadata
        missing = [key for key, offset in found.items() if offset < 0]
        self._resolved.difference_update(missing)  # a topic of this name was deleted meanwhile, and its offsets with it
        fixed: dict[tuple[str, int], int] = {}
        for topic in {topic for topic, _ in missing}:
            wanted = {p for t, p in missing if t == topic}
            if edges[topic] == "latest":
                siblings = self._partitions(topic, timeout)
                known = self._raw.committed([TopicPartition(topic, p) for p in siblings], timeout=timeout)
                unknown = {p.partition for p in known if p.offset < 0}
                first_time = len(unknown) == len(siblings)
                for partition in wanted | unknown if first_time else wanted:
                    low, high = self._raw.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout)
                    fixed[(topic, partition)] = high if first_time else low
            else:
                for partition in wanted:
                    low, _ = self._raw.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout)
                    fixed[(topic, partition)] = low
        if fixed:
            try:
                refused = self.commit_now([(t, p, offset) for (t, p), offset in fixed.items()])
                self.uncommitted.update(refused)
            except KafkaException:  # refused in the middle of a rebalance, say: the next interval commits them
                self.uncommitted.update(fixed)
        self._resolved.update(key for key in found if key not in self.uncommitted)
        return {key: offset if offset >= 0 else fixed[key] for key, offset in found.items()}

    def committed(self, topic: str, partition: int, timeout: float) -> int:
        """The group's offset as the broker has it; negative: none. Blocks; raises KafkaException."""
        (answer,) = self._raw.committed([TopicPartition(topic, partition)], timeout=timeout)
        if answer.error is not None:
            raise KafkaException(answer.error)
        return int(answer.offset)

    def forgotten(self, keys: Iterable[tuple[str, int]], timeout: float) -> list[tuple[str, int]]:
        """Those of them in which the broker held an offset of the group's and holds none any more: their topic was deleted, and the
        offsets with it. Blocks; raises KafkaException."""
        asked = [TopicPartition(t, p) for t, p in sorted(self._resolved.intersection(keys))]
        answer = self._raw.committed(asked, timeout=timeout) if asked else []
        return [(p.topic, p.partition) for p in answer if p.offset < 0 and p.error is None]

    def _partitions(self, topic: str, timeout: float) -> list[int]:
        metadata = self._raw.list_topics(topic, timeout=timeout).topics[topic]
        if metadata.error is not None:
            raise KafkaException(metadata.error)
        return sorted(metadata.partitions)

    def commit_soon(
        self, offsets: Sequence[tuple[str, int, int]], metadata: Mapping[tuple[str, int], str] = _NO_METADATA
    ) -> None:
        """Send next offsets, with the metadata of some; the answer comes to `on_committed`. Does not block."""
        self._raw.commit(offsets=positions(offsets, metadata), asynchronous=True)

    def commit_now(
        self, offsets: Sequence[tuple[str, int, int]], metadata: Mapping[tuple[str, int], str] = _NO_METADATA
    ) -> Refusals:
        """Commit next offsets and wait for the broker's answer; raises KafkaException where it refuses all of them or is silent.

        Asks first, for that has a limit (`PROBE`). Where the broker no longer holds the offset that we had there, the topic was
        deleted (its offsets go with it) and may be there anew: what was done of the old one must not be committed to that.
        """
        before = self._raw.committed([TopicPartition(t, p) for t, p, _ in offsets], timeout=PROBE)
        gone = {(p.topic, p.partition) for p in before if p.offset < 0 and p.error is None} & self._resolved
        kept = [offset for offset in offsets if offset[:2] not in gone]
        refused = dict.fromkeys(gone, KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, "The topic was deleted"))
        if kept:
            with self._seen_alive():
                refused |= _refusals(self._raw.commit(offsets=positions(kept, metadata), asynchronous=False) or ())
        self._resolved.update(offset[:2] for offset in kept if offset[:2] not in refused)
        return refused

    @contextmanager
    def _seen_alive(self) -> Iterator[None]:
        """A broker that dies in the middle of a commit holds it for the session's time, which is no reason to replace the worker."""
        done = threading.Event()

        def tell() -> None:
            until = time.monotonic() + LONGEST_COMMIT
            while not done.wait(1.0) and time.monotonic() < until:
                self._callbacks.alive()

        threading.Thread(target=tell, name="committing", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def pause(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Stop fetching; drops what was prefetched."""
        self._raw.pause([TopicPartition(t, p) for t, p in partitions])

    def resume(self, starts: Sequence[tuple[str, int]]) -> None:
        """Fetch again where it stopped."""
        self._raw.resume([TopicPartition(t, p) for t, p in starts])

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Read on at `offset`; raises KafkaException while the partition is not fetched yet."""
        self._raw.seek(TopicPartition(topic, partition, offset))

    def fetch_again(self, stopped: tuple[str, int], assignment: Sequence[tuple[str, int, int]]) -> None:
        """Fetch a partition again that an error has stopped, where a seek is refused (_STATE, measured).

        assignment: all of ours with their next offsets (negative: not known yet), that one among them. Forgets which are paused.
        """
        assignment = [each for each in assignment if not self.cooperative or each[:2] == stopped]
        if self.cooperative:
            self._raw.incremental_unassign([TopicPartition(*stopped)])
            self._raw.incremental_assign([TopicPartition(*each) for each in assignment])
        else:
            self._raw.assign([TopicPartition(t, p, offset if offset >= 0 else NOWHERE) for t, p, offset in assignment])
            self._hold(assignment)
        self._raw.resume(
            [TopicPartition(*stopped)]
        )  # one that was paused stays so although it is assigned anew (measured)

    def edge(self, topic: str, partition: int, edge: str, timeout: float) -> int:
        """The first (`earliest`) or next (`latest`) offset of the log. Blocks; raises KafkaException."""
        low, high = self._raw.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout)
        return low if edge == "earliest" else high

    def ends(self, partitions: Sequence[tuple[str, int]], timeout: float) -> dict[tuple[str, int], int]:
        """The ends of logs as of now (the last stable offset with read_committed), of those whose leader answers. One request for each
        broker. Blocks; raises KafkaException where a leader is not known, or silent."""
        asked = [TopicPartition(t, p, OFFSET_END) for t, p in partitions]
        answer = self._raw.offsets_for_times(asked, timeout=timeout)
        return {(p.topic, p.partition): p.offset for p in answer if p.error is None and p.offset >= 0}

    def high_watermark(self, topic: str, partition: int) -> int:
        """The end of the log as of the last fetch; negative: unknown. Does not ask the broker."""
        answer = self._raw.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
        return answer[1] if answer else OFFSET_INVALID

    def membership(self) -> Any:
        """The group's metadata as of now (member, generation), for transactions (KIP-447); None: there are none at the moment."""
        try:
            return self._raw.consumer_group_metadata()
        except RuntimeError:  # met in ten minutes of chaos, while the client was being fenced: "not available"
            return None

    @property
    def is_member(self) -> bool:
        """Whether the group knows us. Blocks for up to half a second while its coordinator is silent, with the new protocol: there
        the client makes its member id by itself, so that the id says nothing. A direct client: whether its coordinator has answered."""
        if not (self.new_protocol or self.direct):
            return bool(self._raw.memberid())
        if not self._answered:
            try:
                self._raw.committed([TopicPartition("swarm.nothing", 0)], timeout=0.5)
            except KafkaException:
                return False
            self._answered = True
        return True

    def cluster_answers(self, timeout: float) -> bool:
        """Whether a broker answers at this moment, and knows a leader for every group, as far as we may know that. Blocks.

        Not the coordinator itself: a broker answers the requests of a connection one after the other, and the join that is not
        answered yet holds up what we would ask behind it (measured).
        """
        try:
            about = self._raw.list_topics(_GROUPS, timeout=timeout).topics[_GROUPS]
        except KafkaException:
            return False
        if about.error is not None:
            return bool(about.error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED)
        return all(partition.leader >= 0 for partition in about.partitions.values())

    def topics(self, timeout: float) -> set[str]:
        """The topics that exist now, as far as we may see them. Blocks; raises KafkaException."""
        return {name for name, about in self._raw.list_topics(timeout=timeout).topics.items() if about.error is None}

    def close(self, *, leave: bool, alive: Callable[[], None], patience: float = CLOSE_WITHIN) -> bool:
        """Leave the group for good, or only close and keep a static member's seat until its session times out.

        Blocks while librdkafka says good-bye, for some `patience` seconds at most: False, it is left to itself then (the broker is
        away; measured, it may take longer than any stop should). `on_revoked` is called from within, `alive` all the time.
        """
        deadline = time.monotonic() + patience
        if leave and self.static and self.new_protocol:
            # KIP-848 keeps a static member's partitions at close and at unsubscribe: hand them over by wanting none.
            self._subscribe(["swarm.nothing"])
            while self._raw.assignment() and time.monotonic() < deadline - patience / 2:
                alive()
                self._raw.poll(0.1)
        elif leave and self.static:
            self._leave(deadline - patience / 2, alive)
        closing = threading.Thread(target=self._close_raw, name="closing", daemon=True)
        closing.start()
        while closing.is_alive() and time.monotonic() < deadline:
            alive()
            closing.join(0.1)
        self._raise_what_was_kept()
        return not closing.is_alive()

    def rejoin(self, topics: Sequence[str], alive: Callable[[], None]) -> None:
        """Leave a classic group, a static member for good too, and join it again. Blocks for some `CLOSE_WITHIN` seconds at most;
        `on_revoked` is called from within."""
        self._leave(time.monotonic() + CLOSE_WITHIN, alive)
        self._subscribe(topics)
        self._raise_what_was_kept()

    def _leave(self, deadline: float, alive: Callable[[], None]) -> None:
        # librdkafka leaves once the partitions are given back, for which it calls us; a static member that is closed before that
        # does not leave. Its member id is empty from then on.
        # Who stops before its first join is answered has no id yet: gone without a word, it would be a member that the group waits for,
        # with partitions that nobody reads, until its session ends.
        joining = not self._raw.memberid() and (not self._all_down or self._answers())
        while joining and not self._raw.memberid() and time.monotonic() < deadline:
            alive()
            self._raw.poll(0.05)
        self._raw.unsubscribe()
        while self._raw.memberid() and time.monotonic() < deadline:
            alive()
            self._raw.poll(0.05)

    def _answers(self) -> bool:
        """Whether the brokers, which were away once, are there. Blocks for a moment."""
        try:
            self._raw.list_topics(_GROUPS, timeout=BACK)
        except KafkaException:
            return False
        return True

    def _close_raw(self) -> None:
        try:
            self._raw.close()
        except BaseException as error:
            self._raised = self._raised or error


__all__ = ["OFFSET_BEGINNING", "Callbacks", "Client", "consumer_properties", "producer_properties"]


def try_properties(properties: Mapping[str, Any]) -> None:
    """Make a consumer and close it: raises KafkaException for what librdkafka refuses. In a short-lived child only.

    Without the brokers' addresses, so that nothing is connected to and nothing is logged about it.
    """
    alone = {
        name: value for name, value in properties.items() if name not in ("bootstrap.servers", "metadata.broker.list")
    }
    silent = logging.Logger("swarm.preflight", level=logging.CRITICAL + 1)
    Consumer(alone, logger=silent).close()


_THRIFTY: Final[Mapping[str, Any]] = {
    "fetch.message.max.bytes": 64 << 10,
    "queued.min.messages": 1,
    "queued.max.messages.kbytes": 4096,
}


class TopicReader:
    """Reads one topic from offset to offset without joining a group: for commands. `group` only lends its committed offsets.

    Sees what is committed (transactions) unless it is told otherwise, and nothing that comes after the ends it was given. Commits nothing. Methods block and raise
    KafkaException; one thread.
    """

    def __init__(
        self, user: Mapping[str, Any], topic: str, group: str, *, everything: bool = False, thrifty: bool = False
    ) -> None:
        """everything: also what is not committed. thrifty: only a little of each partition is wanted."""
        self._topic = topic
        self.last_error: KafkaError | None = None
        """What librdkafka said last by itself: why nobody answers, say."""
        properties = consumer_properties({k: v for k, v in user.items() if not k.startswith("group.")}, group, None)
        silent = logging.Logger("swarm.reader", level=logging.CRITICAL + 1)
        self._raw = Consumer(
            {
                **properties,
                "auto.offset.reset": "earliest",  # what retention has removed meanwhile is passed over
                "isolation.level": "read_uncommitted" if everything else "read_committed",
                "enable.partition.eof": True,
                "statistics.interval.ms": 0,
                **(_THRIFTY if thrifty else {}),
                "error_cb": self._on_error,
            },
            logger=silent,
        )

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # which says less than what came before it
            self.last_error = error

    def partitions(self, topic: str, timeout: float) -> int:
        """How many partitions a topic has; 0 where it does not exist."""
        found = self._raw.list_topics(topic, timeout=timeout).topics.get(topic)
        if found is None or found.error is None:
            return len(found.partitions) if found is not None else 0
        if found.error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return 0
        raise KafkaException(found.error)

    def bounds(self, partition: int, timeout: float) -> tuple[int, int]:
        """The first offset of the log and the one after its last."""
        low, high = self._raw.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=timeout)
        return low, high

    def committed(self, partitions: int, timeout: float) -> dict[int, tuple[int, str]]:
        """The group's offset (negative: none) and its metadata, for each partition."""
        asked = [TopicPartition(self._topic, number) for number in range(partitions)]
        result = {}
        for answer in self._raw.committed(asked, timeout=timeout):
            if answer.error is not None:
                raise KafkaException(answer.error)
            result[answer.partition] = (answer.offset, answer.metadata or "")
        return result

    def read(self, spans: Mapping[int, tuple[int, int]], patience: float) -> Iterator[list[Record]]:
        """The records of each partition from its first offset up to its end (excluded), in chunks; a partition's in order.

        Raises KafkaException where nothing came for `patience` seconds.
        """
        unread = {partition for partition, (start, end) in spans.items() if start < end}
        self._raw.assign([TopicPartition(self._topic, partition, spans[partition][0]) for partition in unread])
        heard = time.monotonic()
        while unread:
            chunk = []
            messages = self._raw.consume(500, 0.2)
            for message in cast("list[Any]", messages):
                error, partition = message.error(), message.partition()
                if error is None:
                    end = spans[partition][1]
                    if partition in unread and message.offset() < end:
                        chunk.append(message)
                    if message.offset() >= end - 1:
                        unread.discard(partition)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(partition)
                else:
                    raise KafkaException(error)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() > heard + patience:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"nothing came for {patience:g} s"))
            if chunk:
                yield cast("list[Record]", chunk)

    def offsets_at(self, partitions: Iterable[int], milliseconds: int, timeout: float) -> dict[int, int]:
        """The offset of the first record of each partition whose timestamp (ms since the epoch) is no older; negative: there is none."""
        asked = [TopicPartition(self._topic, number, milliseconds) for number in partitions]
        return {p.partition: p.offset for p in self._raw.offsets_for_times(asked, timeout=timeout) if p.error is None}

    def first(self, starts: Mapping[tuple[str, int], int], patience: float) -> dict[tuple[str, int], Record]:
        """The first record at or after each of these offsets, of any topic, as far as they come within `patience` seconds."""
        found: dict[tuple[str, int], Record] = {}
        waiting = set(starts)
        self._raw.assign([TopicPartition(t, p, offset) for (t, p), offset in starts.items()])
        deadline = time.monotonic() + patience
        while waiting and time.monotonic() < deadline:
            for message in cast("list[Any]", self._raw.consume(100, 0.1)):
                place, error = (message.topic(), message.partition()), message.error()
                if place not in waiting:
                    continue
                waiting.discard(place)  # also where it is the end: nothing is there that may be read
                if error is None:
                    found[place] = message
                self._raw.incremental_unassign([TopicPartition(*place)])
        self._raw.unassign()
        return found

    def membership(self) -> Any:
        """The group's metadata, for a transaction that commits its offsets."""
        return self._raw.consumer_group_metadata()

    def close(self) -> None:
        """End the client."""
        self._raw.close()


_COORDINATOR_MOVES: Final = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)
_ASK_AGAIN: Final = 0.2
"""Seconds until such a coordinator is asked again."""


class Onlooker:
    """Looks at a group's offsets, and at single records, without joining it: for commands.

    Sees what is uncommitted, too: otherwise the broker withholds a group's offsets while a transaction with offsets is open.
    Methods block and raise KafkaException; one thread. (Not AdminClient.list_consumer_group_offsets: where the coordinator has
    moved it ends the process by SIGSEGV, librdkafka 5040.)
    """

    def __init__(self, user: Mapping[str, Any], group: str) -> None:
        silent = logging.Logger("swarm.onlooker", level=logging.CRITICAL + 1)
        self._raw = Consumer(
            {
                **common_properties(user),
                **OWNED,
                "group.id": group,
                "isolation.level": "read_uncommitted",
                "fetch.queue.backoff.ms": 10,
                "queued.min.messages": 1,
            },
            logger=silent,
        )

    def committed(self, places: Sequence[tuple[str, int]], timeout: float) -> dict[tuple[str, int], int]:
        """The group's next offsets, of those partitions where it has one. A coordinator that has moved, or is only being made, as for the
        first group of a cluster, is asked again."""
        asked = [TopicPartition(*place) for place in places]
        deadline = time.monotonic() + timeout
        while True:
            try:
                answer = self._raw.committed(asked, timeout=max(0.1, deadline - time.monotonic()))
                break
            except KafkaException as error:
                if error.args[0].code() not in _COORDINATOR_MOVES or time.monotonic() > deadline - _ASK_AGAIN:
                    raise
            time.sleep(_ASK_AGAIN)
        return {(p.topic, p.partition): p.offset for p in answer if p.error is None and p.offset >= 0}

    def timestamp(self, topic: str, partition: int, offset: int, timeout: float) -> float | None:
        """When the record at `offset`, or the next there is, was made (s since the epoch); None where none came in time."""
        self._raw.assign([TopicPartition(topic, partition, offset)])
        try:
            message = self._raw.poll(timeout)
            if message is None or message.error() is not None:
                return None
            kind, milliseconds = message.timestamp()
            return milliseconds / 1000 if kind else None
        finally:
            self._raw.unassign()

    def close(self) -> None:
        """End the client."""
        self._raw.close()
