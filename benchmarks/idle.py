"""What a swarm costs that has nothing to do: CPU of each process, and the private memory of each worker. Figures only; prints nothing.

The measure for a worker is a bare consumer program with the same properties, as idle as it is. Nobody asks the observer for
metrics meanwhile.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import contestant
import psutil
from cluster import topic

WORKERS = 4
_SETTLE = 3.0
"""Seconds after the start that are not measured: imports, the first joining of the group, the first requests."""


def measure(bootstrap: str, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """One swarm of four and one bare consumer, watched for `seconds` side by side."""
    with topic(bootstrap, "idle") as name, contestant.folder() as place:
        environment = {"BENCHMARK_TOPIC": name, "BENCHMARK_RESULT": str(place / "never")}
        properties = contestant.properties("batch", place, bootstrap, environment)
        properties |= {"group.id": "bare", "auto.offset.reset": "earliest"}
        bare_environment = environment | {"BENCHMARK_PROPERTIES": json.dumps(properties)}
        with (
            contestant.swarm("batch", place, bootstrap, {"swarm": {"workers": WORKERS}}, environment) as daemon,
            contestant.program("raw", bare_environment) as bare,
        ):
            daemon.until_running()
            say(f"idle: watching for {seconds:g} s")
            time.sleep(_SETTLE)
            workers = {worker["pid"] for worker in daemon.workers()}
            others = {child.pid for child in psutil.Process(daemon.pid).children()} - workers
            groups = {"supervisor": {daemon.pid}, "observer": others, "worker": workers, "bare_consumer": {bare.pid}}
            before = {pid: _cpu(pid) for pids in groups.values() for pid in pids}
            began = time.monotonic()
            time.sleep(seconds)
            minutes = (time.monotonic() - began) / 60
            return {
                "seconds": minutes * 60,
                "workers": WORKERS,
                "processes": {
                    group: {
                        "cpu_seconds_per_minute": statistics.mean((_cpu(pid) - before[pid]) / minutes for pid in pids),
                        **_memory(pids),
                    }
                    for group, pids in groups.items()
                    if pids
                },
            }


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _memory(pids: set[int]) -> dict[str, float]:
    """Means in bytes: USS is what would be free without the process, PSS counts its share of what several use."""
    found = [psutil.Process(pid).memory_full_info() for pid in pids]
    return {kind: statistics.mean(getattr(each, kind) for each in found) for kind in ("uss", "pss", "rss")}
