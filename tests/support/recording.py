"""What a test's handlers saw and when: one line per message in a file that many processes append to.

Knows neither Kafka nor the swarm. It works on both sides: `Recording(folder)` puts a copy of this module into a project,
whose application then says `from recording import note, record`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILE = "records"


@dataclass(frozen=True, slots=True)
class Record:
    """One line. `at` is the monotonic clock, the same in all processes."""

    what: str
    topic: str
    partition: int
    offset: int
    attempt: int
    pid: int
    at: float


# -- in the application --------------------------------------------------------------------------------


def record(message: Any, what: str = "message") -> None:
    """This process saw `message` now."""
    note(what, message.topic, message.partition, message.offset, message.attempt)


def note(what: str, topic: str = "-", partition: int = -1, offset: int = -1, attempt: int = 0) -> None:
    """Something happened now in this process."""
    line = f"{what} {topic} {partition} {offset} {attempt} {os.getpid()} {time.monotonic()}\n"
    # One write in append mode: lines of several processes never mix, and what was written outlives a SIGKILL.
    descriptor = os.open(Path(__file__).with_name(_FILE), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


# -- in the test ---------------------------------------------------------------------------------------


class Recording:
    """The records of one project's folder, in the order they were written."""

    def __init__(self, folder: Path) -> None:
        shutil.copy(__file__, folder / "recording.py")
        self._file = folder / _FILE

    def all(self, what: str = "message", **facts: Any) -> list[Record]:
        """The records of one kind; only those with these facts."""
        lines = self._file.read_text().split("\n")[:-1] if self._file.exists() else []
        found = [_parsed(line) for line in lines]
        return [
            each
            for each in found
            if each.what == what and all(getattr(each, key) == fact for key, fact in facts.items())
        ]

    def offsets(self, topic: str, what: str = "message") -> dict[int, list[int]]:
        """Partition -> the offsets of its records, in the order they were written."""
        return by_partition(self.all(what, topic=topic))

    def seen(self, topic: str) -> set[tuple[int, int]]:
        """(partition, offset) of every message that was seen at least once."""
        return {(each.partition, each.offset) for each in self.all(topic=topic)}


def seen_in(folder: Path) -> set[tuple[str, int, int]]:
    """(topic, partition, offset) of every message that was recorded in a project's folder, if any was."""
    file = folder / _FILE
    lines = map(_parsed, file.read_text().split("\n")[:-1]) if file.exists() else ()
    return {(each.topic, each.partition, each.offset) for each in lines if each.what == "message"}


def by_partition(records: Iterable[Record]) -> dict[int, list[int]]:
    """Partition -> offsets, in the order of the records."""
    found: dict[int, list[int]] = {}
    for each in records:
        found.setdefault(each.partition, []).append(each.offset)
    return found


def repeated(offsets: Sequence[int]) -> set[int]:
    """Those that are there more than once."""
    return {offset for offset in offsets if offsets.count(offset) > 1}


def _parsed(line: str) -> Record:
    what, topic, partition, offset, attempt, pid, at = line.split()
    return Record(what, topic, int(partition), int(offset), int(attempt), int(pid), float(at))
