"""Feed messages to an application's handlers, in this process and thread, and see what they did. Knows no Kafka.

What runs is the worker's own code: batching, retries, dead letters, marks, transactions, flow options. What stands around it is
not there: no broker, no threads, no clock (a wait of an hour is over at once).

Not simulated, so not proved by it: rebalances in the middle of a run, a worker's death, brokers that are away or refuse a commit,
time limits of jobs, slices of virtual partitions that really run at once, hooks before and after the fork, listeners. For those
there is `swarm_daemon` (`swarm.testing.plugin`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from confluent_kafka import Message as RawMessage

from swarm import events
from swarm.app import App
from swarm.testing.fakes import FakeKafka, Place, Produced
from swarm.testing.ranges import Ranges
from swarm.testing.stage import EPOCH, Stage


@dataclass(frozen=True, slots=True)
class Fed:
    """A message to feed; see `message`."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    partition: int
    offset: int | None
    timestamp: float | None


def message(
    topic: str = "test",
    value: str | bytes | None = None,
    *,
    key: str | bytes | None = None,
    headers: Mapping[str, str | bytes | None] | Iterable[tuple[str, str | bytes | None]] = (),
    partition: int = 0,
    offset: int | None = None,
    timestamp: float | None = EPOCH,
) -> Fed:
    """A message for `feed`.

    offset: default: the one after the last of its partition, from 0. timestamp: seconds since the epoch (the clock of a feed begins
    at `swarm.testing.EPOCH`); None: the record has none.
    """
    given = headers.items() if isinstance(headers, Mapping) else headers
    return Fed(
        topic,
        _bytes(value),
        _bytes(key),
        tuple((name, _bytes(text)) for name, text in given),
        partition,
        offset,
        timestamp,
    )


