"""The measure of all: a bare loop over consume(500, 0.1) that touches each value. Its librdkafka properties are in BENCHMARK_PROPERTIES."""

import json
import os

from confluent_kafka import Consumer, KafkaException
from tally import Tally


def main() -> None:
    # A bare loop has no use for the message that there is none.
    consumer = Consumer(json.loads(os.environ["BENCHMARK_PROPERTIES"]) | {"enable.partition.eof": False})
    consumer.subscribe([os.environ["BENCHMARK_TOPIC"]])
    tally = Tally()
    while True:  # until it is told to end: the runner does so when it has the result
        messages = consumer.consume(500, 0.1)
        if messages:
            for message in messages:
                if message.error() is not None:
                    raise KafkaException(message.error())
                message.value()
            tally.add(len(messages))


main()
