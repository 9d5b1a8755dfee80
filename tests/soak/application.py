"""The application of the soak: workers that leak, hang, crash and stall at random. Copied into the project as `app.py`."""

from __future__ import annotations

import ctypes
import os
import random
import time
from pathlib import Path

from swarm import App, Message

app = App("soak")
_chance = random.Random(os.getpid())
_leaked: list[bytes] = []
_seen = os.open(Path(__file__).with_name("seen"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
# Leaks come often, for it takes two, between which nothing else may end the process, to be over the limit.
TROUBLES = (*["leak"] * 4, "hang", "crash", "exit", "raise", "hold the GIL")


@app.after_fork
def reseed(_worker: int) -> None:
    """Each process has troubles of its own."""
    _chance.seed(os.getpid())


@app.each("orders", max_messages=50)
def order(message: Message) -> None:
    """Work on one message, and now and then be in trouble instead. The line is written last: the message is done then."""
    time.sleep(0.001)
    if _chance.random() < 1 / 4000:
        trouble(_chance.choice(TROUBLES))
    os.write(_seen, f"{message.partition} {message.offset}\n".encode())


def trouble(kind: str) -> None:
    """What may be wrong with a worker."""
    match kind:
        case "leak":
            _leaked.append(os.urandom(1) * (60 << 20))
        case "hang":
            time.sleep(3600)
        case "crash":
            ctypes.string_at(0)
        case "exit":
            os._exit(13)
        case "raise":
            raise ValueError("now and then a handler fails")
        case "hold the GIL":
            ctypes.PyDLL(None).sleep(60)
