"""A long run of a swarm whose workers leak, hang, crash and stall, with an eye on its supervisor.

`make soak SECONDS=1800`. A real broker, a swarm of four, messages at a steady rate. Every few seconds the supervisor's memory,
descriptors, threads, children and processor time are noted. At the end every message has to have been done, and what the supervisor
holds must not have grown from the first quarter to the last. Exit 1 where that is not so. Not part of `make test`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
from confluent_kafka import Producer

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.project import Sections, write_project

WORKERS = 4
PARTITIONS = 8
RATE = 400  # messages/s
SAMPLE_EVERY = 5.0  # s
CATCH_UP = 180.0  # s
GROWTH = 1.10
EXPECTED = ("memory_limit", "consume_timeout", "report_timeout", "crashed", "killed")
"""What workers of the application end by."""
"""How much more the supervisor may hold in the last quarter than in the first: an allocator's noise."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The supervisor at one moment. memory: bytes of anonymous memory, shared with its workers or not (what is private changes with
    each fork); cpu: seconds since its start."""

    memory: int
    descriptors: int
    threads: int
    children: int
    zombies: int
    cpu: float


def look(pid: int) -> Sample:
    """What it holds now."""
    process = psutil.Process(pid)
    children = process.children()
    return Sample(
        _anonymous(pid),
        process.num_fds(),
        process.num_threads(),
        len(children),
        sum(1 for child in children if _is_zombie(child)),
        sum(process.cpu_times()[:2]),
    )


def _anonymous(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("smaps_rollup without Anonymous")


def _is_zombie(child: psutil.Process) -> bool:
    try:
        return bool(child.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def settings(folder: Path, bootstrap: str) -> Sections:
    """Short times, so that much happens."""
    return {
        "swarm": {
            "app": "app:app",
            "name": "soak",
            "group_id": "soak",
            "workers": WORKERS,
            "run_dir": folder / "run",
            "state_dir": folder / "state",
            "shutdown_timeout": 10,
        },
        "kafka": {"bootstrap.servers": bootstrap, "session.timeout.ms": 10000},
        "worker": {"commit_interval": 1.0},
        "supervision": {
            "report_timeout": 8.0,
            "poll_timeout": 15.0,
            "consume_timeout": 8.0,
            "memory_limit": "120MiB",
            "memory_kill": "300MiB",
            "restart_backoff": {"initial": 0.0, "factor": 1.5, "maximum": 3.0, "reset_after": 10.0},
        },
        "log": {"level": "info", "format": "json"},
    }


def run(seconds: float) -> int:
    """One run; prints what it found and returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="soak-") as name, Broker() as broker:
        broker.create_topic("orders", PARTITIONS)
        folder = Path(name) / "project"
        chosen = settings(folder, broker.bootstrap)
        config = write_project(folder, Path(__file__).with_name("application.py").read_text(), chosen)
        daemon = Daemon(config, chosen)
        try:
            daemon.start().until_running(CATCH_UP)
            produced, samples = _feed(daemon, broker, seconds)
            done = _until_done(folder, produced)
            code = daemon.stop()
        finally:
            daemon.close()
        return _judge(daemon, produced, done, samples, code)


def _feed(daemon: Daemon, broker: Broker, seconds: float) -> tuple[Counter[int], list[Sample]]:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "linger.ms": 20})
    produced: Counter[int] = Counter()
    samples: list[Sample] = []
    begin = time.monotonic()
    next_sample = begin + SAMPLE_EVERY
    while (now := time.monotonic()) - begin < seconds:
        while sum(produced.values()) < (now - begin) * RATE:
            partition = sum(produced.values()) % PARTITIONS
            producer.produce("orders", b"x" * 100, partition=partition)
            produced[partition] += 1
        producer.poll(0)
        if now >= next_sample:
            next_sample += SAMPLE_EVERY
            samples.append(look(daemon.pid))
        time.sleep(0.05)
    assert producer.flush(30) == 0, "not all of it was written"
    return produced, samples


def _until_done(folder: Path, produced: Counter[int]) -> set[tuple[int, int]]:
    wanted = sum(produced.values())
    deadline = time.monotonic() + CATCH_UP
    while True:
        lines = (folder / "seen").read_text().split("\n")[:-1]
        done = {(int(partition), int(offset)) for partition, offset in map(str.split, lines)}
        if len(done) >= wanted or time.monotonic() > deadline:
            return done
        time.sleep(1.0)


def _judge(daemon: Daemon, produced: Counter[int], done: set[tuple[int, int]], samples: list[Sample], code: int) -> int:
    problems = []
    missing = sum(produced.values()) - len(done)
    if missing:
        problems.append(f"{missing} messages were not done within {CATCH_UP:g} s")
    if code != 0:
        problems.append(f"exit code {code}")
    quarter = max(1, len(samples) // 4)
    for what in ("memory", "descriptors", "threads"):
        first = statistics.median(getattr(sample, what) for sample in samples[:quarter])
        last = statistics.median(getattr(sample, what) for sample in samples[-quarter:])
        print(f"supervisor's {what}: {first:,.0f} at first, {last:,.0f} at last")
        if last > first * GROWTH:
            problems.append(f"the supervisor's {what} grew from {first:,.0f} to {last:,.0f}")
    zombies = max(sample.zombies for sample in samples[-quarter:])
    if sum(sample.zombies > 0 for sample in samples) > len(samples) // 4:
        problems.append(f"zombies stay: {zombies} at the end")
    busy = (samples[-1].cpu - samples[0].cpu) / (SAMPLE_EVERY * (len(samples) - 1))
    print(f"supervisor's processor time: {busy:.1%} of a core; most children: {max(s.children for s in samples)}")
    exits = Counter(event["reason"] for event in daemon.events("worker_exited"))
    print(f"{sum(produced.values())} messages; workers ended: {dict(exits)}")
    if samples[-1].zombies > 0:
        problems.append(f"{samples[-1].zombies} zombies at the end")
    if len(samples) * SAMPLE_EVERY >= 600.0:  # every kind of accident has had its time by then
        problems += [f"no worker ended by {reason}" for reason in EXPECTED if not exits[reason]]
    for problem in problems:
        print(f"FAILED: {problem}")
    return 1 if problems else 0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0)
    sys.exit(run(parser.parse_args().seconds))


if __name__ == "__main__":
    main()
