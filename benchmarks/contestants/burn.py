"""A swarm of workers that compute (`furnace`)."""

import os

from furnace import Furnace

from swarm import App, Messages

app = App("burn")
furnace = Furnace()


@app.subscribe(os.environ["BENCHMARK_TOPIC"], initial_offset="earliest", max_messages=100)
def burn(messages: Messages) -> None:
    furnace.burn(messages)
