"""What further workers are worth where handlers compute: messages a second over 1, 2, 4 and 8 workers, and of as many bare processes.

Figures only; prints nothing.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import contestant
from cluster import fill, topic
from contestant import Failed
from figures import ratios, spread

COUNTS: Final = (1, 2, 4, 8)
PARTITIONS: Final = 8
MESSAGES: Final = 250_000
"""More than the machine computes in a run."""
SECONDS: Final = 3.0
_WITHIN: Final = 60.0


def measure(bootstrap: str, runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Both, with each number of workers, `runs` times in turn."""
    results: dict[str, dict[int, list[float]]] = {"swarm": {}, "bare": {}}
    with topic(bootstrap, "scaling", PARTITIONS) as name, contestant.folder() as place:
        say(f"scaling: writing {MESSAGES:,} messages")
        fill(bootstrap, name, MESSAGES, PARTITIONS)
        same = contestant.bare_properties(
            contestant.properties("burn", place, bootstrap, {"BENCHMARK_TOPIC": name, "BENCHMARK_RESULT": "/dev/null"})
        )
        for run in range(runs):
            for count in COUNTS:
                who = ["swarm", "bare"] if run % 2 == 0 else ["bare", "swarm"]
                for kind in who:
                    rate = _once(kind, count, name, place, bootstrap, same)
                    results[kind].setdefault(count, []).append(rate)
                    say(f"scaling: run {run + 1} of {runs}, {kind}, {count}: {rate:,.0f} messages/s")
    return {
        "seconds": SECONDS,
        "partitions": PARTITIONS,
        **{
            kind: {
                str(count): {
                    "messages_per_second": spread(rates),
                    "against_one": spread(ratios(rates, found[1])),
                    "runs": rates,
                }
                for count, rates in found.items()
            }
            for kind, found in results.items()
        },
        "swarm_against_bare": {
            str(count): spread(ratios(results["swarm"][count], results["bare"][count])) for count in COUNTS
        },
    }


def _once(kind: str, count: int, name: str, place: Path, bootstrap: str, same: dict[str, Any]) -> float:
    fresh = uuid.uuid4().hex[:8]
    journal = place / f"burn-{fresh}"
    environment = {"BENCHMARK_TOPIC": name, "BENCHMARK_RESULT": str(journal)}
    with ExitStack() as stack:
        if kind == "swarm":
            stack.enter_context(contestant.swarm("burn", place, bootstrap, {"swarm": {"workers": count}}, environment))
        else:
            properties = json.dumps({**same, "group.id": f"bare-{fresh}"})
            for _ in range(count):
                stack.enter_context(contestant.program("raw_burn", environment | {"BENCHMARK_PROPERTIES": properties}))
        deadline = time.monotonic() + _WITHIN
        while len({pid for pid, _ in _lines(journal)}) < count:
            if time.monotonic() > deadline:
                raise Failed(f"{kind}: not all of {count} had messages within {_WITHIN:g} s")
            time.sleep(0.02)
        time.sleep(1.0)  # the last rebalance is over
        before, began = _done(journal), time.monotonic()
        time.sleep(SECONDS)
        return (_done(journal) - before) / (time.monotonic() - began)


def _lines(journal: Path) -> list[tuple[int, int]]:
    if not journal.exists():
        return []
    text = journal.read_text()
    words = (line.split() for line in text[: text.rfind("\n") + 1].splitlines())
    return [(int(pid), int(messages)) for pid, messages in words]


def _done(journal: Path) -> int:
    return sum(messages for _, messages in _lines(journal))
