"""A bare process that computes (`furnace`): a member of a group, beside as many others as one likes."""

import json
import os

from confluent_kafka import Consumer, KafkaException
from furnace import Furnace


def main() -> None:
    consumer = Consumer(json.loads(os.environ["BENCHMARK_PROPERTIES"]) | {"enable.partition.eof": False})
    consumer.subscribe([os.environ["BENCHMARK_TOPIC"]])
    furnace = Furnace()
    while True:
        messages = consumer.consume(100, 0.1)
        for message in messages:
            if message.error() is not None:
                raise KafkaException(message.error())
        if messages:
            furnace.burn(messages)


main()
