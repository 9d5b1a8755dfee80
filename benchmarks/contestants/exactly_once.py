"""Reads, produces one message for each, and commits both in one transaction for each batch of at most 500."""

import os

from tally import Tally

from swarm import App, Consumer, Messages

app = App("exactly_once")
tally = Tally()
OUT = os.environ["BENCHMARK_OUT"]


@app.subscribe(
    os.environ["BENCHMARK_TOPIC"],
    initial_offset="earliest",
    delivery="exactly_once",
    transaction_partitions=int(os.environ.get("BENCHMARK_TOGETHER", "1")),
)
class Copy(Consumer):
    def consume(self, messages: Messages) -> None:
        produce = self.producer.produce
        for message in messages:
            produce(OUT, value=message.value)
        tally.add(len(messages))
