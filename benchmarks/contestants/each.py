"""A function that is called for each message and reads its value: the most convenient form, marked after each."""

import os

from tally import Tally

from swarm import App, Message

app = App("each")
tally = Tally()


@app.each(os.environ["BENCHMARK_TOPIC"], initial_offset="earliest")
def touch(message: Message) -> None:
    message.value  # noqa: B018  # reading it is the work
    tally.one()
