"""The example that the README shows, on a slice of its table: `make example` runs the whole."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

from tests.support.kafka import Broker
from tests.support.tether import tethered

ROOT = Path(__file__).resolve().parents[2]
ROWS = 20_000


def test_flights_totals_agree_after_two_kills(broker: Broker) -> None:
    """Two SIGKILLs on the way: what comes again is added once, nothing is missing, and each sum is that of the table."""
    done = subprocess.run(
        tethered(
            [sys.executable, "examples/flights/run.py", f"--rows={ROWS}", f"--bootstrap={broker.bootstrap}", "--json"],
            signal.SIGTERM,  # it then stops its swarm
        ),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["totals"] == _totals_of_the_table()
    assert report["counted"] == report["produced"] == ROWS
    assert len(report["kills"]) == report["restarts"] == 2
    assert report["exit_code"] == 0  # of the swarm: it stopped without killing anybody itself
    # A kill between the ledger's transaction and the commit to Kafka, which comes once a second, is what this is about.
    assert report["skipped"] > 0


def _totals_of_the_table() -> dict[str, dict[str, int]]:
    """Not by the example's own reader: the example and its test should not share a mistake."""
    totals: dict[str, dict[str, int]] = {}
    with (ROOT / "build" / "flights" / "flights.csv").open(newline="") as file:
        for row in islice(csv.DictReader(file), ROWS):
            sums = totals.setdefault(
                row["carrier"],
                {"flights": 0, "cancelled": 0, "distance": 0, "departure_delay": 0, "arrival_delay": 0},
            )
            sums["flights"] += 1
            sums["cancelled"] += row["dep_delay"] == "NA"
            sums["distance"] += int(row["distance"])
            sums["departure_delay"] += int(row["dep_delay"].replace("NA", "0"))
            sums["arrival_delay"] += int(row["arr_delay"].replace("NA", "0"))
    return totals
