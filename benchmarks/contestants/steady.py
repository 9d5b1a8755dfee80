"""Steady input until it is told to end: BENCHMARK_RATE messages a second, to each partition in its turn."""

import os
import time

from confluent_kafka import Producer

PARTITIONS = int(os.environ["BENCHMARK_PARTITIONS"])
INTERVAL = 1 / float(os.environ["BENCHMARK_RATE"])


def main() -> None:
    producer = Producer({"bootstrap.servers": os.environ["BENCHMARK_BOOTSTRAP"], "linger.ms": 0, "acks": 1})
    due = time.monotonic()
    number = 0
    while True:
        while due <= time.monotonic():  # what a late wake-up has missed goes out at once
            producer.produce(os.environ["BENCHMARK_TOPIC"], value=bytes(200), partition=number % PARTITIONS)
            number += 1
            due += INTERVAL
        producer.poll(0)
        time.sleep(max(0.0, due - time.monotonic()))


main()
