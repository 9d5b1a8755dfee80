"""A handler that waits a millisecond for each message, as for a database; BENCHMARK_SLICES > 1: in so many slices at once."""

import os
import time

from tally import Tally

from swarm import App, Message, VirtualPartitions

app = App("waiting")
tally = Tally()
slices = int(os.environ.get("BENCHMARK_SLICES", "1"))


@app.each(
    os.environ["BENCHMARK_TOPIC"],
    initial_offset="earliest",
    virtual_partitions=VirtualPartitions("key", maximum=slices) if slices > 1 else None,
)
def wait(message: Message) -> None:
    time.sleep(0.001)
    tally.one()
