"""The balance of a chaos run: which invariant of the design was broken, where. Pure: from what handlers saw and what Kafka holds.

It is independent of what the swarm says of itself, with one exception: a message that was processed twice needs a cause, and
that cause has to be in the swarm's own log, of the worker that processed it first.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.evidence import Content, Fact, Log, Place, Said, Sample, source_of

LOST = "1 lost"
NOT_COMMITTED = "1 not committed in the end"
REPEATED = "2 repeated without a recorded cause"
DISORDER = "3 out of order"
TWO_AT_ONCE = "3 two jobs at once"
STRANGE = "4 another partition's message"
ONCE_TWICE = "5 at-most-once repeated"
ONCE_SKIPPED = "5 at-most-once skipped without a cause"
OUTPUT_MISSING = "6 output missing"
OUTPUT_DOUBLE = "6 output twice"
OUTPUT_DISORDER = "6 outputs out of order"
PASSED = "7 commit passed unprocessed"
WENT_BACK = "8 commit went back"
UNEXPLAINED_KILL = "9 stopped or killed without a reason"
LETTER_MISSING = "dead letter missing"
LETTER_HEALTHY = "dead letter of a healthy message"
DIED = "died by itself"
LEFT = "left running"
EXIT = "wrong exit code"
SAID_STRANGELY = "a log line that is none"
LATE = "did not catch up"

INVARIANTS = (
    *(LOST, NOT_COMMITTED, REPEATED, DISORDER, TWO_AT_ONCE, STRANGE, ONCE_TWICE, ONCE_SKIPPED),
    *(OUTPUT_MISSING, OUTPUT_DOUBLE, OUTPUT_DISORDER, PASSED, WENT_BACK, UNEXPLAINED_KILL),
    *(LETTER_MISSING, LETTER_HEALTHY, DIED, LEFT, EXIT, SAID_STRANGELY, LATE),
)

_SETTLED = 5.0
"""Seconds for which a committed offset has to be too low to count. A coordinator that has just taken over answers from what its
followers have confirmed to it, for a second or two less than its predecessor had (measured, Kafka 4.3); one that was frozen, from
what it knew before."""
_NO_CAUSE = {"partitions_revoked", "orphaned"}
"""Said as well, but of what ends in good order."""
_LATER = 45.0
"""Seconds after a repetition within which its cause may still be said: a worker that is stopped says nothing until it is
continued or killed, and the others have its partitions by then."""


@dataclass(frozen=True, slots=True)
class Semantics:
    """What a group promises. processed: the fact that says so; output: the topic that holds one message for each of ours."""

    at_most_once: bool = False
    by_key: bool = False
    processed: str = "end"
    output: str = ""
    letters: str = ""
    long_running: bool = False


SEMANTICS: Mapping[str, Semantics] = {
    "batch": Semantics(),
    "letters": Semantics(letters="letters-out"),
    "once": Semantics(at_most_once=True),
    "long": Semantics(long_running=True),
    "async": Semantics(),
    "virtual": Semantics(by_key=True),
    "manual": Semantics(processed="mark"),
    "exact": Semantics(output="exact-out"),
    "own": Semantics(processed="mark", output="own-out"),
    "next": Semantics(),
}


class Findings:
    """Violations by invariant; the first few of each in words."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)

    def add(self, invariant: str, text: str) -> None:
        self.counts[invariant] += 1
        if len(self.examples[invariant]) < 12:
            self.examples[invariant].append(text)


