"""A function for each message: orders become receipts, and an order that cannot be read goes aside after three attempts."""

import json
from typing import Any

from swarm import App, Backoff, DeadLetter, Message

app = App("orders")  # also the consumer group


def order(raw: bytes) -> dict[str, Any]:
    """Runs when a handler asks for `message.value`, so what it raises is a failed attempt of that message alone."""
    value: dict[str, Any] = json.loads(raw)
    return value


@app.each(
    "orders",
    deserializer=order,
    initial_offset="earliest",
    backoff=Backoff(initial=0.2),
    dead_letter=DeadLetter("orders.dead", max_attempts=3),
)
def receipt(message: Message) -> None:
    """Each message is marked as consumed when this returns; the orders of one partition come one after the other."""
    value = message.value
    line = f"{message.partition}@{message.offset}  order {value['order']}: {value['amount']:.2f}\n"
    print(line, end="", flush=True)  # in one piece: other threads print too
