"""A seeded run of accidents on three real brokers, and a balance per invariant of the design.

`make chaos SECONDS=600 SEED=1`. An application with a group for each semantics (`application.py`) runs in one daemon all the
time and in a second one now and then, while workers, supervisors, brokers and the network have their accidents
(`accidents.py`, `world.py`) and a producer writes at a steady rate. Then everything is healed, the swarm has to catch up, and
what its handlers saw is compared with what Kafka holds (`balance.py`). Exit 1 where an invariant was broken; what is
needed to find out why is then kept in build/chaos. Not part of `make test`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gzip
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from swarm.testing import invariants
from tests.chaos import balance
from tests.chaos.accidents import TRACKS, schedule
from tests.chaos.balance import INVARIANTS, SEMANTICS, Findings, GroupBalance
from tests.chaos.evidence import Content, Place, Sample, contents, facts, read_log, source_of
from tests.chaos.world import CLUSTER, World
from tests.support.cluster import Cluster
from tests.support.kafka_installation import ROOT

TOPICS = {"orders": 8, "clicks": 4}
OUTPUT_PARTITIONS = 6
KEYS = 5  # in each partition
RATE = 100  # messages/s, each for every group
CATCH_UP = 300.0  # s; exactly-once at some 300 messages/s on two cores has most to do then
SAMPLE_EVERY = 0.5  # s
PIDS = 4_194_304  # the most that Linux takes; proc(5)

_KEPT = ROOT / "build" / "chaos"


# -- what is produced ----------------------------------------------------------------------------------


class Source(threading.Thread):
    """Writes bursts of numbered messages, each to one partition, about `rate` a second, until `enough`; around the proxies."""

    def __init__(self, bootstrap: str, seed: int, rate: float) -> None:
        super().__init__(name="source", daemon=True)
        self._rate = rate
        self._chance = random.Random(f"{seed} source")
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 0,
                "log_level": 0,
            }
        )
        self.enough = threading.Event()
        self.produced = 0
        self.failures: list[str] = []

    def run(self) -> None:
        begin = time.monotonic()
        places = [(topic, number) for topic, count in TOPICS.items() for number in range(count)]
        while not self.enough.is_set():
            topic, partition = self._chance.choice(places)
            for _ in range(self._chance.randint(1, 20)):
                self._produce(topic, partition)
            self._producer.poll(0)
            self.enough.wait(max(0.0, begin + self.produced / self._rate - time.monotonic()))

    def _produce(self, topic: str, partition: int) -> None:
        what = self._chance.choices(["plain", "poison", "lengthy"], [400, 1, 1])[0]
        key = f"{topic}-{partition}-{self._chance.randrange(KEYS)}"
        self._producer.produce(topic, f"{self.produced}:{what}", key, partition=partition, on_delivery=self._delivered)
        self.produced += 1

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self.failures.append(error.str())

    def finish(self) -> None:
        """Returns when all of it is written; AssertionError where that is not to be had."""
        self.enough.set()
        self.join()
        left = self._producer.flush(60)
        assert (left, self.failures) == (0, []), f"{left} messages were not written: {self.failures[:3]}"


# -- what is committed ---------------------------------------------------------------------------------


class Sampler(threading.Thread):
    """Asks all the time what a group has committed; around the proxies."""

    def __init__(self, bootstrap: str, group: str) -> None:
        super().__init__(name=f"sampler {group}", daemon=True)
        self._group = group
        self._places = [TopicPartition(topic, number) for topic, count in TOPICS.items() for number in range(count)]
        # A consumer, and these settings, for the reasons that `Kafka.committed` has.
        properties = {"bootstrap.servers": bootstrap, "group.id": group, "isolation.level": "read_uncommitted"}
        self._client = Consumer({**properties, "log_level": 0})
        self.enough = threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        while not self.enough.wait(SAMPLE_EVERY):
            asked = time.monotonic()
            try:
                answer = self._client.committed(self._places, timeout=2.0)
            except KafkaException:
                continue  # brokers have accidents
            offsets = {(each.topic, each.partition): each.offset for each in answer if each.error is None}
            self.samples.append(Sample(self._group, asked, time.monotonic(), offsets))
        self._client.close()

    def finish(self) -> None:
        self.enough.set()
        self.join()


# -- a run ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """How much a machine is asked for. rate: messages/s, each for every group; catch_up: s that the swarm gets for the rest at the end."""

    rate: float = RATE
    catch_up: float = CATCH_UP


def run(seconds: float, seed: int, groups: Sequence[str], tracks: Sequence[str], load: Load, keep: bool) -> int:
    """One run; prints its balance and returns the exit code."""
    _make_pids_unique()
    plan = schedule(seed, seconds, tracks)
    print(f"seed {seed}, {seconds:g} s, {len(plan)} accidents, groups: {', '.join(groups)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as name, Cluster(CLUSTER) as cluster:
        folder = Path(name)
        with (folder / "accidents").open("w") as log:

            def say(text: str) -> None:
                print(text, file=log, flush=True)
                print(text, flush=True)

            findings = Findings()
            world = _prepare(folder, cluster, groups, say)
            try:
                figures = _go(world, cluster, plan, seconds, seed, groups, load, findings)
            except BaseException:
                world.end()
                _keep(world, seed, data=False)
                raise
        text = _report(seed, seconds, figures, findings)
        (folder / "balance").write_text(text)
        print(text, flush=True)
        if findings.counts or keep:
            where = _keep(world, seed, data=bool(findings.counts[balance.LATE]))
            print(f"kept in {where.relative_to(ROOT)}")
    return 1 if findings.counts else 0


def _prepare(folder: Path, cluster: Cluster, groups: Sequence[str], say: Any) -> World:
    for topic, partitions in TOPICS.items():
        cluster.create_topic(topic, partitions)
    for group in groups:
        semantics = SEMANTICS[group]
        for topic in filter(None, (semantics.output, semantics.letters)):
            cluster.create_topic(topic, OUTPUT_PARTITIONS)
    return World(folder, cluster, list(groups), say)


def _go(
    world: World,
    cluster: Cluster,
    plan: Sequence[Any],
    seconds: float,
    seed: int,
    groups: Sequence[str],
    load: Load,
    findings: Findings,
) -> dict[str, Any]:
    world.daemons_begin()
    source = Source(cluster.direct, seed, load.rate)
    samplers = [Sampler(cluster.direct, group) for group in groups]
    source.start()
    for sampler in samplers:
        sampler.start()
    try:
        world.run(list(plan), seconds)
        world.heal()
        source.finish()
        produced = _by_place(contents(message for topic in TOPICS for message in cluster.read_all(topic)))
        _check_source(produced, source)
        healed = time.monotonic()
        caught_up = _catch_up(cluster, groups, produced, load.catch_up, findings)
    finally:
        source.enough.set()
        for sampler in samplers:
            sampler.finish()
    left = world.end()
    for text in left:
        findings.add(balance.LEFT, text)
    samples = [sample for sampler in samplers for sample in sampler.samples]
    figures: dict[str, Any] = _judge(world, cluster, groups, produced, samples, findings)
    figures["caught up after"] = f"{caught_up - healed:.1f} s" if caught_up else "not at all"
    return figures


def _by_place(messages: Sequence[Content]) -> dict[Place, list[Content]]:
    found: dict[Place, list[Content]] = {(t, number): [] for t, count in TOPICS.items() for number in range(count)}
    for message in messages:
        assert message.offset == len(found[message.place]), f"a gap in the topic itself: {message}"
        found[message.place].append(message)
    return found


def _check_source(produced: Mapping[Place, Sequence[Content]], source: Source) -> None:
    """What the run says would mean nothing if the producer or the brokers had lost or doubled something."""
    numbers = Counter(int(m.value.split(b":")[0]) for messages in produced.values() for m in messages)
    assert len(numbers) == source.produced, (
        f"{source.produced - len(numbers)} messages that were confirmed are not there"
    )
    assert max(numbers.values()) == 1, "the producer has written messages twice"


def _catch_up(
    cluster: Cluster,
    groups: Sequence[str],
    produced: Mapping[Place, Sequence[Content]],
    within: float,
    findings: Findings,
) -> float | None:
    """Waits until every group has committed everything; returns when that was."""
    wanted = {place: len(messages) for place, messages in produced.items() if messages}
    late = list(groups)
    deadline = time.monotonic() + within
    while True:
        late = [group for group in late if _missing(cluster, group, wanted) or not _settled(cluster, group)]
        if not late:
            return time.monotonic()
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    for group in late:
        findings.add(balance.LATE, f"{group}: {_missing(cluster, group, wanted) or 'a transaction is still open'}")
    return None


def _missing(cluster: Cluster, group: str, wanted: Mapping[Place, int]) -> str:
    committed = cluster.committed(group)
    missing = [f"{t}/{p} {committed.get((t, p))} of {n}" for (t, p), n in wanted.items() if committed.get((t, p)) != n]
    return ", ".join(missing)


def _settled(cluster: Cluster, group: str) -> bool:
    """Whether no transaction hides a part of the group's outputs. One that a killed worker has left open is ended by its successor,
    or where there is none, as after the second daemon's end, by its timeout."""
    output = SEMANTICS[group].output
    return not output or cluster.ends(output) == cluster.ends(output, read_committed=True)


