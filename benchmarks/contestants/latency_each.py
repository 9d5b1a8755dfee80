"""Notes how long messages were on their way to a function that is called for each."""

import os

from delays import Delays

from swarm import App, Message

app = App("latency_each")
delays = Delays()


@app.each(os.environ["BENCHMARK_TOPIC"], initial_offset="latest")
def note(message: Message) -> None:
    delays.note(message.value)
