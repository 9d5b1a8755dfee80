"""Reads dead letter topics and sends letters back: `swarmctl dlq`. Decides nothing that `swarm.letters` can decide; prints nothing.

What was sent back is remembered with it: message and progress are one transaction (KIP-98), so a replay that is killed and repeated
neither loses a letter nor sends one twice. The progress of a topic is the committed offsets and metadata of a consumer group that
nobody joins. Kafka forgets them `offsets.retention.minutes` (7 days by default) after the last run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaException

from swarm.client import TopicReader, producer_properties
from swarm.config import redact
from swarm.errors import SwarmError
from swarm.letters import LONGEST_METADATA, Done, Letter, Outgoing, Selection, outgoing, read_letter
from swarm.producer import TransactionalSender
from swarm.wording import counted, plural

TIMEOUT: Final = 30.0
"""Seconds to wait for one answer of the cluster."""
FIRST_TIMEOUT: Final = 10.0
"""Seconds to wait for the first answer: who does not get that has a wrong address, or a cluster that is away."""
TRANSACTION: Final = 500
"""Letters in one transaction at most."""
TRANSACTION_BYTES: Final = 8 * 1024 * 1024
_TIMEOUT_MS: Final = 60_000
"""`transaction.timeout.ms`: so long may a replay that was killed hold up readers of what it had begun to send."""


def progress_group(topic: str) -> str:
    """The group that remembers which letters of a dead letter topic were sent back, and the transactional id of who sends them."""
    return f"{topic}.dlq-replay"


@dataclass(frozen=True, slots=True)
class Wish:
    """What to send back, and how.

    to: a topic instead of each letter's own. by_key: let the partitioner choose. now: a new timestamp. limit: letters at most.
    again: also what was sent back before. progress: a name instead of `progress_group`.
    """

    selection: Selection = field(default_factory=Selection)
    to: str | None = None
    by_key: bool = False
    now: bool = False
    limit: int | None = None
    again: bool = False
    progress: str | None = None


@dataclass(slots=True)
class Outcome:
    """What became of the letters of one topic. sent: by target topic. left: (partition, offset, why) of what could not be sent back."""

    topic: str
    sent: Counter[str] = field(default_factory=Counter)
    other: int = 0
    """Not selected, and not sent back before."""
    left: list[tuple[int, int, str]] = field(default_factory=list)
    first_time: bool = False
    """No earlier run is remembered."""
    complete: bool = True
    """False: it ended at the limit."""

    @property
    def count(self) -> int:
        """How many were sent back."""
        return sum(self.sent.values())


@dataclass(frozen=True, slots=True)
class Found:
    """A record of a dead letter topic: its letter (None: it is none), and whether that was sent back."""

    partition: int
    offset: int
    letter: Letter | None
    sent_back: bool


Watch = Callable[[Letter, Outgoing], None]
"""Told of each letter that is (or would be) sent."""
Progressed = Callable[[Outcome], None]
"""Told after each transaction."""


class _Box:
    """One dead letter topic, opened: its reader, its bounds as of now, and its progress."""

    def __init__(self, user: Mapping[str, Any], topic: str, group: str) -> None:
        self.topic = topic
        self.group = group
        self.user = user
        self.reader = TopicReader(user, topic, group)
        self._counts: dict[str, int] = {}
        self.bounds: dict[int, tuple[int, int]] = {}
        self.done: dict[int, Done] = {}
        self.remembered = False

    def __enter__(self) -> _Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0: it does not exist."""
        if topic not in self._counts:
            self._counts[topic] = self.reader.partitions(topic, TIMEOUT)
        return self._counts[topic]

    def exists(self) -> None:
        """Raises SwarmError where the topic is not there."""
        self._counts[self.topic] = self.reader.partitions(self.topic, FIRST_TIMEOUT)
        if not self._counts[self.topic]:
            raise SwarmError(
                f"there is no topic {self.topic}.\n"
                "Give the dead letter topic with --topic, or mend dead_letter= of the subscription."
            )

    def look(self, *, again: bool) -> None:
        """Take in how far the topic reaches and what is done in it. `again`: progress that makes no sense is as good as none."""
        count = self.partitions(self.topic)
        self.bounds = {number: self.reader.bounds(number, TIMEOUT) for number in range(count)}
        for number, (offset, metadata) in self.reader.committed(count, TIMEOUT).items():
            low, high = self.bounds[number]
            self.remembered = self.remembered or offset >= 0
            try:
                done = self._read_progress(number, offset, metadata, high)
            except SwarmError:
                if not again:
                    raise
                done = Done()
            done.add(0, low)  # what retention has removed
            self.done[number] = done

    def _read_progress(self, number: int, offset: int, metadata: str, high: int) -> Done:
        if offset > high:
            raise SwarmError(
                f"{self.topic}/{number} ends at {high}, but group {self.group} remembers letters up to {offset}.\n"
                "The topic was made anew, or has lost its end. --again starts over."
            )
        try:
            return Done.decode(offset, metadata)
        except ValueError as error:
            raise SwarmError(
                f"group {self.group}: its metadata for {self.topic}/{number} are {error}.\n"
                "Give another name with --progress; --again starts over."
            ) from None

    def records(self, *, everything: bool) -> Iterator[tuple[Any, Done]]:
        """The records in order, each with its partition's progress; where offsets hold nothing, that is noted as done."""
        spans = {
            number: (low if everything else max(low, self.done[number].frontier()), high)
            for number, (low, high) in self.bounds.items()
        }
        upto = {number: start for number, (start, _) in spans.items()}
        for chunk in self.reader.read(spans, TIMEOUT):
            for raw in chunk:
                number, offset = raw.partition(), raw.offset()
                done = self.done[number]
                done.add(upto[number], offset)
                upto[number] = offset + 1
                yield raw, done

    def positions(self) -> dict[int, tuple[int, str]]:
        """What to commit. SwarmError where a broker could not keep it."""
        positions = {number: done.encode() for number, done in self.done.items()}
        for number, (_, metadata) in positions.items():
            if len(metadata) > LONGEST_METADATA:
                raise SwarmError(
                    f"{self.topic}/{number}: what was sent back has too many gaps to be remembered (the broker keeps "
                    f"{LONGEST_METADATA} bytes, needed: {len(metadata)}).\n"
                    "Nothing of this step was sent. Choose with --offsets instead, or in smaller portions with --limit."
                )
        return positions


