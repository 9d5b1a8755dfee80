"""kafka-python's form for one message after the other: the consumer as an iterator."""

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
    for message in consumer:
        message.value  # noqa: B018
        tally.one()


main()
