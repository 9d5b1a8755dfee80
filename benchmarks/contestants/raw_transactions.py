"""A bare loop that reads up to 500 messages, produces one for each, and commits both in one transaction.

The librdkafka properties of its consumer are in BENCHMARK_PROPERTIES; its producer has the client's defaults.
"""

import json
import os

from confluent_kafka import Consumer, KafkaException, Producer
from tally import Tally

OUT = os.environ["BENCHMARK_OUT"]


def main() -> None:
    properties = json.loads(os.environ["BENCHMARK_PROPERTIES"])
    consumer = Consumer(properties | {"enable.partition.eof": False, "enable.auto.commit": False})
    consumer.subscribe([os.environ["BENCHMARK_TOPIC"]])
    address = properties["bootstrap.servers"]
    producer = Producer({"bootstrap.servers": address, "transactional.id": properties["group.id"]})
    producer.init_transactions()
    tally = Tally()
    while True:
        messages = consumer.consume(500, 0.1)
        if not messages:
            continue
        producer.begin_transaction()
        for message in messages:
            if message.error() is not None:
                raise KafkaException(message.error())
            producer.produce(OUT, value=message.value())
        offsets = consumer.position(consumer.assignment())
        producer.send_offsets_to_transaction([p for p in offsets if p.offset >= 0], consumer.consumer_group_metadata())
        producer.commit_transaction()
        tally.add(len(messages))


main()
