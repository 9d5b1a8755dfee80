"""Notes when which partition was processed, by which process: a line for each batch in BENCHMARK_RESULT."""

import os
import time

from swarm import App, Messages

app = App("pulse")
# O_APPEND: each line is one write, so those of several processes do not mix; and none is lost with a process.
journal = os.open(os.environ["BENCHMARK_RESULT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


@app.subscribe(os.environ["BENCHMARK_TOPIC"], initial_offset="earliest")
def note(messages: Messages) -> None:
    os.write(journal, f"{time.monotonic()} {messages.partition} {os.getpid()}\n".encode())
