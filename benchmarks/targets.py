"""What was aimed at, what was measured, and whether it is met. Pure: reads results, knows no machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from figures import of_same_runs

Results = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """`measured` picks the figure from the results, and raises KeyError where it was not measured; `least` or `most` bounds it."""

    what: str
    measured: Callable[[Results], float]
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @property
    def aim(self) -> str:
        """The bound in words."""
        if self.least is not None:
            return f"{_shown(self.least, self.unit)} or more"
        assert self.most is not None
        return f"{_shown(self.most, self.unit)} or less"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what became of it. None: not measured."""

    target: Target
    figure: float | None

    @property
    def met(self) -> bool | None:
        """Whether it is met; None: not measured."""
        if self.figure is None:
            return None
        if self.target.least is not None:
            return self.figure >= self.target.least
        return self.figure <= (self.target.most or 0.0)

    @property
    def shown(self) -> str:
        """The figure with its unit."""
        return "not measured" if self.figure is None else _shown(self.figure, self.target.unit)


def verdicts(results: Results) -> list[Verdict]:
    """Every target, in the order of the table."""
    found = []
    for target in TARGETS:
        try:
            found.append(Verdict(target, target.measured(results)))
        except (KeyError, ZeroDivisionError):
            found.append(Verdict(target, None))
    return found


def _shown(figure: float, unit: str) -> str:
    if unit == "s":
        return f"{figure:.2f} s"
    if unit == "%":
        return f"{figure:.2g} %"
    return f"{figure:.2f}" if figure < 20 else f"{figure:,.0f}"


def _rate(results: Results, name: str) -> float:
    return float(results["throughput"]["contestants"][name]["messages_per_second"]["median"])


def _against(ours: str, theirs: str) -> Callable[[Results], float]:
    """The median ratio of runs that followed each other (`pairs`), where it was measured, else of those of one round."""

    def ratio(results: Results) -> float:
        pair = results.get("pairs", {}).get("pairs", {}).get(f"{ours} / {theirs}", {})
        if "pace" in pair:
            return float(pair["pace"]["median"])
        found = results["throughput"]["contestants"]
        pairs = of_same_runs(found[ours]["runs"], found[theirs]["runs"])
        return statistics.median(pairs) if pairs else 1 / 0

    return ratio


def _fastest(results: Results, *names: str) -> float:
    """The rate of the fastest of those that ran."""
    found = results["throughput"]["contestants"]
    return max(_rate(results, name) for name in names if name in found) if any(n in found for n in names) else 1 / 0


def _gain(results: Results, kind: str) -> float:
    """How many times as much as one process two of them compute."""
    return float(results["scaling"][kind]["2"]["against_one"]["median"])


def _latency(contestant: str, kind: str) -> Callable[[Results], float]:
    return lambda results: float(
        results["latency"]["rates"]["1000"]["contestants"][contestant]["ratio"][kind]["median"]
    )


def _private(results: Results) -> float:
    found = results["idle"]["swarms"]["8"]["processes"]
    return float(found["worker"]["uss"] / found["bare_consumer"]["uss"])


def _idle_cost(results: Results) -> float:
    found = results["idle"]["swarms"]["64"]["processes"]
    return float(found["supervisor"]["cpu_percent"] + found["observer"]["cpu_percent"])


_OTHERS = (
    "quixstreams",
    "FastStream confluent, batch",
    "FastStream aiokafka, batch",
    "arroyo",
    "arroyo, multiprocessing",
)
_KAFKA_PYTHON = ("kafka-python poll", "kafka-python iterator")
_FASTSTREAM_EACH = ("FastStream confluent, each", "FastStream aiokafka, each")

TARGETS: Final = (
    Target("batch, against `consume(500, 0.1)` with the same properties", _against("batch", "consume"), least=0.95),
    Target("batch that reads each value, against the same", _against("batch, values read", "consume"), least=0.95),
    Target("batch, against the client's defaults", _against("batch", "consume, defaults"), least=3.0),
    Target("`each`, against a `poll()` loop with the same properties", _against("each", "poll"), least=1.0),
    Target("async `each`, against aiokafka's `async for`", _against("each, async", "aiokafka async for"), least=1.0),
    Target(
        "async `each`, against FastStream",
        lambda results: _rate(results, "each, async") / _fastest(results, *_FASTSTREAM_EACH),
        least=15.0,
    ),
    Target("batch in 4 slices by key, against the plain batch", _against("batch, 4 slices by key", "batch"), least=0.6),
    Target(
        "4 slices where the handler waits 1 ms, against plain",
        lambda results: float(results["slices"]["ratio"]["median"]),
        least=3.5,
    ),
    Target(
        "exactly-once, against a loop with the client's defaults",
        _against("exactly-once", "transactions, defaults"),
        least=3.0,
    ),
    Target("batch, against aiokafka's `getmany`", _against("batch", "aiokafka getmany"), least=2.5),
    Target(
        "batch, against the best of the other peers",
        lambda results: _rate(results, "batch") / _fastest(results, *_OTHERS, *_KAFKA_PYTHON),
        least=10.0,
    ),
    Target("`each`, against aiokafka's `async for`", _against("each", "aiokafka async for"), least=4.0),
    Target(
        "`each`, against FastStream",
        lambda results: _rate(results, "each") / _fastest(results, *_FASTSTREAM_EACH),
        least=50.0,
    ),
    Target(
        "2 workers to 1 that compute, against 2 bare processes to 1",
        lambda results: _gain(results, "swarm") / _gain(results, "bare"),
        least=0.95,
    ),
    Target(
        "2 workers that compute, against 2 bare processes",
        lambda results: float(results["scaling"]["swarm_against_bare"]["2"]["median"]),
        least=0.95,
    ),
    Target("latency at 1,000/s, `batch` to `poll()` loop: p50", _latency("batch", "p50"), most=1.1),
    Target("the same: p99", _latency("batch", "p99"), most=1.1),
    Target(
        "`swarmctl start` to the first message, 4 workers",
        lambda results: float(results["startup"]["swarm"]["seconds"]["median"]),
        most=1.5,
        unit="s",
    ),
    Target(
        "kill -9 to the next message of its partitions",
        lambda results: float(results["takeover"]["first"]["median"]),
        most=0.25,
        unit="s",
    ),
    Target("private memory of a worker, against a bare consumer process", _private, most=0.6),
    Target("supervisor and observer, 64 idle workers, of a core", _idle_cost, most=1.0, unit="%"),
    Target("with the journal, against without", _against("batch", "batch, no journal"), least=0.98),
    Target(
        "with metrics that are asked for, against without",
        _against("batch, metrics asked for", "batch, no metrics"),
        least=0.98,
    ),
)
