"""Counts flights per carrier into SQLite, exactly once in effect: what is delivered twice is added once. Knows no table of flights."""

import os
from typing import NamedTuple

from ledger import Ledger, Sums

from swarm import App, Consumer, Messages

TOPIC = os.environ.get("FLIGHTS_TOPIC", "flights")
DATABASE = os.environ.get("FLIGHTS_DATABASE", "flights.sqlite")

app = App("flights")  # also the consumer group


class Flight(NamedTuple):
    """What the totals need of a row. A delay is in minutes; None for a flight that never left or never came."""

    carrier: str
    distance: int
    departure_delay: int | None
    arrival_delay: int | None


def flight(row: bytes) -> Flight:
    """One line of the table; a line that is none raises, and so is tried again instead of being passed over."""
    fields = row.decode().split(",")
    departure_delay, arrival_delay, carrier, distance = fields[5], fields[8], fields[9], fields[15]
    return Flight(carrier, int(distance), minutes(departure_delay), minutes(arrival_delay))


def minutes(text: str) -> int | None:
    return None if text in {"", "NA"} else int(text)


@app.subscribe(TOPIC, deserializer=flight, initial_offset="earliest")
class Flights(Consumer):
    """One instance for each partition that a worker holds; all workers write into one database."""

    ledger: Ledger | None = None

    def consume(self, messages: Messages) -> None:
        # Opened by the first batch: in a worker, after the fork. A lock held by another worker for too long raises
        # here, and the batch comes again.
        self.ledger = self.ledger or Ledger(DATABASE)
        with self.ledger.partition(messages.topic, messages.partition) as entry:
            sums: dict[str, Sums] = {}
            for message in messages:
                if entry.is_new(message.offset):
                    carrier, distance, departure_delay, arrival_delay = message.value
                    sums.setdefault(carrier, Sums()).add(distance, departure_delay, arrival_delay)
            entry.add(sums)

    def on_revoked(self) -> None:
        self.close()

    def on_shutdown(self) -> None:
        self.close()

    def close(self) -> None:
        if self.ledger is not None:
            self.ledger.close()
            self.ledger = None