# -- its balance ---------------------------------------------------------------------------------------


def _judge(
    world: World,
    cluster: Cluster,
    groups: Sequence[str],
    produced: Mapping[Place, Sequence[Content]],
    samples: Sequence[Sample],
    findings: Findings,
) -> dict[str, Any]:
    wall_to_monotonic = time.monotonic() - time.time()
    logs = {name: read_log(world.folder / name / "stderr", wall_to_monotonic) for name in world.daemons}
    causes = balance.Causes(logs.values(), world.killed)
    figures: dict[str, Any] = {}
    outputs: dict[str, list[Content]] = {}
    for group in groups:
        semantics = SEMANTICS[group]
        committed = cluster.committed(group)
        figures[group] = balance.judge_group(
            group,
            semantics,
            facts(world.folder / "seen" / group),
            produced,
            [sample for sample in samples if sample.group == group],
            committed,
            causes,
            findings,
        )
        if semantics.output:
            outputs[group] = contents(cluster.read_all(semantics.output, read_committed=True))
            balance.judge_outputs(group, produced, committed, outputs[group], findings)
        if semantics.letters:
            balance.judge_letters(group, produced, contents(cluster.read_all(semantics.letters)), findings)
    for name, log in logs.items():
        balance.judge_processes(name, log, world.hurt, findings)
    for exit_ in world.exits:
        if exit_.code != 0 and (exit_.smooth or exit_.code != 2):
            findings.add(balance.EXIT, str(exit_))
    events = sum((Counter(log.counts) for log in logs.values()), Counter[str]())
    figures["events"] = dict(sorted(events.items()))
    figures["samples"] = len(samples)
    _judge_events(world, groups, produced, outputs, findings)
    return figures


