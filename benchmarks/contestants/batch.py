"""A handler that does nothing with a batch: what the swarm itself costs."""

import os

from tally import Tally

from swarm import App, Messages

app = App("batch")
tally = Tally()


@app.subscribe(os.environ["BENCHMARK_TOPIC"], initial_offset="earliest")
def nothing(messages: Messages) -> None:
    tally.add(len(messages))
