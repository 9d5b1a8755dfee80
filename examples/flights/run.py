"""Counts all flights of a table with a swarm of three, kills one worker twice on the way, and compares with the table.

    python examples/flights/run.py [--rows N | --all] [--bootstrap HOST:PORT] [--json]

Without --bootstrap it starts a real Apache Kafka for itself (Java 17 and Maven, as `make test` does). Exit code 1 where one
total differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its re-exports are not marked as such

sys.path.insert(0, str(Path(__file__).resolve().parent))
import table
from daemon import Daemon, DaemonError
from ledger import Ledger, Progress, Sums

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 8
WORKERS = 3
LEAST_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker that got SIGKILL: its index and pid, the rows that were counted by then, and the pid that took its seat."""

    worker: int
    pid: int
    at_rows: int
    successor: int


@dataclass(frozen=True, slots=True)
class Report:
    """What happened. `expected` are the totals straight from the table, `totals` those that the swarm has added up."""

    rows: int
    produced: int
    counted: int
    skipped: int
    kills: list[Kill]
    restarts: int
    exit_code: int
    seconds: float
    expected: dict[str, Sums]
    totals: dict[str, Sums]

    @property
    def agrees(self) -> bool:
        return self.totals == self.expected and self.rows == self.produced == self.counted and self.exit_code == 0


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that swarm and broker are ended too
    try:
        with ExitStack() as stack:
            flights = table.fetch()
            bootstrap = options.bootstrap or stack.enter_context(_broker())
            topic = stack.enter_context(_topic(bootstrap))
            folder = stack.enter_context(_folder())
            report = count(flights, options.rows, bootstrap, topic, folder)
    except (table.TableError, DaemonError, KafkaException) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps({"agrees": report.agrees, **asdict(report)}) if options.json else _readable(report))
    return 0 if report.agrees else 1


