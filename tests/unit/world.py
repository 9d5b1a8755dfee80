"""A random life of an application on a stage, and what must be true of it: an oracle that knows the promises and none of the rules.

A world draws a log, failures and accidents from its seed. Its handler notes what it sees; its broker notes what is committed,
produced and dead-lettered. The judgements compare the two with each other and with what was drawn, never with a lane's state.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError

from swarm import Backoff, Consumer, DeadLetter, Message, Messages, VirtualPartitions
from swarm.errors import ConfigurationError
from swarm.events import BatchConsumed, BatchStarted, Event, MessageDropped
from swarm.plan import Plan, RateLimit, make_plan
from tests.unit.stage import TOPIC, WALL, Broker, Stage, record

MAX_ATTEMPTS = {"none": 0, "one": 1, "three": 3, "decide": 3}


@dataclass(frozen=True)
class Combination:
    """What an application may ask for together, or may not."""

    delivery: str
    offsets: str
    each: bool
    letters: str = "none"
    virtual: bool = False
    long_running: bool = False
    asynchronous: bool = False

    def __str__(self) -> str:
        on = [name for name in ("each", "virtual", "long_running", "asynchronous") if getattr(self, name)]
        return " ".join([self.delivery, self.offsets, f"letters={self.letters}", *on])

    @property
    def legal(self) -> bool:
        """A transaction belongs to one thread."""
        return self.delivery != "exactly_once" or not (self.virtual or self.asynchronous)


def all_combinations() -> list[Combination]:
    """Every one, legal or not."""
    booleans = (False, True)
    return [
        Combination(*those)
        for those in itertools.product(
            ("at_least_once", "at_most_once", "exactly_once"),
            ("automatic", "manual"),
            booleans,
            tuple(MAX_ATTEMPTS),
            booleans,
            booleans,
            booleans,
        )
    ]


class Failure(Exception):
    """What a handler of these worlds raises."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Unsure:
    """A filter's answer that cannot be read."""

    def __bool__(self) -> bool:
        raise Failure("poison")


def decide(error: BaseException, attempt: int) -> Any:
    """What the application says, by the kind of failure."""
    match getattr(error, "kind", ""):
        case "skip":
            return "skip"
        case "now":
            return "dead_letter"
        case "late":
            return "retry" if attempt < 2 else "dead_letter"
        case "odd":
            return "whatever"
        case "mute":
            raise Failure("decider")
    return None


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that waits for nothing to its end."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        return end.value


Place = tuple[int, int]
"""A partition and an offset."""