class Causes:
    """What the swarm has said that may explain a repetition, by the process that said it or that it is about."""

    def __init__(self, logs: Iterable[Log], killed: Mapping[int, float]) -> None:
        """killed: pid -> when the run itself sent it a SIGKILL; its supervisor may not have lived to say so."""
        self._deaths = dict(killed)
        self._said: dict[int, list[Said]] = defaultdict(list)
        self.dropped: list[Said] = []
        self._transactional = {name for name, each in SEMANTICS.items() if each.output}
        for log in logs:
            for said in log.said:
                if said.event == "worker_exited":
                    if said.detail["signal"] or said.detail["code"]:
                        self._deaths.setdefault(said.pid, said.at)
                elif said.event not in {"worker_killed", "worker_stopping"}:
                    self._said[said.pid].append(said)
                    if said.event == "message_dropped":
                        self.dropped.append(said)
        self.deaths = sorted(self._deaths.values())

    def death(self, pid: int) -> float | None:
        """When this process was killed, crashed or gave up."""
        return self._deaths.get(pid)

    def of(
        self, pid: int, group: str, place: Place, since: float, until: float, only: Sequence[str] = ()
    ) -> str | None:
        """Why what this process did between `since` and `until` may have been done again; `only`: of these events."""
        died = self._deaths.get(pid)
        if not only and died is not None and since - 1 <= died <= until + _LATER:
            return "crash"
        for said in self._said[pid]:
            if (
                (said.event in only if only else said.event not in _NO_CAUSE)
                and (said.group == group or (not said.group and (said.event in only or group in self._transactional)))
                and since - 1 <= said.at <= until + _LATER
                and (not said.places or place in said.places)
            ):
                return said.event
        return None

    def revoked(self, pid: int, group: str, place: Place, begin: float, end: float) -> bool:
        """Whether the partition was taken while a job ran that nobody waits for."""
        return any(
            said.event == "partitions_revoked"
            and said.group == group
            and place in said.places
            and begin - 1 <= said.at <= end + 1 + float(said.detail.get("seconds", 0))
            for said in self._said[pid]
        )

    def any_between(self, group: str, place: Place, since: float, until: float) -> bool:
        """Whether anybody died, or lost this partition, in that time."""
        at = bisect.bisect_left(self.deaths, since - 1)
        if at < len(self.deaths) and self.deaths[at] <= until + _LATER:
            return True
        return any(self.of(pid, group, place, since, until) for pid in list(self._said))


@dataclass(slots=True)
class _Run:
    fact: Fact
    ended: float | None = None
    how: str = "begin"


@dataclass(slots=True)
class GroupBalance:
    """Figures of one group."""

    messages: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    """How often a message was begun again, by cause."""
    skipped: int = 0


def judge_group(
    name: str,
    semantics: Semantics,
    facts: Iterable[Fact],
    produced: Mapping[Place, Sequence[Content]],
    samples: Iterable[Sample],
    committed: Mapping[Place, int],
    causes: Causes,
    findings: Findings,
) -> GroupBalance:
    """One group's part of the balance. `produced` has every message of a partition, from offset 0 on."""
    balance = GroupBalance(sum(map(len, produced.values())))
    judge = _Group(name, semantics, produced, causes, findings, balance)
    for fact in facts:
        judge.take(fact)
    judge.end(samples, committed)
    return balance


