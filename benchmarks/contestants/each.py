"""A function that is called for each message and does nothing: the most convenient form, marked after each."""

import os
from itertools import count

from tally import MESSAGES, Tally

from swarm import App, Message

app = App("each")
tally = Tally()
numbers = count(1)  # `next` is one step for the interpreter: no lock for each message


@app.each(os.environ["BENCHMARK_TOPIC"], initial_offset="earliest")
def nothing(message: Message) -> None:
    number = next(numbers)
    if number == 1:
        tally.begin()
    if number == MESSAGES:
        tally.end()
