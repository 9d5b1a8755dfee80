"""Steady input, and what must hold of its processing however a group's members come and go. Knows records, no swarm."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from confluent_kafka import KafkaError, Message, Producer

from tests.support.kafka import Broker
from tests.support.recording import Record, Recording

HANDLER = """
    import time
    from swarm import App, Consumer
    from recording import note, record

    app = App("shop")

    class Noted(Consumer):
        def consume(self, messages):
            note("begin", self.topic, self.partition, messages.first_offset)
            for message in messages:
                record(message)
                time.sleep(0.002)  # the work
            note("end", self.topic, self.partition, messages.last_offset)
"""
"""The beginning of an application whose runs can be balanced: subscribe `Noted`, or a class of its own that calls it."""


@dataclass
class Input:
    """What the broker has taken so far: (topic, partition) -> messages."""

    written: dict[tuple[str, int], int] = field(default_factory=dict)

    def count(self, topic: str) -> int:
        return sum(count for (name, _), count in self.written.items() if name == topic)


@contextmanager
def steady_input(broker: Broker, partitions: Mapping[str, int], every: float = 0.05) -> Iterator[Input]:
    """Writes two messages to each partition (topic -> how many) `every` so many seconds, until the end of the block."""
    done = threading.Event()
    written = Input({(topic, number): 0 for topic, total in partitions.items() for number in range(total)})
    failures: list[object] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is None:
            written.written[(str(message.topic()), message.partition() or 0)] += 1
        else:
            failures.append(error)

    def write() -> None:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "log_level": 0})
        try:
            while not done.wait(every):
                for topic, number in written.written:
                    for _ in range(2):
                        producer.produce(topic, "work", partition=number, on_delivery=delivered)
                producer.poll(0)
        except BaseException as failure:
            failures.append(failure)
        if producer.flush(15.0):
            failures.append(AssertionError("not all of the input was written"))

    thread = threading.Thread(target=write, name="input")
    thread.start()
    try:
        yield written
    finally:
        done.set()
        thread.join()
        assert not failures, failures


def balance(
    recordings: Iterable[Recording], written: Mapping[tuple[str, int], int], killed: Mapping[int, float] | None = None
) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """AssertionError where a message was lost, order broken, or a partition processed by two at once.

    killed: pid -> when (monotonic). Returns what was repeated: partition -> (from, to the offset before which) of each step back.
    """
    killed = killed or {}
    repeats: dict[tuple[str, int], list[tuple[int, int]]] = {}
    everything = list(recordings)
    records = sorted((each for one in everything for each in one.all()), key=lambda each: each.at)
    begins = [each for one in everything for each in one.all("begin")]
    ends = [each for one in everything for each in one.all("end")]
    for (topic, partition), total in written.items():
        here = [each for each in records if (each.topic, each.partition) == (topic, partition)]
        missing = set(range(total)) - {each.offset for each in here}
        assert not missing, f"{topic}/{partition}: lost {sorted(missing)[:20]} of {total}"
        next_offset = 0
        for each in here:
            assert each.offset <= next_offset, f"{topic}/{partition}: {each.offset} came before {next_offset}"
            if each.offset < next_offset:
                repeats.setdefault((topic, partition), []).append((each.offset, next_offset))
            next_offset = each.offset + 1
        runs = _runs(topic, partition, begins, ends, killed)
        for (_, end, pid), (begin, _, other) in pairwise(runs):
            assert end <= begin, f"{topic}/{partition}: {other} began {end - begin:.3f} s before {pid} had ended"
    return repeats


def _runs(
    topic: str, partition: int, begins: list[Record], ends: list[Record], killed: Mapping[int, float]
) -> list[tuple[float, float, int]]:
    """(begin, end, pid) of each run over a partition, by its begin; a killed process's last run ends with it."""
    runs = []
    for begin in begins:
        if (begin.topic, begin.partition) == (topic, partition):
            later = [
                each.at
                for each in ends
                if (each.topic, each.partition, each.pid) == (topic, partition, begin.pid) and each.at >= begin.at
            ]
            assert later or begin.pid in killed, f"{topic}/{partition}: a run of {begin.pid} has no end"
            runs.append((begin.at, min(later, default=killed.get(begin.pid, time.monotonic())), begin.pid))
    return sorted(runs)