class World:
    """One life of one combination, drawn from one seed."""

    def __init__(self, combination: Combination, seed: int) -> None:
        self.of = combination
        self.random = chance = random.Random(f"{combination}/{seed}")
        self.exactly_once = combination.delivery == "exactly_once"
        self.at_most_once = combination.delivery == "at_most_once"
        self.manual = combination.offsets == "manual"
        self.attempts = MAX_ATTEMPTS[combination.letters]
        self.graceful = chance.random() < 0.3
        """No accident that repeats anything."""

        def happens(probability: float, *, rough: bool = True) -> bool:
            return chance.random() < probability and not (rough and self.graceful)

        self.losses, self.crashes, self.pauses = happens(0.4), happens(0.2), happens(0.4)
        self.seeks, self.undecided = happens(0.2), happens(0.4)
        self.rewinds = happens(0.2)
        """It marks an older message after a newer one."""
        self.rebalances = happens(0.5, rough=False)
        self.refusals = happens(0.4, rough=False)
        self.marks = self.manual or happens(0.4, rough=False)
        self.own = (
            not self.exactly_once
            and not combination.virtual
            and not combination.asynchronous
            and happens(0.3, rough=False)
        )
        """The handler makes transactions of its own."""
        self.produces = self.exactly_once or self.own or happens(0.5, rough=False)
        self.undelivered = self.produces and not self.own and not self.exactly_once and happens(0.4)
        self.aborts = (self.exactly_once or self.own) and happens(0.6, rough=False)
        self.whole = not self.manual or chance.random() < 0.6 or self.own
        """Manual offsets: each run marks all that it did."""
        self._draw_logs(chance)
        self.options = self._draw_options(chance)

        self.broker = Broker()
        self.broker.logs = {(TOPIC, number): log for number, log in enumerate(self.logs)}
        self.broker.make = self.make
        self.broker.on_commit = self.check_commit
        self.broker.on_letter = self.meanwhile
        self.broker.on_seek = self.note_seek
        self.broker.on_undelivered = self.note_undelivered
        self.broker.letter_failures = chance.choice([0, 0, 1, 3])
        self.events: list[Event] = []
        self._heard = 0
        self.begun: Counter[Place] = Counter()
        self.handled: Counter[Place] = Counter()
        self.raised: Counter[tuple[int, Place]] = Counter()
        """By lane: so often the handler raised at this message."""
        self.done: set[Place] = set()
        """What the application has said to be done, or what its return says."""
        self.passed: set[Place] = set()
        """What a run has returned from, or was done."""
        self.kept: set[tuple[int, Place]] = set()
        """By lane: what was marked, and is not to be seen again."""
        self.told: Counter[Place] = Counter()
        """Said to be dropped."""
        self.ever_raised: set[Place] = set()
        self.jumped: set[Place] = set()
        self.recalled: set[Place] = set()
        """Done once, and asked for again."""
        self.wished: set[Place] = set()
        self.owed: set[Place] = set()
        """Wishes that no seek has granted yet."""
        self.replays: Counter[Place] = Counter()
        self.unlucky: set[Place] = set()
        """Their output was once not delivered."""
        self.texts: dict[str, Place] = {}
        self.last_text: dict[int, str] = {}
        self.busy: dict[int, list[set[Any]]] = {number: [] for number in range(len(self.logs))}
        """By partition: the keys of each job that runs."""
        self.level = 0.0
        self.level_at = 0.0
        self.calm = False
        self.sought = False
        """The handler went elsewhere: with `seek`, or with a pause."""
        self.release: list[int] = []
        self.wrong: list[str] = []
        self.lanes: list[Any] = []
        self.stage: Stage

    # -- what is drawn -----------------------------------------------------------------------------------------------

    def _draw_logs(self, chance: random.Random) -> None:
        self.logs: list[list[int]] = []
        self.keys: dict[Place, bytes | None] = {}
        self.kinds: dict[Place, str] = {}
        self.left: dict[Place, int] = {}
        self.filtered: set[Place] = set()
        self.expired: set[Place] = set()
        self.born: dict[Place, float] = {}
        """Seconds after the beginning."""
        may_fail_always = self.attempts > 0 or self.at_most_once
        kinds = ["poison"] * 3 + (["skip", "now", "late", "odd", "mute"] if self.of.letters == "decide" else [])
        self.filters = chance.random() < 0.3
        self.expires = chance.random() < 0.2
        self.delays = chance.random() < 0.2
        self.shares = self.exactly_once and chance.random() < 0.5
        for partition in range(chance.choice([2, 3]) if self.shares else chance.choice([1, 1, 2])):
            offset, log = 0, []
            flaky = 0
            for _ in range(chance.randint(1, 30)):
                offset += 1 if chance.random() < 0.8 else chance.randint(2, 5)
                log.append(offset)
                place = (partition, offset)
                self.keys[place] = chance.choice([None, b"a", b"b", b"c", b"d"])
                self.born[place] = chance.uniform(-40.0, 20.0)
                if self.filters and chance.random() < 0.25:
                    self.filtered.add(place)
                elif self.expires and chance.random() < 0.25:
                    self.expired.add(place)
                elif self.filters and may_fail_always and chance.random() < 0.05:
                    self.kinds[place] = "unfilterable"
                elif chance.random() < 0.15:
                    # A batch counts its attempts as a whole: two that fail now and then might be taken for one that always does.
                    fair = not self.undelivered and (self.of.each or not self.attempts or not flaky)
                    if may_fail_always and (chance.random() < 0.6 or self.attempts == 1 or not fair):
                        self.kinds[place] = chance.choice(kinds)
                    elif fair:
                        flaky += 1
                        self.kinds[place] = "flaky"
                        self.left[place] = chance.randint(1, max(1, self.attempts - 1) if self.attempts else 3)
            self.logs.append(log)

    def _draw_options(self, chance: random.Random) -> dict[str, Any]:
        options: dict[str, Any] = {
            "max_messages": chance.randint(1, 10),
            "max_wait": chance.choice([0.0, 0.0, 1.0]),
            "long_running": self.of.long_running,
            "delivery": self.of.delivery,
            "offsets": self.of.offsets,
            "each": self.of.each,
            "backoff": Backoff(initial=0.1, maximum=0.1, jitter=0.0),
        }
        if self.shares:
            options["transaction_partitions"] = chance.choice([2, 3])
        if self.of.letters != "none":
            options["dead_letter"] = DeadLetter("dead", self.attempts, decide if self.of.letters == "decide" else None)
        if self.of.virtual:
            options["virtual_partitions"] = VirtualPartitions(
                by=chance.choice(["key", lambda message: message.key, self.by]), maximum=chance.choice([None, 2, 3])
            )
        if self.filters:
            options["filter"] = self.wants
        if self.expires:
            options["expires_after"] = 1e6
        if self.delays:
            options["not_before"] = 30.0
        if chance.random() < 0.2:
            options["rate_limit"] = RateLimit(chance.randint(1, 8), chance.choice([0.5, 1.0, 2.0]))
        return options

    @property
    def poison(self) -> set[Place]:
        """What can never be handled."""
        return {place for place, kind in self.kinds.items() if kind != "flaky"}

    def plan(self) -> Plan:
        handler: Any = self.one if self.of.each else self.batch
        if self.of.asynchronous:
            handler = self.one_async if self.of.each else self.batch_async
        return make_plan(handler=handler, topics=(TOPIC,), **self.options)

    def make(self, offset: int, partition: int, topic: str) -> Any:
        place = (partition, offset)
        born = -2e6 if place in self.expired else self.born[place]
        return record(
            offset,
            partition,
            topic,
            key=self.keys[place],
            timestamp=(1, int((WALL + born) * 1000)),
            value=b"%d" % offset,
        )

    def by(self, message: Message) -> Any:
        """A partitioner with a bad day now and then: it raises, or its answer cannot be hashed."""
        if message.offset % 11 == 7:
            raise Failure("partitioner")
        return [] if message.offset % 13 == 5 else message.key

    def wants(self, message: Message) -> Any:
        """The filter."""
        place = (message.partition, message.offset)
        if self.kinds.get(place) == "unfilterable":
            if place[1] % 2:
                raise Failure("poison")
            return Unsure()
        return place not in self.filtered

    # -- the application ---------------------------------------------------------------------------------------------

    async def batch_async(self, messages: Messages, consumer: Consumer) -> None:
        await asyncio.sleep(0)
        self.batch(messages, consumer)

    async def one_async(self, message: Message, consumer: Consumer) -> None:
        await asyncio.sleep(0)
        self.one(message, consumer)

    def batch(self, messages: Messages, consumer: Consumer) -> None:
        places = [(message.partition, message.offset) for message in messages]
        with self.inside(places, consumer):
            if self.own:
                with consumer.transaction() as transaction:
                    self.work(messages, consumer, transaction.produce)
                    if consumer.mark_as_consumed(messages[-1]):
                        self.passed |= set(places)
                self.finish(places, consumer, marked=True)
                return
            self.work(messages, consumer, consumer.producer.produce if self.produces else None)
            if self.manual:
                self.mark(consumer, messages, len(messages))
            self.finish(places, consumer)

    def work(self, messages: Messages, consumer: Consumer, produce: Callable[..., None] | None) -> None:
        for number, message in enumerate(messages):
            self.meanwhile(consumer)
            if produce is not None:
                produce("out", (message.partition, message.offset))
            if self.fails(message, consumer):
                if self.marks and not self.own and self.maybe(True, 0.5):
                    self.mark(consumer, messages, number)
                raise Failure(self.kinds[(message.partition, message.offset)])
            if self.marks and not self.own and not self.manual and self.maybe(True, 0.1):
                self.mark(consumer, messages, number + 1)
            if not self.exactly_once and not self.own and self.maybe(True, 0.05):
                consumer.commit()

    def one(self, message: Message, consumer: Consumer) -> None:
        place: Any = (message.partition, message.offset)
        with self.inside([place], consumer):
            if not (self.of.virtual or self.exactly_once or self.undelivered or self.sought or self.undecided):
                truth = self.raised[(self.lane_of(consumer), place)] + 1
                said = (message.attempt, consumer.attempt)
                self.expect(said == (truth, truth), f"attempt {truth} of {place} is called {said}")
            self.meanwhile(consumer)
            if self.own:
                with consumer.transaction() as transaction:
                    transaction.produce("out", value=place)
                    if self.fails(message, consumer):
                        raise Failure(self.kinds[place])
                    self.meanwhile(consumer)
                    if consumer.mark_as_consumed(message):
                        self.passed.add(place)
                self.finish([place], consumer, marked=True)
                return
            if self.produces:
                consumer.producer.produce("out", value=place)
            if self.fails(message, consumer):
                raise Failure(self.kinds[place])
            if self.manual and (self.whole or self.calm or self.random.random() < 0.5):
                self.say_done(consumer, [message], 0)
            if not self.exactly_once and self.maybe(True, 0.05):
                consumer.commit()
            self.finish([place], consumer)

    @contextmanager
    def inside(self, places: list[Place], consumer: Consumer) -> Iterator[None]:
        partition = places[0][0]
        keys = {self.keys[place] for place in places}
        jobs = self.busy[partition]
        together = not jobs or (self.of.virtual and not any(keys & other for other in jobs))
        self.expect(together, f"two jobs at once at {places}")
        self.begin(places, consumer)
        jobs.append(keys)
        try:
            yield
        finally:
            jobs.remove(keys)

    def begin(self, places: list[Place], consumer: Consumer) -> None:
        partition = places[0][0]
        offsets = [offset for _, offset in places]
        self.expect(offsets == sorted(set(offsets)), f"out of order: {offsets}")
        unseen = set(places) & (self.filtered | self.expired)
        self.expect(not unseen, f"the handler sees {unseen}, which should have been skipped")
        if self.delays:
            early = [place for place in places if self.stage.wall < WALL + self.born[place] + 30.0 - 0.01]
            self.expect(not early, f"before its time: {early}")
        self._rate(len(places))
        self._hear()
        settled = self.passed | self.filtered | self.expired | self.letters | set(self.dropped) | self.jumped
        if self.at_most_once:
            settled |= set(self.begun)
            held = self.broker.committed.get((TOPIC, partition), 0)
            self.expect(held > offsets[-1], f"at-most-once: {offsets} run while {held} is committed")
            again = [place for place in places if self.begun[place] > self.replays[place]]
            self.expect(not again, f"at-most-once repeats {again}")
        for place in places if not (self.at_most_once and (self.crashes or self.sought)) else ():
            for other in self.logs[partition]:
                if other >= place[1]:
                    break
                same = not self.of.virtual or self.keys[(partition, other)] == self.keys[place]
                if same and (partition, other) not in settled and other not in offsets:
                    self.expect(False, f"{place} runs before {other}")
        lane = self.lane_of(consumer)
        if not (self.undelivered or self.own or self.exactly_once or self.sought or self.undecided or self.rewinds):
            repeated = [place for place in places if (lane, place) in self.kept]
            self.expect(not repeated, f"marked, and repeated in the same assignment: {repeated}")
        self.begun.update(places)

    def _rate(self, count: int) -> None:
        limit: RateLimit | None = self.options.get("rate_limit")
        if limit is None:
            return
        now = self.stage.now
        self.level = max(0.0, self.level - (now - self.level_at) * limit.messages / limit.seconds) + count
        self.level_at = now
        # Twice, because what was let through may wait for a commit before it runs.
        self.expect(self.level <= 2 * limit.messages + 1e-6, f"faster than {limit}")

    def fails(self, message: Message, consumer: Consumer) -> bool:
        place = (message.partition, message.offset)
        kind = self.kinds.get(place)
        if kind is None or (kind == "flaky" and not self.left[place]):
            return False
        if kind == "flaky":
            self.left[place] -= 1
        times = (self.lane_of(consumer), place)
        self.raised[times] += 1
        self.ever_raised.add(place)
        if self.attempts and self.of.letters != "decide" and not (self.undecided or self.undelivered or self.sought):
            most = self.attempts
            if not self.of.each:
                most += 2 * math.ceil(math.log2(self.options["max_messages"] + 1)) + 2
            self.expect(self.raised[times] <= most, f"attempt {self.raised[times]} of {place}, at most {most} expected")
        return True

    def mark(self, consumer: Consumer, messages: Messages, end: int) -> None:
        """Mark some of what was done, perhaps the wrong way round."""
        if self.manual and (self.whole or self.calm):
            numbers = list(range(max(0, end - 1), end))
        else:
            numbers = sorted(self.random.sample(range(end), min(end, 2)))
            if self.rewinds and self.random.random() < 0.3:
                numbers.reverse()
        for number in numbers:
            self.say_done(consumer, list(messages), number)

    def say_done(self, consumer: Consumer, messages: list[Message], number: int) -> None:
        message = messages[number]
        partition, last = message.partition, message.offset
        text = None
        if self.random.random() < 0.3:
            text = f"text {len(self.texts)}"
            self.texts[text] = (partition, last)
        if not consumer.mark_as_consumed(message, text):
            return
        # The older of two marks rewinds the retry.
        lane = self.lane_of(consumer)
        self.kept = {(at, place) for at, place in self.kept if at != lane or place <= (partition, last)}
        if text is not None:
            self.last_text[partition] = text
        if self.of.virtual:  # it speaks for the messages of its slice
            part = consumer._slice()
            records = consumer._lane.batch if part is None else part.records
            places = [(partition, other.offset()) for other in records if other.offset() <= last]
        else:
            places = [(partition, other) for other in self.logs[partition] if other <= last]
        self._note_done(places, consumer)

    def _note_done(self, places: list[Place], consumer: Consumer) -> None:
        self.done.update(places)
        self.passed.update(places)
        lane = self.lane_of(consumer)
        self.kept.update((lane, place) for place in places)
        for place in places:
            self.raised[(lane, place)] = 0

    def finish(self, places: list[Place], consumer: Consumer, *, marked: bool = False) -> None:
        """The handler returns: what that says, or what it wishes instead."""
        partition = places[0][0]
        if marked:
            self.done.update(places)
        for place in places:
            self.raised[(self.lane_of(consumer), place)] = 0
        if self.pauses and self.maybe(True, 0.1):
            if (
                self.exactly_once
            ):  # what it has produced is committed with the run: unmarked, it would be produced twice
                consumer._lane.mark(places[-1][1])
                self._note_done(places, consumer)
            if not self.at_most_once and self.random.random() < 0.2:
                target = self.random.choice(places)[1]
                self._note_wish(partition, target)
                consumer.pause(1.0, target)
            else:
                consumer.pause(self.random.choice([0.0, 1.0, 10.0]))
            if not self.at_most_once:
                return
        elif self.seeks and self.maybe(True, 0.08):
            target = self.random.choice(self.logs[partition] + [places[-1][1] + 1])
            self._note_wish(partition, target)
            if self.exactly_once:
                consumer._lane.mark(places[-1][1])
                self._note_done(places, consumer)
            consumer.seek(target)
            return
        self.handled.update(places)
        self.passed.update(places)
        if not self.manual:
            self._note_done(places, consumer)

    def _note_wish(self, partition: int, target: int) -> None:
        self.sought = True
        self.wished.add((partition, target))
        self.owed.add((partition, target))
        self.jumped |= {(partition, other) for other in self.logs[partition] if other < target}

    def lane_of(self, consumer: Consumer) -> int:
        """A number for the assignment."""
        lane = consumer._lane
        if lane not in self.lanes:
            self.lanes.append(lane)
        return self.lanes.index(lane)

    def expect(self, holds: bool, otherwise: str) -> None:
        """An assertion inside a handler: to raise there would only be a failed attempt."""
        if not holds:
            self.wrong.append(otherwise)

    def maybe(self, may: bool, chance: float) -> bool:
        return may and not self.calm and self.random.random() < chance

    # -- the group and the broker ------------------------------------------------------------------------------------

    def meanwhile(self, consumer: Consumer | None = None) -> None:
        """Other threads, in the middle of a handler or of a dead letter's delivery."""
        if self.calm or self.random.random() > 0.15 or self.release:
            return
        partition = consumer.partition if consumer is not None else self.random.randrange(len(self.logs))
        match self.random.choice(["commit", "poll", "revoke", "lose", "help", "quiet"]):
            case "commit":
                self.commit()
            case "poll":
                self.stage.poll(self.random.randint(1, 10))
            case "revoke" if self.rebalances and self.losses and self.of.long_running:
                self.stage.revoke(partition)
                self.assign(partition)
            case "revoke" if self.rebalances and not self.of.long_running:
                self.stage.group._begin_release([(TOPIC, partition)], "revoked")
                self.release.append(partition)
            case "lose" if self.losses:
                self.lose(partition)
            case "help":
                self.stage.help()
            case "quiet":
                self.stage.quiet(not self.stage.dispatcher.quiet)
            case _:
                pass

    def commit(self) -> None:
        if self.maybe(self.refusals, 0.3):
            self.broker.refuse = KafkaError(KafkaError.ILLEGAL_GENERATION)
        assert self.stage.group._client is not None
        self.stage.group.commits.send(self.stage.group._client)

    def note_seek(self, key: tuple[str, int], offset: int) -> None:
        """What lies ahead is to be done again."""
        ahead = {(key[1], other) for other in self.logs[key[1]] if other >= offset}
        if (key[1], offset) in self.wished:
            self.replays.update(ahead)
        self.owed.discard((key[1], offset))
        self.recalled |= ahead & self.done
        self.done -= ahead
        self.passed -= ahead

    def note_undelivered(self, value: Any) -> None:
        self.unlucky.add(value)

    @property
    def letters(self) -> set[Place]:
        return set(self.broker.letters_from)

    @property
    def delivered(self) -> Counter[Place]:
        return Counter(value for _, value in self.broker.outputs)

    @property
    def dropped(self) -> Counter[Place]:
        """Said to be; exactly-once: or to be skipped, which is said once it is committed, and not where that was not heard."""
        skipped = (
            [p for p in self.ever_raised if self.kinds[p] == "skip" and p not in self.told] if self.exactly_once else []
        )
        return self.told + Counter(skipped)

    def _hear(self) -> None:
        """Take in what was said since the last time."""
        while self._heard < len(self.events):
            event = self.events[self._heard]
            self._heard += 1
            if isinstance(event, MessageDropped):
                self.told.update(
                    (event.partition, offset)
                    for offset in self.logs[event.partition]
                    if event.first_offset <= offset <= event.last_offset
                )

    def check_commit(self, key: tuple[str, int], offset: int) -> None:
        partition = key[1]
        text = self.broker.metadata.get(key)
        if text and not self.sought and not self.of.virtual:
            place = self.texts[text]
            self.expect(place[0] == partition and place[1] < offset, f"{text!r} of {place} beside {offset}")
        if self.at_most_once:
            return
        self._hear()
        settled = self.letters | self.filtered | self.expired | set(self.dropped) | self.jumped
        delivered = self.delivered
        for other in self.logs[partition]:
            place = (partition, other)
            if other >= offset:
                break
            if place in settled or (self.exactly_once and delivered[place]):
                continue
            self.expect(place in self.done or self.own, f"commit {offset} passes {other}, which is not done")
            self.expect(not self.produces or delivered[place] > 0, f"commit {offset} passes the output of {other}")

    # -- its course --------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Live, and be judged: AssertionError says what was broken."""
        plan = self.plan()
        self._take_stage(plan, 1000.0)
        try:
            for partition in range(len(self.logs)):
                self.assign(partition)
            for _ in range(self.random.randint(5, 60)):
                self.act()
            self.calm = True
            self.broker.refuse = None
            self.broker.abort_next = self.broker.absent_next = self.broker.output_failures = 0
            self.broker.undecided_next.clear()
            while self.release:
                self.rebalance(self.release[0])
            self.stage.quiet(False)
            self.stage.settle()
            self.stage.stop()
            self.judge()
            self.restart()
            self.stage.settle()
            self.stage.stop()
            self.judge_after_restart()
        finally:
            self.stage.close()

    def _take_stage(self, plan: Plan, now: float) -> None:
        self.stage = Stage(plan, self.broker, self.events, now)
        for processor in (self.stage.processor, self.stage.helper):
            processor._runtime.wait_async = drive  # turns may stand within turns, and event loops may not

    def act(self) -> None:
        stage = self.stage
        partition = self.random.randrange(len(self.logs))
        if self.release and not any(self.busy.values()):
            self.rebalance(self.release[0])
        acts = [
            "poll",
            "work",
            "work",
            "work",
            "work",
            "commit",
            "time",
            "rebalance",
            "lose",
            "crash",
            "quiet",
            "broker",
        ]
        match self.random.choice(acts):
            case "poll":
                stage.poll(self.random.randint(1, 10))
            case "work":
                stage.step()
            case "commit":
                self.commit()
            case "time":
                stage.now += self.random.choice([0.05, 1.0, 10.0])
            case "rebalance" if self.rebalances:
                self.rebalance(partition)
            case "lose" if self.losses:
                self.lose(partition)
            case "crash" if self.crashes and self.random.random() < 0.5:
                self.restart()
            case "quiet":
                stage.quiet(not stage.dispatcher.quiet)
            case "broker":
                if self.undelivered:
                    self.broker.output_failures = self.random.choice([0, 1, 2])
                if self.aborts:
                    self.broker.abort_next = self.random.choice([0, 1, 2])
                    self.broker.absent_next = self.random.choice([0, 0, 1, 2])
                if self.undecided and self.random.random() < 0.5:
                    self.broker.undecided_next = [self.random.random() < 0.5]
            case _:
                pass

    def assign(self, partition: int) -> None:
        """Somebody takes it, and begins at what is committed: that may be where a handler wished to go when it was taken."""
        start = self.broker.committed.get((TOPIC, partition), 0)
        for wish in [each for each in self.owed if each[0] == partition]:
            self.owed.remove(wish)
            if wish[1] == start:
                self.replays.update((partition, other) for other in self.logs[partition] if other >= start)
        self.stage.assign(partition)

    def rebalance(self, partition: int) -> None:
        self.stage.revoke(partition)
        self._forget_wishes()
        if partition in self.release:
            self.release.remove(partition)
        self.assign(partition)

    def lose(self, partition: int) -> None:
        self.stage.lose(partition)
        self._forget_wishes()
        self.assign(partition)

    def _forget_wishes(self) -> None:
        """Whoever takes over goes on at the committed offset: what the handler wished to see again is done all the same."""
        self.done |= self.recalled
        self.passed |= self.recalled
        self.recalled.clear()

    def restart(self) -> None:
        """The worker is killed, or was stopped; another one takes its place."""
        self._forget_wishes()
        self.release.clear()
        self.stage.close()
        self._take_stage(self.stage.group.plans[0], self.stage.now)
        self.level = 0.0
        for partition in range(len(self.logs)):
            self.assign(partition)

    # -- what must be true of it -------------------------------------------------------------------------------------

    def judge(self) -> None:
        """At the end of a worker that was stopped gracefully."""
        assert not self.wrong, self.wrong[0]
        self._hear()
        log = {(number, offset) for number, offsets in enumerate(self.logs) for offset in offsets}
        self._judge_dead_letters()
        if self.at_most_once:
            self._judge_at_most_once(log)
        else:
            self._judge_completeness(log)
        if self.exactly_once or self.own:
            self._judge_outputs()
        rough = self.of.virtual and self.rebalances and bool(self.kinds)  # what is done beyond the frontier is repeated
        rough |= (
            self.rewinds
            or self.losses
            or self.crashes
            or self.pauses
            or self.seeks
            or self.undecided
            or self.undelivered
        )
        if not rough and self.stage.events is self.events:
            self._judge_graceful(log)

    def _judge_dead_letters(self) -> None:
        counted = Counter(self.broker.letters_from)
        if self.at_most_once and not self.of.each:
            return  # of the whole batch, or slice, nobody knows which message failed
        if self.at_most_once and (self.own or self.undelivered):
            return  # what is done in a transaction that does not happen has failed
        suspects = self.poison | self.unlucky
        if self.at_most_once:
            suspects |= set(self.kinds)
        healthy = set(counted) - suspects
        assert not healthy, f"healthy messages were dead-lettered: {sorted(healthy)}"
        if self.of.letters == "decide":
            skipped = {place for place, kind in self.kinds.items() if kind == "skip"}
            assert not skipped & set(counted) - self.unlucky, (
                f"to be skipped, and dead-lettered: {skipped & set(counted)}"
            )
            if not self.at_most_once:
                wrongly = set(self.dropped) - skipped
                assert not wrongly, f"skipped although nobody said so: {sorted(wrongly)}"
        elif not self.at_most_once:
            assert not self.dropped, f"dropped: {sorted(self.dropped)}"
        if self.attempts > 1 and self.of.letters != "decide" and not self.at_most_once:
            tries = [int(headers["swarm.attempts"] or 0) for _, headers in self.broker.letters]
            assert min(tries, default=9) >= self.attempts, f"dead-lettered after {min(tries)} attempts"
            exact = self.of.each and not self.undelivered
            assert not exact or max(tries, default=0) <= self.attempts, f"dead-lettered after {max(tries)} attempts"

    def _judge_at_most_once(self, log: set[Place]) -> None:
        nowhere = log - set(self.begun) - self.letters - set(self.dropped) - self.filtered - self.expired - self.jumped
        assert self.crashes or self.sought or not nowhere, f"at-most-once lost without a word: {sorted(nowhere)}"
        if not self.sought:
            twice = [p for p, count in self.dropped.items() if count > 1 and self.kinds.get(p) != "unfilterable"]
            assert not twice, f"said twice to be dropped: {twice}"

    def _judge_completeness(self, log: set[Place]) -> None:
        settled = self.letters | self.filtered | self.expired | set(self.dropped) | self.jumped
        lost = log - set(self.handled) - self.done - settled - (set(self.delivered) if self.own else set())
        assert not lost, f"lost: {sorted(lost)}"
        if self.attempts and not self.jumped:
            unsettled = self.poison - self.letters - set(self.dropped)
            assert not unsettled, f"poison that is nowhere: {sorted(unsettled)}"
        if not self.manual and not self.sought:
            for number, offsets in enumerate(self.logs):
                held = self.broker.committed.get((TOPIC, number))
                assert held == offsets[-1] + 1, f"partition {number}: committed {held} of {offsets[-1] + 1}"

    def _judge_outputs(self) -> None:
        """Exactly once: each message's output is there as often as somebody asked for it, and that is once."""
        if self.at_most_once or (self.manual and not self.whole):
            return
        for place, count in self.delivered.items():
            assert count <= 1 + self.replays[place], f"output of {place} appears {count} times"
        assert not (set(self.delivered) & self.poison), "an output of a run that failed"
        if not self.sought:
            expected = {(n, o) for n, offsets in enumerate(self.logs) for o in offsets}
            expected -= self.letters | self.filtered | self.expired | set(self.dropped)
            assert set(self.delivered) == expected, f"no output of {sorted(expected - set(self.delivered))}"

    def _judge_graceful(self, log: set[Place]) -> None:
        """Failures, dead letters, quiet, refused commits, aborted transactions and rebalances repeat nothing that was done."""
        worked = log - self.filtered - self.expired
        if not self.manual or (self.whole and not self.of.virtual and self.of.letters == "none"):
            fewest = len(worked) - len(self.dropped) if self.at_most_once else len(worked)  # dropped at a revocation
            assert fewest <= self.stage.messages <= len(worked), f"`messages`: {self.stage.messages} of {len(worked)}"
        if not self.manual:
            for number in self.last_text:
                if not self.exactly_once and not self.of.virtual:
                    assert self.broker.metadata[(TOPIC, number)] == self.last_text[number], "not the last text"
            consumed = Counter[int]()
            started = 0
            for event in self.events:
                if isinstance(event, BatchConsumed):
                    consumed[event.partition] += event.count
                started += isinstance(event, BatchStarted)
            gone = self.letters | set(self.dropped)
            assert sum(consumed.values()) == len(worked - gone), (
                f"BatchConsumed tells of {sum(consumed.values())}, {len(worked - gone)} were consumed"
            )

    def judge_after_restart(self) -> None:
        """A successor has read what was left over."""
        assert not self.wrong, self.wrong[0]
        self._hear()
        if self.exactly_once or self.own:
            self._judge_outputs()


def refusal(combination: Combination, app_problems: Callable[..., list[Any]]) -> str:
    """What is said to a combination before anything runs; empty: nothing."""
    from swarm import App

    app = App("shop")
    handler: Any = World(combination, 0)
    function = handler.one if combination.each else handler.batch
    if combination.asynchronous:
        function = handler.one_async if combination.each else handler.batch_async
    options = dict(handler.options)
    del options["each"]
    try:
        (app.each if combination.each else app.subscribe)(TOPIC, **options)(function)
    except ConfigurationError as error:
        return str(error)
    return "\n".join(f"{where}: {what}. {fix}" for where, what, fix in app_problems(app, None))
