"""Notes how long messages were on their way to a batch handler."""

import os

from delays import Delays

from swarm import App, Messages

app = App("latency_batch")
delays = Delays()


@app.subscribe(os.environ["BENCHMARK_TOPIC"], initial_offset="latest")
def note(messages: Messages) -> None:
    for message in messages:
        delays.note(message.value)