def look_through(user: Mapping[str, Any], topic: str, selection: Selection, progress: str | None) -> Iterator[Found]:
    """Every record that is there now: letters that are selected, and what is no letter. Changes nothing; raises SwarmError."""
    group = progress or progress_group(topic)
    with _ReadableErrors(user, topic, group) as errors, _Box(user, topic, group) as box:
        errors.reader = box.reader
        box.exists()
        box.look(again=False)
        before = {number: Done(done.ranges) for number, done in box.done.items()}
        for raw, _ in box.records(everything=True):
            letter = read_letter(raw)
            if letter is None or selection.takes(letter):
                yield Found(raw.partition(), raw.offset(), letter, raw.offset() in before[raw.partition()])


def rehearse(user: Mapping[str, Any], topic: str, wish: Wish, watch: Watch) -> Outcome:
    """What `replay` would do now, told letter by letter; sends nothing, changes nothing. Raises SwarmError."""
    group = wish.progress or progress_group(topic)
    with _ReadableErrors(user, topic, group) as errors, _Box(user, topic, group) as box:
        errors.reader = box.reader
        box.exists()
        box.look(again=wish.again)
        outcome = Outcome(topic, first_time=not box.remembered)
        for letter, message in _chosen(box, wish, outcome):
            watch(letter, message)
            outcome.sent[message.topic] += 1
        return outcome


