"""The sums in SQLite, and with them, in the same transaction, how far each partition is in them. Knows nothing of Kafka.

That is what makes a redelivery harmless: after a crash Kafka gives again what the worker had not committed, but whatever is
in the sums is also behind the partition's next offset here, and is skipped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields

BUSY_TIMEOUT = 30.0
"""Seconds to wait for another process's transaction; ours take about a millisecond."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS totals (
    carrier TEXT PRIMARY KEY, flights INTEGER, cancelled INTEGER, distance INTEGER, departure_delay INTEGER, arrival_delay INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS partitions (
    topic TEXT, number INTEGER, next_offset INTEGER, counted INTEGER, skipped INTEGER, PRIMARY KEY (topic, number)
) WITHOUT ROWID;
"""
_ADD = """
INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    flights = flights + excluded.flights, cancelled = cancelled + excluded.cancelled, distance = distance + excluded.distance,
    departure_delay = departure_delay + excluded.departure_delay, arrival_delay = arrival_delay + excluded.arrival_delay
"""
_ADVANCE = """
INSERT INTO partitions VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    next_offset = excluded.next_offset, counted = counted + excluded.counted, skipped = skipped + excluded.skipped
"""


@dataclass(slots=True)
class Sums:
    """What is added up per carrier: flights, flights that never left, miles, and minutes of delay where they are known."""

    flights: int = 0
    cancelled: int = 0
    distance: int = 0
    departure_delay: int = 0
    arrival_delay: int = 0

    def add(self, distance: int, departure_delay: int | None, arrival_delay: int | None) -> None:
        """Add one flight; a delay that is not known (None) adds nothing."""
        self.flights += 1
        self.cancelled += departure_delay is None
        self.distance += distance
        self.departure_delay += departure_delay or 0
        self.arrival_delay += arrival_delay or 0


class Entry:
    """One batch on its way into the ledger: which of its messages are new, and their sums."""

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        self.counted = 0
        self.skipped = 0
        self.sums: Mapping[str, Sums] = {}

    def is_new(self, offset: int) -> bool:
        """Whether this message is not in the sums yet. To be asked once for each, in the order of the offsets."""
        if offset < self.next_offset:
            self.skipped += 1
            return False
        self.next_offset = offset + 1
        self.counted += 1
        return True

    def add(self, sums: Mapping[str, Sums]) -> None:
        """The sums of the new messages, by carrier."""
        self.sums = sums


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition is: its next offset, rows in the sums, and rows that came again and were left out."""

    next_offset: int
    counted: int
    skipped: int


class Ledger:
    """One connection to the database, which is made where it does not exist. Many processes may write at once.

    A connection may pass from thread to thread, as a partition does, but serves one at a time.
    """

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        # WAL: readers do not stop the writer. NORMAL: a transaction survives the death of any process, and after a power
        # cut the file is whole but may miss the last ones; then FULL is the word.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(_SCHEMA)

    @contextmanager
    def partition(self, topic: str, number: int) -> Iterator[Entry]:
        """A transaction for one batch of one partition: all of it is written at the end, or nothing where the body raises."""
        # IMMEDIATE: the write lock is taken before the position is read, so no other process can move it in between.
        self._database.execute("BEGIN IMMEDIATE")
        try:
            row = self._database.execute(
                "SELECT next_offset FROM partitions WHERE topic = ? AND number = ?", (topic, number)
            ).fetchone()
            entry = Entry(row[0] if row else 0)
            yield entry
            for carrier, sums in entry.sums.items():
                self._database.execute(_ADD, (carrier, *_values(sums)))
            self._database.execute(_ADVANCE, (topic, number, entry.next_offset, entry.counted, entry.skipped))
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def totals(self) -> dict[str, Sums]:
        """The sums by carrier, as they are now."""
        return {carrier: Sums(*sums) for carrier, *sums in self._database.execute("SELECT * FROM totals")}

    def progress(self, topic: str) -> dict[int, Progress]:
        """How far each partition is, as far as it has been touched."""
        rows = self._database.execute(
            "SELECT number, next_offset, counted, skipped FROM partitions WHERE topic = ?", (topic,)
        )
        return {number: Progress(*rest) for number, *rest in rows}

    def close(self) -> None:
        self._database.close()


def _values(sums: Sums) -> list[int]:
    return [getattr(sums, field.name) for field in fields(sums)]
