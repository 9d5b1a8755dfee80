"""Messages a second of one worker, and of a bare loop with the same properties, in turn. Figures only; prints nothing.

Each run has all contestants, one after the other and in rotating order, on the same messages; ratios are taken within a run,
so that a machine that becomes slower meanwhile does not decide.
"""

from __future__ import annotations

import json
import statistics
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contestant
from cluster import PARTITIONS, SIZE, fill, topic

SWARMS = ("batch", "values", "each")
RAWS = ("raw", "raw_defaults")


def measure(bootstrap: str, messages: int, runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Every contestant `runs` times."""
    with topic(bootstrap, "throughput") as name, contestant.folder() as place:
        say(f"throughput: writing {messages:,} messages of {SIZE} bytes")
        fill(bootstrap, name, messages)
        environment = {"BENCHMARK_TOPIC": name, "BENCHMARK_MESSAGES": str(messages)}
        same = contestant.properties("batch", place, bootstrap, environment)
        raw = _raw_properties(same)
        defaults = {"bootstrap.servers": bootstrap, "auto.offset.reset": "earliest"}
        once = {
            "raw": lambda: _raw(raw, place, environment),
            "raw_defaults": lambda: _raw(defaults, place, environment),
            **{app: _swarm(app, place, bootstrap, environment) for app in SWARMS},
        }
        say("throughput: warming up")
        once["raw"]()  # not counted: the broker's code is compiled and the messages are in memory after it

        results: dict[str, list[dict[str, Any]]] = {each: [] for each in once}
        for run in range(runs):
            order = list(once)[run % len(once) :] + list(once)[: run % len(once)]
            for each in order:
                results[each].append(once[each]())
                rate = messages / results[each][-1]["seconds"]
                say(f"throughput: run {run + 1} of {runs}, {each}: {rate:,.0f} messages/s")
    return {
        "messages": messages,
        "bytes": SIZE,
        "partitions": PARTITIONS,
        "properties": {key: value for key, value in raw.items() if key not in {"bootstrap.servers", "group.id"}},
        "contestants": {each: _summary(found, results["raw"]) for each, found in results.items()},
    }


def _raw_properties(same: dict[str, Any]) -> dict[str, Any]:
    """The swarm's, but for what only its runtime can live with: it resolves the start of a group itself."""
    return {key: value for key, value in same.items() if key != "group.instance.id"} | {"auto.offset.reset": "earliest"}


def _raw(properties: dict[str, Any], place: Path, environment: dict[str, str]) -> dict[str, Any]:
    fresh = uuid.uuid4().hex[:8]
    path = place / f"raw-{fresh}"
    more = {
        "BENCHMARK_RESULT": str(path),
        "BENCHMARK_PROPERTIES": json.dumps(properties | {"group.id": f"raw-{fresh}"}),
    }
    with contestant.program("raw", environment | more):
        return contestant.result(path)


def _swarm(app: str, place: Path, bootstrap: str, environment: dict[str, str]) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        path = place / f"{app}-{uuid.uuid4().hex[:8]}"
        with contestant.swarm(app, place, bootstrap, {}, environment | {"BENCHMARK_RESULT": str(path)}):
            return contestant.result(path)

    return run


def _summary(found: list[dict[str, Any]], raw: list[dict[str, Any]]) -> dict[str, Any]:
    rates = [each["messages"] / each["seconds"] for each in found]
    ratios = [pair["seconds"] / each["seconds"] for each, pair in zip(found, raw, strict=True)]
    return {
        "messages_per_second": _spread(rates),
        "ratio_to_raw": _spread(ratios),
        "cpu_seconds": _spread([each["cpu_seconds"] for each in found]),
        "peak_memory": _spread([each["peak_memory"] for each in found]),
        "runs": found,
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
