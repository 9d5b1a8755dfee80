"""A coroutine for each message that reads its value and waits for nothing."""

import os

from tally import Tally

from swarm import App, Message

app = App("async_each")
tally = Tally()


@app.each(os.environ["BENCHMARK_TOPIC"], initial_offset="earliest")
async def touch(message: Message) -> None:
    message.value  # noqa: B018  # reading it is the work
    tally.one()