def replay(user: Mapping[str, Any], topic: str, wish: Wish, watch: Watch, progressed: Progressed) -> Outcome:
    """Send letters of `topic` back, those that are there when it begins; returns when the broker has confirmed all of it.

    user: `[kafka]`. Raises SwarmError; what was told to `progressed` stays sent, and a repeated call goes on behind it.
    """
    group = wish.progress or progress_group(topic)
    with _ReadableErrors(user, topic, group) as errors, _Box(user, topic, group) as box:
        errors.reader = box.reader
        box.exists()
        properties = {"transaction.timeout.ms": _TIMEOUT_MS, **producer_properties(user)}
        sender = TransactionalSender(properties, group)
        # Before the progress is read: what an earlier run has left open is ended by this, so what is read is the last word.
        sender.take_over(TIMEOUT)
        box.look(again=wish.again)
        outcome = Outcome(topic, first_time=not box.remembered)
        waiting: Counter[str] = Counter()
        size = 0

        def commit() -> None:
            nonlocal size
            sender.commit(topic, box.positions(), box.reader.membership(), TIMEOUT)
            outcome.sent.update(waiting)
            waiting.clear()
            size = 0

        try:
            for letter, message in _chosen(box, wish, outcome):
                errors.at = f"{letter.topic}/{letter.partition}@{letter.offset} to {message.topic}"
                sender.produce(
                    message.topic,
                    message.value,
                    message.key,
                    headers=list(message.headers),
                    partition=message.partition,
                    timestamp=message.timestamp,
                    label=errors.at,
                )
                errors.at = ""
                watch(letter, message)
                box.done[letter.partition].add(letter.offset)
                waiting[message.topic] += 1
                size += len(message.value or b"") + len(message.key or b"")
                if waiting.total() >= TRANSACTION or size >= TRANSACTION_BYTES:
                    commit()
                    progressed(outcome)
            commit()  # also with nothing new: Kafka counts the days until it forgets from here
        except BaseException:
            errors.at = errors.at or sender.refused
            sender.abort(TIMEOUT)
            errors.sent = outcome.count
            raise
        return outcome


def _chosen(box: _Box, wish: Wish, outcome: Outcome) -> Iterator[tuple[Letter, Outgoing]]:
    """The letters to send, each with its message; the others are counted."""
    chosen = 0
    for raw, done in box.records(everything=wish.again):
        if raw.offset() in done and not wish.again:
            continue
        letter = read_letter(raw)
        if letter is None:
            outcome.left.append((raw.partition(), raw.offset(), "it is no dead letter: no swarm.source.topic header"))
            continue
        if not wish.selection.takes(letter):
            outcome.other += 1
            continue
        target = wish.to or letter.source_topic
        partitions = box.partitions(target)
        if not partitions:
            outcome.left.append((letter.partition, letter.offset, f"topic {target} does not exist"))
            continue
        if wish.limit is not None and chosen >= wish.limit:
            outcome.complete = False
            return
        chosen += 1
        yield letter, outgoing(letter, target, partitions, by_key=wish.by_key, now=wish.now)


class _ReadableErrors:
    """A KafkaException within becomes a SwarmError that says what was tried, where, and what to do."""

    def __init__(self, user: Mapping[str, Any], topic: str, group: str) -> None:
        self._user = user
        self._topic = topic
        self._group = group
        self.reader: TopicReader | None = None
        self.at = ""
        """The letter in hand."""
        self.sent = 0

    def __enter__(self) -> _ReadableErrors:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, BufferError):
            text = "librdkafka's queue stayed full for 60 s"
        elif isinstance(error, KafkaException):
            failure = error.args[0]
            text = f"{failure.name()}: {failure.str()}"
            if failure.name() in {"_TRANSPORT", "_TIMED_OUT", "_ALL_BROKERS_DOWN", "_MSG_TIMED_OUT"}:
                servers = redact({"bootstrap.servers": self._user.get("bootstrap.servers", "")})["bootstrap.servers"]
                last = self.reader.last_error if self.reader is not None else None
                text = f"no answer from the cluster at {servers}: {last.str() if last is not None else failure.str()}"
            elif failure.name() in {"_FENCED", "_FATAL", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED"}:
                self.at = ""  # librdkafka says _FATAL where it was fenced before
                text = f"another replay of {self._topic} has begun, and goes on with it"
            elif failure.name().endswith("AUTHORIZATION_FAILED"):
                text += (
                    f"\nIt needs the group and the transactional id {self._group}; --progress gives them another name"
                )
        else:
            return
        where = f"{self.at}: " if self.at else f"{self._topic}: "
        after = (
            f"\n{counted(self.sent, 'letter')} {plural(self.sent, 'was', 'were')} sent back before. Repeated, it goes on where it was."
            if self.sent
            else ""
        )
        raise SwarmError(f"{where}{text}.{after}") from None