def count(flights: Path, rows: int, bootstrap: str, topic: str, folder: Path) -> Report:
    """The run: some rows, a kill at a third of them, a kill at two thirds, the rest; blocks until all are counted."""
    database = str(folder / "flights.sqlite")
    ledger = Ledger(database)
    swarm = Daemon(
        folder,
        {"kafka.bootstrap.servers": bootstrap, "swarm.group_id": topic, "swarm.workers": str(WORKERS)},
        {"FLIGHTS_TOPIC": topic, "FLIGHTS_DATABASE": database},
    )
    try:
        swarm.wait_for(lambda: _all_hold_partitions(swarm), "each worker to hold partitions", every=0.1)
        source = Source(bootstrap, topic, table.lines(flights, rows))
        began = time.monotonic()
        # Rows are let go up to a tenth beyond where the next kill is due, so that it comes in the middle of work.
        source.produce(rows // 4)
        _until(swarm, ledger, topic, rows // 4)
        kills = []
        for third in (rows // 3, 2 * rows // 3):
            kills.append(_kill(swarm, ledger, source, third, third + rows // 10))
        source.produce(rows)
        _until(swarm, ledger, topic, rows)
        seconds = time.monotonic() - began
        restarts = sum(worker["restarts"] for worker in swarm.workers())
        exit_code = swarm.stop()  # before the last look: whatever a worker still had in hand is in the sums now
        progress = ledger.progress(topic).values()
        return Report(
            rows=rows,
            produced=source.delivered,
            counted=_counted(progress),
            skipped=sum(partition.skipped for partition in progress),
            kills=kills,
            restarts=restarts,
            exit_code=exit_code,
            seconds=seconds,
            expected=table.totals(flights, rows),
            totals=ledger.totals(),
        )
    finally:
        swarm.close()
        ledger.close()


def _kill(swarm: Daemon, ledger: Ledger, source: Source, due: int, until: int) -> Kill:
    """SIGKILL to the worker that has most to do, when `due` rows are counted; blocks until its successor holds its seat."""
    victim = _busiest(swarm.workers(), ledger.progress(source.topic))
    producing = threading.Thread(target=source.produce, args=(until,), name="produce")
    producing.start()
    try:
        at_rows = _until(swarm, ledger, source.topic, due)
        os.kill(victim["pid"], signal.SIGKILL)
    finally:
        producing.join()

    def back() -> dict[str, Any] | None:
        for worker in swarm.workers():
            if worker["index"] == victim["index"] and worker["pid"] not in {None, victim["pid"]}:
                return worker if worker["assignment"] else None
        return None

    successor = swarm.wait_for(back, f"worker {victim['index']} to be replaced", every=0.1)
    return Kill(victim["index"], victim["pid"], at_rows, successor["pid"])


def _all_hold_partitions(swarm: Daemon) -> bool:
    workers = swarm.workers()
    held = sum(len(worker["assignment"]) for worker in workers)
    return held == PARTITIONS and all(worker["assignment"] for worker in workers)


def _busiest(workers: list[dict[str, Any]], progress: dict[int, Progress]) -> dict[str, Any]:
    """The worker whose partitions have had the most rows so far: carriers differ in size, and keep doing so."""

    def rows(worker: dict[str, Any]) -> int:
        return sum(
            progress[held["partition"]].counted for held in worker["assignment"] if held["partition"] in progress
        )

    return max(workers, key=rows)


def _until(swarm: Daemon, ledger: Ledger, topic: str, rows: int) -> int:
    def enough() -> int | None:
        counted = _counted(ledger.progress(topic).values())
        return counted if counted >= rows else None

    return swarm.wait_for(enough, f"{rows:,} rows to be counted", within=300.0)


def _counted(progress: Iterable[Progress]) -> int:
    return sum(partition.counted for partition in progress)


class Source:
    """Produces the rows in their order, keyed by carrier. Called from one thread at a time."""

    def __init__(self, bootstrap: str, topic: str, lines: Iterator[tuple[bytes, bytes]]) -> None:
        self.topic = topic
        self.delivered = 0
        self._lines = lines
        self._taken = 0
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, "log_level": 3}
        )

    def produce(self, until: int) -> None:
        """All rows up to the one with this number; blocks until the broker has them."""
        for carrier, row in islice(self._lines, until - self._taken):
            while True:
                try:
                    self._producer.produce(self.topic, key=carrier, value=row, on_delivery=self._on_delivery)
                    break
                except BufferError:  # its queue is full
                    self._producer.poll(0.1)
            self._producer.poll(0)
        self._taken = until
        self._producer.flush(60)

    def _on_delivery(self, error: object, _: object) -> None:
        # What was not delivered is missing in `delivered`, and so in the report.
        self.delivered += error is None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="examples/flights/run.py", description="Counts flights with a swarm of three and two kills on the way."
    )
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument("--rows", type=int, default=table.ROWS, help="only the first N (%(default)s are there)")
    how_many.add_argument("--all", dest="rows", action="store_const", const=table.ROWS, help="all rows (default)")
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a Kafka that runs; default: a real one, started here")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args()
    if not LEAST_ROWS <= options.rows <= table.ROWS:
        parser.error(f"--rows: expected {LEAST_ROWS} to {table.ROWS}, got {options.rows}")
    return options


@contextmanager
def _broker() -> Iterator[str]:
    sys.path.insert(0, str(ROOT))
    from tests.support.kafka import Broker
    from tests.support.kafka_installation import InstallationError

    try:
        with Broker() as broker:
            yield broker.bootstrap
    except InstallationError as error:
        raise DaemonError(f"{error}\nOr name a broker that runs: --bootstrap HOST:PORT.") from None


@contextmanager
def _topic(bootstrap: str) -> Iterator[str]:
    """A topic of this run's own, which is also the name of its consumer group."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})
    name = f"flights-{uuid.uuid4().hex[:8]}"
    try:
        admin.create_topics([NewTopic(name, PARTITIONS)])[name].result(timeout=30)
    except TimeoutError:
        raise DaemonError(
            f"no broker answers at {bootstrap}. Is it there? --bootstrap HOST:PORT names another."
        ) from None
    try:
        yield name
    finally:
        # Where the broker is gone, what has failed before says so; the topic stays then.
        with suppress(KafkaException, TimeoutError):
            admin.delete_topics([name])[name].result(timeout=30)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for database, socket and log. It stays where the run fails: there is what one would look at."""
    folder = Path(tempfile.mkdtemp(prefix="flights-"))
    try:
        yield folder
    except Exception:
        print(f"The swarm's log and the database are in {folder}.", file=sys.stderr)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _readable(report: Report) -> str:
    lines = [
        f"rows          {report.rows:>9,}   {table.PACKAGE} {table.VERSION}, {len(report.expected)} carriers",
        f"produced      {report.produced:>9,}   keyed by carrier, {PARTITIONS} partitions",
    ]
    lines += [
        f"kill -9       {kill.at_rows:>9,}   rows counted: worker {kill.worker}, pid {kill.pid}, replaced by {kill.successor}"
        for kill in report.kills
    ]
    lines += [
        f"counted       {report.counted:>9,}   by {WORKERS} workers, restarts: {report.restarts}",
        f"redelivered   {report.skipped:>9,}   after the kills, and skipped",
        f"seconds       {report.seconds:>9.1f}",
        "",
        "carrier   flights  cancelled    distance  dep. delay  arr. delay",
    ]
    for carrier in sorted(report.expected.keys() | report.totals.keys(), key=lambda each: _flights(report, each)):
        sums, expected = report.totals.get(carrier, Sums()), report.expected.get(carrier, Sums())
        mark = "" if sums == expected else f"  expected {expected}"
        lines.append(
            f"{carrier:<9} {sums.flights:>7,}  {sums.cancelled:>9,} {sums.distance:>11,} {sums.departure_delay:>11,} {sums.arrival_delay:>11,}{mark}"
        )
    return "\n".join([*lines, "", f"totals agree: {'yes' if report.agrees else 'NO'}"])


def _flights(report: Report, carrier: str) -> int:
    return -report.expected.get(carrier, Sums()).flights


if __name__ == "__main__":
    sys.exit(main())
