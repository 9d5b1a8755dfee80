"""Who takes part, as data: a file of `contestants/` each, with what it is started with. Starts nothing, knows no figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Kind = Literal["ours", "raw", "peer"]
Form = Literal["batch", "each", "transactions", "waiting"]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One that reads the topic. `script`: its file; `share`: of the topic's messages that it reads, so that all take seconds."""

    name: str
    kind: Kind
    form: Form
    script: str
    share: float = 1.0
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Ours: over the defaults of `swarm.toml`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    same_properties: bool = True
    """Raw: with the swarm's librdkafka properties, else with librdkafka's defaults."""
    scraped: bool = False
    """Ours: somebody asks for its metrics meanwhile."""
    peer: str = ""
    """Peers: the folder of its virtual environment in build/peers (`make peers`)."""


FIELD: Final = (
    Contestant("consume", "raw", "batch", "raw"),
    Contestant("consume, defaults", "raw", "batch", "raw", 0.5, same_properties=False),
    Contestant("poll", "raw", "each", "raw_poll", 0.5),
    Contestant("poll, defaults", "raw", "each", "raw_poll", 0.25, same_properties=False),
    Contestant("transactions, defaults", "raw", "transactions", "raw_transactions", 0.01, same_properties=False),
    Contestant("batch", "ours", "batch", "batch"),
    Contestant("batch, values read", "ours", "batch", "values"),
    Contestant("batch, async", "ours", "batch", "async_batch"),
    Contestant("batch, dead letters on", "ours", "batch", "dead_letters"),
    Contestant("batch, 4 slices by key", "ours", "batch", "virtual"),
    Contestant("batch, no journal", "ours", "batch", "batch", settings={"journal": {"enabled": False}}),
    Contestant("batch, no metrics", "ours", "batch", "batch", settings={"observer": {"port": 0}}),
    Contestant("batch, metrics asked for", "ours", "batch", "batch", scraped=True),
    Contestant("each", "ours", "each", "each", 0.5),
    Contestant("each, async", "ours", "each", "async_each", 0.5),
    Contestant("exactly-once", "ours", "transactions", "exactly_once", 0.06),
    Contestant(
        "exactly-once, 6 partitions together",
        "ours",
        "transactions",
        "exactly_once",
        0.06,
        environment={"BENCHMARK_TOGETHER": "6"},
    ),
    Contestant("aiokafka getmany", "peer", "batch", "peers/aiokafka_batch", 0.4, peer="aiokafka"),
    Contestant("aiokafka async for", "peer", "each", "peers/aiokafka_each", 0.2, peer="aiokafka"),
    Contestant("kafka-python poll", "peer", "batch", "peers/kafka_python_batch", 0.1, peer="kafka-python"),
    Contestant("kafka-python iterator", "peer", "each", "peers/kafka_python_each", 0.1, peer="kafka-python"),
    Contestant("quixstreams", "peer", "each", "peers/quixstreams_each", 0.1, peer="quixstreams"),
    Contestant("arroyo", "peer", "each", "peers/arroyo_each", 0.05, peer="arroyo"),
    Contestant(
        "arroyo, multiprocessing",
        "peer",
        "batch",
        "peers/arroyo_each",
        0.05,
        environment={"BENCHMARK_FORM": "multiprocessing"},
        peer="arroyo",
    ),
    *(
        Contestant(
            f"FastStream {library}, {form}",
            "peer",
            form,  # type: ignore[arg-type]
            f"peers/faststream_{library}",
            share,
            environment={"BENCHMARK_FORM": form},
            peer="faststream",
        )
        for library in ("confluent", "aiokafka")
        for form, share in (("batch", 0.05), ("each", 0.01))
    ),
)

QUICK: Final = ("consume", "poll", "batch", "batch, values read", "each", "each, async", "batch, 4 slices by key")
"""For `make bench-quick`: what has a bound in bounds.json, and what it is compared with."""

MEASURE: Final[Mapping[str, str]] = {"batch": "consume", "each": "poll", "transactions": "transactions, defaults"}
"""What a form is compared with: the bare loop of the same form."""


def named(name: str) -> Contestant:
    """The contestant of that name; raises KeyError."""
    for contestant in FIELD:
        if contestant.name == name:
            return contestant
    raise KeyError(name)
