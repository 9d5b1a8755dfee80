"""The producing side of `swarmctl demo`, a process of its own: `python -m swarm.demo_orders produce|create|delete …`.

Made-up orders at a steady rate until SIGTERM, each written down once the broker has confirmed it; and on somebody's own cluster
the topic for them. Knows Kafka's clients; knows no swarm.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from typing import Any, Final

from swarm.wording import counted, plural

_FLUSH_PATIENCE: Final = 10.0
_ADMIN_PATIENCE: Final = 20.0
_ITEMS: Final = ("espresso", "flat white", "filter coffee", "cortado", "tea", "croissant")
_CUSTOMERS: Final = 500


def produce(servers: str, topic: str, path: str, rate: float) -> int:
    """Produce `rate` orders a second until SIGTERM; append `PARTITION OFFSET` of each confirmed one to `path`."""
    from confluent_kafka import Producer

    going = True

    def end(*_: Any) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, end)
    confirmed: list[bytes] = []
    failed: list[str] = []

    def report(error: Any, message: Any) -> None:
        if error is not None:
            failed.append(str(error))
        else:
            confirmed.append(f"{message.partition()} {message.offset()}\n".encode())

    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "linger.ms": 5, "log_level": 3})
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    began, number = time.monotonic(), 0
    while going:
        while number < (time.monotonic() - began) * rate:
            customer = f"customer-{random.randrange(_CUSTOMERS)}"
            order = {"order": number, "customer": customer, "item": random.choice(_ITEMS)}
            producer.produce(topic, json.dumps(order), key=customer, on_delivery=report)
            number += 1
        producer.poll(0.02)
        _write_all(log, confirmed)
    unconfirmed = producer.flush(_FLUSH_PATIENCE)
    _write_all(log, confirmed)
    if failed or unconfirmed:
        why = failed[0] if failed else f"no answer within {_FLUSH_PATIENCE:g} s"
        lost = len(failed) + unconfirmed
        print(
            f"{counted(lost, 'order')} {plural(lost, 'was', 'were')} not confirmed by the broker: {why}",
            file=sys.stderr,
        )
    return 0


def _write_all(log: int, confirmed: list[bytes]) -> None:
    if confirmed:
        os.write(log, b"".join(confirmed))
        confirmed.clear()


def create(servers: str, topic: str, partitions: int) -> int:
    """Make the topic, with the cluster's own replication factor; 1 with the reason on stderr if that fails."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # said in __all__ nowhere

    admin = AdminClient({"bootstrap.servers": servers, "log_level": 2})
    try:
        new = NewTopic(topic, num_partitions=partitions, replication_factor=-1)
        admin.create_topics([new], request_timeout=_ADMIN_PATIENCE)[topic].result(_ADMIN_PATIENCE + 5)
        deadline = time.monotonic() + _ADMIN_PATIENCE
        while topic not in admin.list_topics(timeout=_ADMIN_PATIENCE).topics and time.monotonic() < deadline:
            time.sleep(0.05)  # made, but this broker has not heard of it yet
    except KafkaException as error:
        print(error.args[0].str(), file=sys.stderr)
        return 1
    return 0


def delete(servers: str, topic: str) -> int:
    """Delete the topic, and with it the group's offsets; 1 with the reason on stderr if that fails.

    The group itself goes by the broker's own housekeeping: the seats of its static members outlive them by a session timeout.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": servers, "log_level": 2})
    try:
        admin.delete_topics([topic], request_timeout=_ADMIN_PATIENCE)[topic].result(_ADMIN_PATIENCE + 5)
    except KafkaException as error:
        print(error.args[0].str(), file=sys.stderr)
        return 1
    return 0


def main(arguments: list[str]) -> int:
    """The command line of this process."""
    match arguments:
        case ["produce", servers, topic, path, rate]:
            return produce(servers, topic, path, float(rate))
        case ["create", servers, topic, partitions]:
            return create(servers, topic, int(partitions))
        case ["delete", servers, topic]:
            return delete(servers, topic)
        case _:
            print(f"swarm.demo_orders: unknown arguments {arguments!r}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
