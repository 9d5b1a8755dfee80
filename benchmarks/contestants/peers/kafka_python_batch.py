"""kafka-python's form for batches: `poll`."""

import os

from kafka import KafkaConsumer
from tally import Tally


def main() -> None:
    consumer = KafkaConsumer(
        os.environ["BENCHMARK_TOPIC"],
        bootstrap_servers=os.environ["BENCHMARK_BOOTSTRAP"],
        group_id=os.environ["BENCHMARK_GROUP"],
        auto_offset_reset="earliest",
    )
    tally = Tally()
    while True:
        for messages in consumer.poll(timeout_ms=100, max_records=500).values():
            for message in messages:
                message.value  # noqa: B018
            tally.add(len(messages))


main()
