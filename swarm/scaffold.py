"""The files of a new application, as `swarmctl init` writes them. Knows their text; starts nothing.

What it writes runs at once against `swarmctl broker --port PORT`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import keyword
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from swarm.errors import SwarmError

PORT: Final = 19892
"""Of the broker in a new swarm.toml. Not Kafka's 9092: made-up orders must not go to a real one that happens to listen there."""

_SETTINGS: Final = """\
# What `swarmctl start` in this directory runs. Everything here can also come from the environment (SWARM_WORKERS=8) or from
# an option (-o worker.concurrency=8); `swarmctl check` says what is wrong without starting anything.
[swarm]
app = "$name.app:app"       # module:attribute, imported from this directory
workers = 3                 # processes; "auto" takes one for each CPU

[kafka]                     # any librdkafka property, verbatim
"bootstrap.servers" = "127.0.0.1:$port"
"session.timeout.ms" = 6000  # for `swarmctl broker`, whose rebalances take nearly as long; drop it for a real Kafka

[worker]
concurrency = 4             # threads that run handlers, in each worker
commit_interval = "5s"      # a worker that crashes repeats what it handled since its last commit

[observer]
port = 9464                 # http://127.0.0.1:9464/metrics /healthz /readyz; 0: off
"""

_APP: Final = '''\
"""What this application does with its messages. It is imported once, before the workers are forked: open no connection here."""

import json

from swarm import App, Consumer, Messages

app = App("$name")  # also the consumer group


@app.subscribe("orders", deserializer=json.loads, initial_offset="earliest")
class Orders(Consumer):
    """Handles one partition of the topic; there is one instance for each that this worker holds."""

    def consume(self, messages: Messages) -> None:
        """Called with what has arrived. What raises is tried again, from the first message that was not marked."""
        for message in messages:
            order = message.value
            print(
                f"worker {self.worker}  {message.topic}/{message.partition}@{message.offset}  "
                f"order {order['order']}: {order['amount']:.2f} from {order['customer']}",
                flush=True,
            )
            self.mark_as_consumed(message)
'''

_PRODUCE: Final = '''\
"""Produces made-up orders for the application: python -m $name.produce [HOW_MANY]"""

import json
import os
import random
import sys
import tomllib
from pathlib import Path

from confluent_kafka import Producer


def main() -> None:
    settings = tomllib.loads(Path("swarm.toml").read_text())
    servers = os.environ.get("SWARM_KAFKA__BOOTSTRAP_SERVERS") or settings["kafka"]["bootstrap.servers"]
    how_many = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "message.timeout.ms": 10_000})
    failures = []
    for number in range(how_many):
        customer = f"customer-{random.randrange(50)}"
        order = {"order": number, "customer": customer, "amount": round(random.uniform(5, 200), 2)}
        # The key decides the partition: the orders of one customer stay in order.
        producer.produce(
            "orders", json.dumps(order), key=customer, on_delivery=lambda error, _: failures.append(error) if error else None
        )
        producer.poll(0)
    left = producer.flush(15)
    if failures or left:
        sys.exit(f"{len(failures) + left} of {how_many} orders were not delivered to {servers}: {failures[:1]}")
    print(f"{how_many} orders produced to {servers}")


if __name__ == "__main__":
    main()
'''


@dataclass(frozen=True, slots=True)
class Written:
    """What was made: the directory, the package's name, and the files relative to the directory."""

    directory: Path
    name: str
    files: tuple[str, ...]


def write(directory: Path) -> Written:
    """Write the files of a new application into `directory`, which is made if need be; overwrites nothing.

    Raises SwarmError, having written nothing, if one of them is there already, or if the directory is not writable.
    """
    name = package_name(directory.resolve().name)
    texts = {
        "swarm.toml": _SETTINGS,
        f"{name}/__init__.py": "",
        f"{name}/app.py": _APP,
        f"{name}/produce.py": _PRODUCE,
    }
    there = [file for file in texts if os.path.lexists(directory / file)]
    if there:
        raise SwarmError(
            f"{directory}: {', '.join(there)} {'is' if len(there) == 1 else 'are'} there already; nothing was written.\n"
            "Name another directory: swarmctl init DIR."
        )
    try:
        for file, text in texts.items():
            path = directory / file
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x") as out:  # x: also what appeared since we looked is not overwritten
                out.write(Template(text).substitute(name=name, port=PORT))
    except OSError as error:
        raise SwarmError(
            f"{error.filename or directory}: cannot write it: {error.strerror}.\nName another directory."
        ) from None
    return Written(directory, name, tuple(texts))


def package_name(text: str) -> str:
    """A name for the package, from the directory's: one that can be imported and hides no other module."""
    name = re.sub(r"[^a-z0-9_]+", "_", text.lower()).strip("_")
    if not name or name[0].isdigit():
        name = f"app_{name}".rstrip("_")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in sys.stdlib_module_names or _installed(name):
        name += "_app"
    return name


def _installed(name: str) -> bool:
    # Only what is found elsewhere is hidden: a directory of this name in the current one is what we are about to fill.
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)
        return spec is not None and spec.origin is not None
    return False
