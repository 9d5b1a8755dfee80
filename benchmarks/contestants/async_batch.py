"""A coroutine for each batch that does nothing."""

import os

from tally import Tally

from swarm import App, Messages

app = App("async_batch")
tally = Tally()


@app.subscribe(os.environ["BENCHMARK_TOPIC"], initial_offset="earliest")
async def nothing(messages: Messages) -> None:
    tally.add(len(messages))