class _Group:
    """One group while its facts are read in their order."""

    def __init__(
        self,
        name: str,
        semantics: Semantics,
        produced: Mapping[Place, Sequence[Content]],
        causes: Causes,
        findings: Findings,
        balance: GroupBalance,
    ) -> None:
        self._name = name
        self._semantics = semantics
        self._produced = produced
        self._causes = causes
        self._findings = findings
        self._balance = balance
        self._last: dict[tuple[Place, int], _Run] = {}
        self._first_begin: dict[tuple[Place, int], float] = {}
        self._furthest: dict[Place, int] = {}
        self._done: set[tuple[Place, int]] = set()
        self._processed: dict[tuple[Place, int], float] = {}
        self._open: dict[Place, list[_Run]] = defaultdict(list)
        self._since: dict[str, float] = {}  # instance -> its first run
        self._failing: dict[str, set[int]] = defaultdict(set)  # instance -> what failed and was not done since
        self._before = self._predecessors() if semantics.by_key else {}

    def _predecessors(self) -> dict[tuple[Place, int], int]:
        """The message before with the same key."""
        found = {}
        for place, messages in self._produced.items():
            latest: dict[bytes, int] = {}
            for message in messages:
                if message.key in latest:
                    found[(place, message.offset)] = latest[message.key]
                latest[message.key] = message.offset
        return found

    def take(self, fact: Fact) -> None:
        match fact.what:
            case "begin":
                self._begin(fact)
            case "end" | "fail":
                self._end(fact)
            case "mark":
                self._note_done(fact)
            case "strange":
                self._findings.add(STRANGE, f"{self._name}: {fact}")
            case "refused":
                pass
            case _:
                raise AssertionError(f"an unknown kind of fact: {fact}")

    # -- as it happened --------------------------------------------------------------------------------

    def _begin(self, fact: Fact) -> None:
        run = _Run(fact)
        self._since.setdefault(fact.instance, fact.at)
        self._check_alone(fact)
        within: set[int] = set()
        for offset in fact.offsets:
            key = (fact.place, offset)
            before = self._last.get(key)
            if before is None:
                self._first_begin[key] = fact.at
                self._check_order(fact, offset, within)
            else:
                self._check_repetition(fact, offset, before)
            within.add(offset)
            self._last[key] = run
            self._furthest[fact.place] = max(offset, self._furthest.get(fact.place, -1))
        self._open[fact.place].append(run)

    def _check_order(self, fact: Fact, offset: int, within: set[int]) -> None:
        place = fact.place
        if self._semantics.at_most_once:
            late = offset < self._furthest.get(place, -1)
            # One that was frozen between the commit and the run cannot know how late it is.
            if late and self._causes.of(fact.pid, self._name, place, fact.at - _LATER, fact.at) is None:
                self._say(DISORDER, fact, offset, f"begun after {self._furthest[place]}")
            return
        before = self._before.get((place, offset)) if self._semantics.by_key else offset - 1
        if before is None or before < 0 or before in within or (place, before) in self._done:
            return
        if self._semantics.letters and self._is_poison(place, before) and (place, before) in self._first_begin:
            return
        self._say(DISORDER, fact, offset, f"begun before {before} was done")

    def _check_repetition(self, fact: Fact, offset: int, before: _Run) -> None:
        if self._semantics.at_most_once:
            self._say(ONCE_TWICE, fact, offset, f"begun before by {before.fact}")
            return
        cause = self._cause(fact, offset, before)
        self._balance.repeated[cause or "none"] += 1
        if cause is None:
            self._say(REPEATED, fact, offset, f"{before.how} before by {before.fact}, {before.ended}")

    def _cause(self, fact: Fact, offset: int, before: _Run) -> str | None:
        orphaned = ("orphaned",)  # it had to go before its run was over, or was fenced by its successor
        if before.how == "begin" and self._causes.of(
            before.fact.pid, self._name, fact.place, before.fact.at, fact.at, orphaned
        ):
            return "crash"
        if before.how == "fail" or (before.fact.instance == fact.instance and fact.attempt > 1):
            return "retry"
        former = before.fact
        if self._semantics.by_key and any(offset > each for each in self._failing[former.instance]):
            return "retry"  # only what is before the first failure can be committed
        if self._semantics.long_running and self._causes.revoked(
            former.pid, self._name, fact.place, former.at, before.ended or fact.at
        ):
            return "revoked"
        # The second may also be the one that was frozen: it goes on where it was, and learns a moment later what it has lost.
        cause = self._causes.of(former.pid, self._name, fact.place, former.at, fact.at) or self._causes.of(
            fact.pid, self._name, fact.place, fact.at, fact.at, ("partitions_lost", "client_rebuilt")
        )
        if cause is None and self._since[fact.instance] < former.at:
            died = self._causes.death(fact.pid)  # before it could learn, and say, what it had lost
            cause = "crash" if died is not None and fact.at <= died <= fact.at + _LATER else None
        return cause

    def _check_alone(self, fact: Fact) -> None:
        """No other job of this partition (or with one of these keys) is running."""
        still = []
        for run in self._open[fact.place]:
            former = run.fact
            died = self._causes.death(former.pid)
            if died is not None and died <= fact.at:
                continue
            still.append(run)
            if self._semantics.by_key and not self._share_a_key(fact, former):
                continue
            cause = None
            if former.pid != fact.pid:
                cause = self._causes.of(former.pid, self._name, fact.place, former.at, fact.at)
                # Or this one was frozen, and does not know yet that it has lost the partition.
                cause = cause or self._causes.of(fact.pid, self._name, fact.place, former.at, fact.at)
                if cause is None and self._semantics.long_running:
                    revoked = self._causes.revoked(former.pid, self._name, fact.place, former.at, fact.at)
                    cause = "revoked" if revoked else None
            if cause is None:
                self._say(TWO_AT_ONCE, fact, fact.offsets[0], f"while {former} was running")
        self._open[fact.place] = still

    def _share_a_key(self, one: Fact, other: Fact) -> bool:
        messages = self._produced[one.place]
        return not {messages[o].key for o in one.offsets}.isdisjoint(messages[o].key for o in other.offsets)

    def _end(self, fact: Fact) -> None:
        for run in self._open[fact.place]:
            if run.fact.instance == fact.instance and run.fact.offsets == fact.offsets:
                run.ended, run.how = fact.at, fact.what
                self._open[fact.place].remove(run)
                break
        if fact.what == "end":
            self._note_done(fact)
            self._failing[fact.instance].difference_update(fact.offsets)
        else:
            self._failing[fact.instance].update(fact.offsets)

    def _note_done(self, fact: Fact) -> None:
        for offset in fact.offsets:
            self._done.add((fact.place, offset))
            if fact.what == self._semantics.processed:
                self._processed.setdefault((fact.place, offset), fact.at)

    # -- in the end ------------------------------------------------------------------------------------

    def end(self, samples: Iterable[Sample], committed: Mapping[Place, int]) -> None:
        for place, messages in self._produced.items():
            if committed.get(place, 0) != len(messages):
                self._findings.add(
                    NOT_COMMITTED, f"{self._name} {place}: {committed.get(place)} of {len(messages)} messages"
                )
            passed = min(committed.get(place, 0), len(messages))  # what nobody reads any more; the rest is only late
            if self._semantics.at_most_once:
                self._check_skipped(place, passed)
            else:
                self._check_lost(place, passed)
        self._check_samples(samples)

    def _check_lost(self, place: Place, count: int) -> None:
        for offset in range(count):
            if (place, offset) not in self._processed and not self._is_letter(place, offset):
                last = self._last.get((place, offset))
                self._findings.add(LOST, f"{self._name} {place} {offset}: {last.how if last else 'never'} {last}")

    def _check_skipped(self, place: Place, count: int) -> None:
        offset = 0
        while offset < count:
            if (place, offset) in self._first_begin:
                offset += 1
                continue
            first = offset
            while offset < count and (place, offset) not in self._first_begin:
                offset += 1
            self._balance.skipped += offset - first
            since = self._first_begin.get((place, first - 1), 0.0)
            until = self._first_begin.get((place, offset), float("inf"))
            said = any(
                drop.group == self._name
                and place in drop.places
                and drop.detail["first_offset"] <= first
                and offset - 1 <= drop.detail["last_offset"]
                for drop in self._causes.dropped
            )
            if not said and not self._causes.any_between(self._name, place, since, until):
                self._findings.add(ONCE_SKIPPED, f"{self._name} {place} {first} to {offset - 1}")

    def _check_samples(self, samples: Iterable[Sample]) -> None:
        processed = {place: self._latest_until(place, len(each)) for place, each in self._produced.items()}
        begun = {
            place: sorted(
                (self._first_begin[(place, o)], o) for o in range(len(each)) if (place, o) in self._first_begin
            )
            for place, each in self._produced.items()
        }
        known: dict[Place, int] = {}
        low_since: dict[tuple[str, Place], float] = {}
        told: set[tuple[Place, int]] = set()
        for sample in samples:
            for place, offset in sample.offsets.items():
                if place not in processed or offset < 0:
                    continue
                known[place] = max(offset, known.get(place, 0))
                too_low = {WENT_BACK: offset < known[place]}
                if self._semantics.at_most_once:
                    too_low[PASSED] = offset < self._begun_before(sample.asked, begun[place])
                for invariant, is_so in too_low.items():
                    since = low_since.setdefault((invariant, place), sample.asked)
                    if not is_so:
                        del low_since[(invariant, place)]
                    elif sample.asked - since > _SETTLED:
                        text = f"{self._name} {place}: {offset} committed from {since:.3f} to {sample.asked:.3f}"
                        self._findings.add(invariant, text)
                        low_since[(invariant, place)] = float("inf")
                if (
                    not self._semantics.at_most_once
                    and offset
                    and (place, offset) not in told
                    and processed[place][offset - 1] > sample.answered
                ):
                    told.add((place, offset))
                    self._findings.add(PASSED, self._passed(sample, place, offset))

    def _latest_until(self, place: Place, count: int) -> list[float]:
        """At each offset: when the last of all up to it was processed."""
        found: list[float] = []
        latest = 0.0
        for offset in range(count):
            if self._is_letter(place, offset):
                at = self._first_begin.get((place, offset), float("inf"))
            else:
                at = self._processed.get((place, offset), float("inf"))
            latest = max(latest, at)
            found.append(latest)
        return found

    def _passed(self, sample: Sample, place: Place, offset: int) -> str:
        open_ = [
            o
            for o in range(offset)
            if not self._is_letter(place, o) and self._processed.get((place, o), float("inf")) > sample.answered
        ]
        return (
            f"{self._name} {place}: {offset} committed at {sample.answered:.3f}, {open_[:5]} processed later or never"
        )

    def _begun_before(self, at: float, begun: Sequence[tuple[float, int]]) -> int:
        """At-most-once: the next offset after what had begun, and therefore been committed."""
        count = bisect.bisect_left(begun, (at, -1))
        return begun[count - 1][1] + 1 if count else 0

    # -- small things ----------------------------------------------------------------------------------

    def _is_poison(self, place: Place, offset: int) -> bool:
        return self._produced[place][offset].is_poison

    def _is_letter(self, place: Place, offset: int) -> bool:
        return bool(self._semantics.letters) and self._is_poison(place, offset)

    def _say(self, invariant: str, fact: Fact, offset: int, text: str) -> None:
        self._findings.add(
            invariant,
            f"{self._name} {fact.place} {offset} by {fact.pid} (instance {fact.instance}, attempt {fact.attempt}) at {fact.at:.3f}: {text}",
        )