@dataclass(frozen=True, slots=True)
class Run:
    """A handler was called with `count` messages, from `first_offset` to `last_offset`."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    count: int
    attempt: int


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A message that was set aside, and the letter that says so."""

    topic: str
    partition: int
    offset: int
    attempts: int
    error: str
    letter: Produced


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the messages that were fed.

    marked: (topic, partition) -> the next offset below which everything is done. With several groups: of the one that is furthest
        behind; `committed` has all.
    committed: (group, topic, partition) -> next offset that the broker would hold.
    produced: what handlers produced, in that order, without dead letters; of transactions what was committed.
    raised: each exception of a handler, once per attempt.
    runs: each call of a handler.
    skipped: (topic, partition, offset) that no handler saw, by a filter or an age; dropped: those given up without a letter.
    paused: (topic, partition, seconds) and sought: (topic, partition, offset), as handlers asked.
    seconds: how long it would have taken, by its waits. settled: False where it was not over within the time that it was given.
    """

    marked: dict[Place, int]
    committed: dict[tuple[str, str, int], int]
    produced: list[Produced]
    dead_letters: list[DeadLettered]
    raised: list[BaseException]
    runs: list[Run]
    skipped: list[tuple[str, int, int]]
    dropped: list[tuple[str, int, int]]
    paused: list[tuple[str, int, float]]
    sought: list[tuple[str, int, int]]
    events: list[events.Event]
    seconds: float
    settled: bool
    fed: dict[Place, list[int]] = field(repr=False, default_factory=dict)

    @property
    def done(self) -> set[tuple[str, int, int]]:
        """(topic, partition, offset) of every message that is done."""
        return {
            (*place, offset) for place, offsets in self.fed.items() for offset in offsets if offset < self.marked[place]
        }

    @property
    def left(self) -> set[tuple[str, int, int]]:
        """The same of those that are not: they would be handled again."""
        return {(*place, offset) for place, offsets in self.fed.items() for offset in offsets} - self.done


def feed(
    handler: App | Callable[..., Any],
    messages: Iterable[Fed],
    *,
    each: bool = False,
    end: Literal["stop", "revoke", "lose"] = "stop",
    within: float = 3600.0,
    refusing: Collection[str] = (),
    committed: Mapping[tuple[str, str, int], int] | None = None,
    **options: Any,
) -> Outcome:
    """Feed messages to an App, or to a Consumer class or function with the `options` of a subscription; returns what came of it.

    Returns when everything is done or waits for nothing, or when `within` seconds are over on its clock: a handler that fails and
    has no dead letter topic is tried again for ever.

    each: a function takes one message (`app.each`). end: what happens at the end: a graceful stop, or the partitions are taken or
    lost. refusing: topics to which nothing can be delivered. committed: where groups stand before.
    Raises ConfigurationError as the App would. Blocks only where the handler does.
    """
    fed = list(messages)
    if isinstance(handler, App):
        if options or each:
            raise TypeError("feed(app, …) takes the options from the app: give them to its subscriptions")
        app = handler
    else:
        app = App("test")
        topics = sorted({each_.topic for each_ in fed}) or ["test"]
        declare = app.each if each else app.subscribe
        declare(*topics, **options)(handler)
    kafka = FakeKafka(refusing)
    kafka.committed.update(committed or {})
    _fill(kafka, fed, app)
    stage = Stage(app, kafka, within)
    try:
        stage.assign()
        settled = stage.settle()
        {"stop": stage.stop, "revoke": stage.revoke, "lose": stage.lose}[end]()
    finally:
        stage.close()
    return _outcome(stage, kafka, settled, before=dict(committed or {}))


def _fill(kafka: FakeKafka, fed: Iterable[Fed], app: App) -> None:
    nexts: dict[Place, int] = {}
    for each in fed:
        place = (each.topic, each.partition)
        if not any(plan.matches(each.topic) for plan in app.plans):
            raise ValueError(f"message for {each.topic}: no subscription reads that topic")
        offset = nexts.get(place, 0) if each.offset is None else each.offset
        if offset < nexts.get(place, 0):
            raise ValueError(f"message {offset} of {each.topic}/{each.partition}: offsets only grow")
        nexts[place] = offset + 1
        kafka.logs.setdefault(place, []).append(
            RawMessage(
                topic=each.topic,
                partition=each.partition,
                offset=offset,
                key=each.key,
                value=each.value,
                headers=list(each.headers) or None,
                timestamp=(0, -1) if each.timestamp is None else (1, round(each.timestamp * 1000)),
            )
        )


def _outcome(stage: Stage, kafka: FakeKafka, settled: bool, before: Mapping[tuple[str, str, int], int]) -> Outcome:
    said = stage.events
    letters = [each for each in kafka.produced if each.header("swarm.source.offset") is not None]
    dead: list[DeadLettered] = []
    for event in said:
        if isinstance(event, events.MessageDeadLettered):
            origin = (event.topic, str(event.partition), str(event.offset))
            names = ("swarm.source.topic", "swarm.source.partition", "swarm.source.offset")
            letter = next(each for each in letters if tuple(map(each.header, names)) == origin)
            dead.append(DeadLettered(event.topic, event.partition, event.offset, event.attempts, event.error, letter))
    fed = {place: [each.offset() or 0 for each in log] for place, log in kafka.logs.items()}
    marked = {
        place: min(
            kafka.committed.get((group.name, *place), before.get((group.name, *place), fed[place][0]))
            for group in stage.groups
            if any(plan.matches(place[0]) for plan in group.plans)
        )
        for place in fed
    }
    return Outcome(
        marked=marked,
        committed=dict(kafka.committed),
        produced=[each for each in kafka.produced if each not in letters],
        dead_letters=dead,
        raised=list(stage.raised),
        runs=[
            Run(each.topic, each.partition, each.first_offset, each.last_offset, each.count, each.attempt)
            for each in said
            if isinstance(each, events.BatchStarted)
        ],
        skipped=_each_offset(said, events.MessagesSkipped, fed),
        dropped=_each_offset(said, events.MessageDropped, fed),
        paused=stage.pauses,
        sought=stage.seeks,
        events=said,
        seconds=stage.seconds,
        settled=settled,
        fed=fed,
    )


def _each_offset(
    said: Iterable[events.Event],
    kind: type[events.MessagesSkipped] | type[events.MessageDropped],
    fed: Mapping[Place, list[int]],
) -> list[tuple[str, int, int]]:
    found: dict[Place, Ranges] = {}
    for each in said:
        if isinstance(each, kind):
            place = (each.topic, each.partition)
            found.setdefault(place, Ranges()).add(each.first_offset, each.last_offset + 1)
    return [
        (*place, offset)
        for place, ranges in found.items()
        for offset in fed[place]
        if not ranges.gaps(offset, offset + 1)
    ]


def _bytes(text: str | bytes | None) -> bytes | None:
    return text.encode() if isinstance(text, str) else text
