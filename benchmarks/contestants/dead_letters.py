"""A no-op batch with a dead letter topic: what it costs while nothing fails."""

import os

from tally import Tally

from swarm import App, DeadLetter, Messages

app = App("dead_letters")
tally = Tally()


@app.subscribe(
    os.environ["BENCHMARK_TOPIC"],
    initial_offset="earliest",
    dead_letter=DeadLetter(os.environ["BENCHMARK_TOPIC"] + ".dead"),
)
def nothing(messages: Messages) -> None:
    tally.add(len(messages))
