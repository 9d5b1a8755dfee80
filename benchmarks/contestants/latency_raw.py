"""Notes how long messages were on their way to a bare loop: over poll(), or BENCHMARK_LOOP=consume: over consume(500, 0.1)."""

import json
import os

from confluent_kafka import Consumer, KafkaException, Message
from delays import Delays


def main() -> None:
    consumer = Consumer(json.loads(os.environ["BENCHMARK_PROPERTIES"]) | {"enable.partition.eof": False})
    consumer.subscribe([os.environ["BENCHMARK_TOPIC"]])
    delays = Delays()

    def note(message: Message) -> None:
        if message.error() is not None:
            raise KafkaException(message.error())
        value = message.value()
        assert value is not None
        delays.note(value)

    if os.environ.get("BENCHMARK_LOOP") == "consume":
        while True:
            for message in consumer.consume(500, 0.1):
                note(message)
    while True:
        one = consumer.poll(0.1)
        if one is not None:
            note(one)


main()
