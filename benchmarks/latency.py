"""From produce() to the handler, end to end, at a steady rate: p50, p99 and maximum. Figures only; prints nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Final

import contestant
from cluster import PARTITIONS, topic
from contestant import Failed
from field import Contestant
from figures import ratios, spread
from throughput import Start

RATES: Final = (1_000, 50_000)
SECONDS: Final = 3.0
"""Of messages that count, after SKIPPED seconds of those that do not."""
SKIPPED: Final = 1.5
FIELD: Final = (
    Contestant("poll", "raw", "each", "latency_raw"),
    Contestant("consume(500, 0.1)", "raw", "batch", "latency_raw", environment={"BENCHMARK_LOOP": "consume"}),
    Contestant("batch", "ours", "batch", "latency_batch"),
    Contestant("each", "ours", "each", "latency_each"),
    Contestant("aiokafka async for", "peer", "each", "peers/latency_aiokafka", peer="aiokafka"),
    Contestant("FastStream confluent", "peer", "each", "peers/latency_faststream", peer="faststream"),
)
SLOW: Final = frozenset({"FastStream confluent", "consume(500, 0.1)"})
"""Not at the highest rate, which they do not keep up with, or where they have nothing to show."""
MEASURE: Final = "poll"


def measure(bootstrap: str, runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Every contestant `runs` times at each rate, in turn."""
    rates = {}
    for rate in RATES:
        field = [each for each in FIELD if rate == RATES[0] or each.name not in SLOW]
        results: dict[str, list[dict[str, Any]]] = {each.name: [] for each in field}
        failures: dict[str, str] = {}
        for run in range(runs):
            for each in field[run % len(field) :] + field[: run % len(field)]:
                if each.name in failures:
                    continue
                try:
                    found = _once(bootstrap, each, rate)
                except Failed as error:
                    failures[each.name] = str(error)
                    say(f"latency: {rate:,}/s, run {run + 1} of {runs}, {each.name}: failed: {error}")
                    continue
                results[each.name].append(found)
                say(
                    f"latency: {rate:,}/s, run {run + 1} of {runs}, {each.name}:"
                    f" p50 {found['p50'] * 1e3:.2f} ms, p99 {found['p99'] * 1e3:.2f} ms"
                )
        rates[str(rate)] = {
            "contestants": {
                each.name: _summary(each, results[each.name], results[MEASURE]) for each in field if results[each.name]
            },
            "failed": failures,
        }
    return {"seconds": SECONDS, "rates": rates}


def _once(bootstrap: str, each: Contestant, rate: int) -> dict[str, Any]:
    with topic(bootstrap, "latency") as name, contestant.folder() as place:
        environment = {
            "BENCHMARK_TOPIC": name,
            "BENCHMARK_BOOTSTRAP": bootstrap,
            "BENCHMARK_PARTITIONS": str(PARTITIONS),
            "BENCHMARK_RATE": str(rate),
            "BENCHMARK_SKIP": str(int(rate * SKIPPED)),
            "BENCHMARK_MESSAGES": str(int(rate * SECONDS)),
            "BENCHMARK_RESULT": str(place / uuid.uuid4().hex[:8]),
        }
        same = contestant.bare_properties(contestant.properties("latency_batch", place, bootstrap, environment))
        same |= {"auto.offset.reset": "latest"}
        start = Start(place, bootstrap, environment, same, within=30.0)
        with contestant.program("pacer", environment):
            return start(each, int(rate * SECONDS))


def _summary(each: Contestant, found: list[dict[str, Any]], measure: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kind": each.kind,
        **{kind: spread([run[kind] for run in found]) for kind in ("p50", "p99", "max")},
        "ratio": {
            kind: spread(ratios([run[kind] for run in found], [run[kind] for run in measure]))
            for kind in ("p50", "p99")
            if measure
        },
        "runs": found,
    }