def _judge_events(
    world: World,
    groups: Sequence[str],
    produced: Mapping[Place, Sequence[Content]],
    outputs: Mapping[str, Sequence[Content]],
    findings: Findings,
) -> None:
    """The second opinion: the invariants that users get, judged from the swarm's own events."""
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(log.open(errors="replace"))
            for name in world.daemons
            if (log := world.folder / name / "stderr").exists()
        }
        said = {name: invariants.read_events(file) for name, file in files.items()}
        violations = invariants.check(
            invariants.Facts(
                invariants.merged({**said, "accidents": _faults(world)}),
                contents={place: [m.offset for m in messages] for place, messages in produced.items()},
                committed={
                    (group, *place): offset
                    for group in groups
                    for place, offset in world.cluster.committed(group).items()
                },
                complete=True,
                outputs={group: [source_of(each) for each in written] for group, written in outputs.items()},
            )
        )
    for violation in violations:
        findings.add(f"events: {violation.invariant}", str(violation))


def _faults(world: World) -> Iterator[dict[str, Any]]:
    """What was done to processes, as the invariants want to be told of it: one that was frozen may believe for a moment that it
    holds what others have by then."""
    wall = time.time() - time.monotonic()
    for at, pid, what in sorted((at, pid, what) for pid, accidents in world.hurt.items() for at, what in accidents):
        when = datetime.datetime.fromtimestamp(wall + at, datetime.UTC).isoformat(timespec="milliseconds")
        yield {"timestamp": when.replace("+00:00", "Z"), "event": "fault", "kind": what, "pid": pid}


