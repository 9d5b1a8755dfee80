"""Steady input until it is told to end: BENCHMARK_RATE messages a second, each with the instant at which it was produced."""

import os
import time

from confluent_kafka import Producer

PARTITIONS = int(os.environ["BENCHMARK_PARTITIONS"])
RATE = float(os.environ["BENCHMARK_RATE"])


def main() -> None:
    # At a low rate nothing waits for company; at a high one a millisecond's worth goes in one request.
    linger = 0 if RATE <= 1000 else 1
    producer = Producer({"bootstrap.servers": os.environ["BENCHMARK_BOOTSTRAP"], "linger.ms": linger, "acks": 1})
    topic, rest = os.environ["BENCHMARK_TOPIC"], bytes(192)
    began = time.monotonic()
    sent = 0
    while True:
        due = int((time.monotonic() - began) * RATE)  # what a late wake-up has missed goes out at once
        for number in range(sent, due):
            stamp = time.monotonic_ns().to_bytes(8, "little")
            producer.produce(topic, value=stamp + rest, partition=number % PARTITIONS)
        sent = due
        producer.poll(0)
        time.sleep(min(0.001, 1 / RATE))


main()