# -- what came out -------------------------------------------------------------------------------------


def judge_outputs(
    name: str,
    produced: Mapping[Place, Sequence[Content]],
    committed: Mapping[Place, int],
    outputs: Iterable[Content],
    findings: Findings,
) -> None:
    """One output for each message that was committed, and a key's in its order.

    `outputs` as read under read_committed, by partition and offset.
    """
    seen: Counter[tuple[Place, int]] = Counter()
    latest: dict[tuple[Place, bytes], int] = {}
    for output in outputs:
        topic, partition, offset = source_of(output)
        place = (topic, partition)
        seen[(place, offset)] += 1
        if seen[(place, offset)] > 1:
            findings.add(OUTPUT_DOUBLE, f"{name}: of {place} {offset}, again at {output.place} {output.offset}")
        elif offset < latest.get((place, output.key), -1):
            findings.add(OUTPUT_DISORDER, f"{name}: of {place} {offset} after {latest[(place, output.key)]}")
        else:
            latest[(place, output.key)] = offset
    for place, messages in produced.items():
        for message in messages[: committed.get(place, 0)]:
            if not seen[(place, message.offset)]:
                findings.add(OUTPUT_MISSING, f"{name}: of {place} {message.offset}")


def judge_letters(
    name: str, produced: Mapping[Place, Sequence[Content]], letters: Iterable[Content], findings: Findings
) -> None:
    """A dead letter for each poisoned message, with its content; none for another."""
    found = set()
    for letter in letters:
        place = (letter.headers["swarm.source.topic"], int(letter.headers["swarm.source.partition"]))
        offset = int(letter.headers["swarm.source.offset"])
        source = produced[place][offset]
        found.add((place, offset))
        if not source.is_poison or (source.key, source.value) != (letter.key, letter.value):
            findings.add(LETTER_HEALTHY, f"{name}: {place} {offset}: {letter.headers}")
    for place, messages in produced.items():
        for message in messages:
            if message.is_poison and (place, message.offset) not in found:
                findings.add(LETTER_MISSING, f"{name}: of {place} {message.offset}")


# -- the processes -------------------------------------------------------------------------------------

_SMOOTH = {0, 3}  # a worker's exit codes: finished, orphaned


def judge_processes(name: str, log: Log, hurt: Mapping[int, Sequence[tuple[float, str]]], findings: Findings) -> None:
    """Nobody died, was stopped or was killed but for what the run did to it. hurt: pid -> when and what that was."""
    for said in log.said:
        pid = said.pid
        match said.event:
            case "worker_exited":
                mine = said.detail["signal"] is None and said.detail["code"] in _SMOOTH
                if not mine and pid not in hurt:
                    findings.add(DIED, f"{name}: {dict(said.detail)}")
            case "worker_killed" | "worker_stopping":
                fault = said.event == "worker_killed" or said.detail["reason"].endswith("_timeout")
                if fault and pid not in hurt:
                    findings.add(UNEXPLAINED_KILL, f"{name}: {said.event} {dict(said.detail)}")
            case "thread_died" | "swarm_failed":
                findings.add(DIED, f"{name}: {dict(said.detail)}")
            case _:
                pass
    for line in log.other:
        findings.add(SAID_STRANGELY, f"{name}: {line}")
