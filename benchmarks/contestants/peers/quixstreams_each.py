"""Quix Streams: a dataframe over the topic, updated for each message. Values are taken as bytes."""

import os

from quixstreams import Application
from tally import Tally

tally = Tally()


def main() -> None:
    app = Application(
        broker_address=os.environ["BENCHMARK_BOOTSTRAP"],
        consumer_group=os.environ["BENCHMARK_GROUP"],
        auto_offset_reset="earliest",
        loglevel="ERROR",
    )
    topic = app.topic(os.environ["BENCHMARK_TOPIC"], value_deserializer="bytes", key_deserializer="bytes")
    frame = app.dataframe(topic)
    frame.update(lambda value: tally.one())
    app.run()


main()
