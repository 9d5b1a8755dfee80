"""A bare loop over poll() that touches each value. Its librdkafka properties are in BENCHMARK_PROPERTIES."""

import json
import os

from confluent_kafka import Consumer, KafkaException
from tally import Tally


def main() -> None:
    consumer = Consumer(json.loads(os.environ["BENCHMARK_PROPERTIES"]) | {"enable.partition.eof": False})
    consumer.subscribe([os.environ["BENCHMARK_TOPIC"]])
    tally = Tally()
    while True:  # until it is told to end: the runner does so when it has the result
        message = consumer.poll(0.1)
        if message is None:
            continue
        if message.error() is not None:
            raise KafkaException(message.error())
        message.value()
        tally.one()


main()
