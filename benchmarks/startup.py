"""From `swarmctl start` to the first message that a handler sees, with four workers and a group that exists. Figures only; prints nothing.

Beside it a bare program's: what Python and the client library take by themselves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

import contestant
from cluster import PARTITIONS, fill, topic
from contestant import Failed
from figures import spread
from takeover import Journal

WORKERS: Final = 4
_WITHIN: Final = 30.0


def measure(bootstrap: str, runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """A swarm and a bare program, started `runs` times in turn; a first start of both is not counted."""
    found: dict[str, list[float]] = {"swarm": [], "bare": []}
    with topic(bootstrap, "startup") as name, contestant.folder() as place:
        fill(bootstrap, name, 10 * PARTITIONS)
        journal = Journal(place / "pulse")
        environment = {
            "BENCHMARK_TOPIC": name,
            "BENCHMARK_RESULT": str(journal.path),
            "BENCHMARK_BOOTSTRAP": bootstrap,
        }
        same = contestant.bare_properties(contestant.properties("pulse", place, bootstrap, environment))
        settings = {"swarm": {"workers": WORKERS, "group_id": "startup"}}
        for run in range(runs + 1):
            for kind in ("swarm", "bare"):
                fill(bootstrap, name, 10 * PARTITIONS)
                journal.forget()
                began = time.monotonic()
                if kind == "swarm":
                    with contestant.swarm("pulse", place, bootstrap, settings, environment):
                        first = _first(journal)
                        time.sleep(0.5)  # what is there is done, and committed at the stop
                else:
                    properties = json.dumps({**same, "group.id": "startup-bare"})
                    with contestant.program("raw_pulse", environment | {"BENCHMARK_PROPERTIES": properties}) as process:
                        first = _first(journal)
                        time.sleep(0.5)
                        process.terminate()
                        process.wait(timeout=_WITHIN)
                if run:
                    found[kind].append(first - began)
                    say(f"start: run {run} of {runs}, {kind}: {first - began:.3f} s")
    return {"workers": WORKERS, **{kind: {"seconds": spread(each), "runs": each} for kind, each in found.items()}}


def _first(journal: Journal) -> float:
    deadline = time.monotonic() + _WITHIN
    while time.monotonic() < deadline:
        lines = journal.lines()
        if lines:
            return min(when for when, _, _ in lines)
        time.sleep(0.005)
    raise Failed(f"no message within {_WITHIN:g} s")
