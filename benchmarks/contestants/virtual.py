"""Four slices of each batch, by key, and a handler that does nothing with them."""

import os

from tally import Tally

from swarm import App, Messages, VirtualPartitions

app = App("virtual")
tally = Tally()


@app.subscribe(
    os.environ["BENCHMARK_TOPIC"], initial_offset="earliest", virtual_partitions=VirtualPartitions("key", maximum=4)
)
def nothing(messages: Messages) -> None:
    tally.add(len(messages))