def _make_pids_unique() -> None:
    """The balance knows processes by their pids, of which a long run on a small machine uses more than the 32768 there may be."""
    most = Path("/proc/sys/kernel/pid_max")
    if int(most.read_text()) < PIDS:
        try:
            most.write_text(str(PIDS))
        except OSError:
            print(f"warning: pids may be used twice within this run; as root: sysctl kernel.pid_max={PIDS}", flush=True)


def _report(seed: int, seconds: float, figures: Mapping[str, Any], findings: Findings) -> str:
    lines = ["", f"balance of seed {seed}, {seconds:g} s; caught up after {figures['caught up after']}"]
    for group, figure in figures.items():
        if isinstance(figure, GroupBalance):
            repeated = ", ".join(f"{cause} {count}" for cause, count in figure.repeated.most_common())
            skipped = f"; skipped {figure.skipped}" if figure.skipped else ""
            lines.append(f"  {group:8} {figure.messages} messages{skipped}; repeated: {repeated or 'none'}")
    lines.append(f"  committed offsets were looked at {figures['samples']} times")
    lines.append("  events: " + ", ".join(f"{name} {count}" for name, count in figures["events"].items()))
    lines.append("violations by invariant:")
    for invariant in (*INVARIANTS, *sorted(set(findings.counts) - set(INVARIANTS))):
        lines.append(f"  {findings.counts[invariant]:6}  {invariant}")
        lines += [f"            {example[:1200]}" for example in findings.examples.get(invariant, ())]
    return "\n".join(lines)


def _keep(world: World, seed: int, *, data: bool) -> Path:
    """All evidence of a run, the large parts of it compressed."""
    where = _KEPT / f"seed-{seed}-{time.strftime('%m%d-%H%M%S')}"
    world.keep(where, data=data)
    for file in _large(where):
        with file.open("rb") as plain, gzip.open(f"{file}.gz", "wb", 1) as packed:
            shutil.copyfileobj(plain, packed)
        file.unlink()
    (where / "hurt").write_text(json.dumps(world.hurt))
    return where


def _large(folder: Path) -> Iterator[Path]:
    return (file for file in list(folder.rglob("*")) if file.is_file() and file.stat().st_size > 1_000_000)


def main() -> int:
    """Exit 0 when no invariant was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="of accidents (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--groups", default=",".join(SEMANTICS), help="of %(default)s")
    parser.add_argument("--tracks", default=",".join(TRACKS), help="what has accidents, of %(default)s")
    parser.add_argument("--rate", type=float, default=RATE, help="messages a second (default: %(default)g)")
    parser.add_argument("--catch-up", type=float, default=CATCH_UP, help="seconds for the rest (default: %(default)g)")
    parser.add_argument("--plan", action="store_true", help="only print what would happen when")
    parser.add_argument("--keep", action="store_true", help="keep the evidence of a good run too")
    options = parser.parse_args()
    tracks = [track for track in options.tracks.split(",") if track]
    if options.plan:
        print(*schedule(options.seed, options.seconds, tracks), sep="\n")
        return 0
    load = Load(options.rate, options.catch_up)
    return run(options.seconds, options.seed, options.groups.split(","), tracks, load, options.keep)


if __name__ == "__main__":
    sys.exit(main())
