"""A handler that touches each value of a batch, as the raw loop does."""

import os

from tally import Tally

from swarm import App, Messages

app = App("values")
tally = Tally()


@app.subscribe(os.environ["BENCHMARK_TOPIC"], initial_offset="earliest")
def touch(messages: Messages) -> None:
    for message in messages:
        message.value  # noqa: B018  # reading it is the work
    tally.add(len(messages))
