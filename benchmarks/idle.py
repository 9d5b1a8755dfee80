"""What a swarm costs that has nothing to do: CPU of each process, and the private memory of each worker. Figures only; prints nothing.

The measure for a worker is a bare consumer program with the same properties, as idle as it is. Nobody asks the observer for
metrics meanwhile.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import contestant
import psutil
from cluster import topic

COUNTS: Final = (1, 8, 64)
SETTLE: Final = 3.0
"""Seconds after all have joined that are not measured: imports, the first requests."""
_WITHIN: Final = 180.0


def measure(
    bootstrap: str, seconds: float, say: Callable[[str], None], counts: Iterable[int] = COUNTS
) -> dict[str, Any]:
    """A swarm of each size, and a bare consumer beside it, watched for `seconds`."""
    return {"seconds": seconds, "swarms": {str(count): _watch(bootstrap, count, seconds, say) for count in counts}}


def _watch(bootstrap: str, count: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    with topic(bootstrap, "idle", max(6, count)) as name, contestant.folder() as place:
        environment = {"BENCHMARK_TOPIC": name, "BENCHMARK_RESULT": str(place / "never")}
        properties = contestant.bare_properties(contestant.properties("batch", place, bootstrap, environment))
        bare_environment = environment | {"BENCHMARK_PROPERTIES": json.dumps(properties | {"group.id": "bare"})}
        with (
            contestant.swarm("batch", place, bootstrap, {"swarm": {"workers": count}}, environment) as daemon,
            contestant.program("raw", bare_environment) as bare,
        ):
            began = time.monotonic()
            daemon.wait_for(
                lambda: all(worker["state"] == "running" for worker in daemon.workers()),
                what=f"{count} workers to run",
                within=_WITHIN,
            )
            joined = time.monotonic() - began
            say(f"idle: {count} workers run after {joined:.1f} s; watching for {seconds:g} s")
            time.sleep(SETTLE)
            workers = {worker["pid"] for worker in daemon.workers()}
            others = {
                child.pid
                for child in psutil.Process(daemon.pid).children()
                if any("[observer]" in part for part in child.cmdline())
            }
            groups = {"supervisor": {daemon.pid}, "observer": others, "worker": workers, "bare_consumer": {bare.pid}}
            before = {pid: _cpu(pid) for pids in groups.values() for pid in pids}
            began = time.monotonic()
            time.sleep(seconds)
            elapsed = time.monotonic() - began
            return {
                "until_all_run": joined,
                "processes": {
                    group: {
                        "cpu_percent": statistics.mean((_cpu(pid) - before[pid]) / elapsed * 100 for pid in pids),
                        **_memory(pids),
                    }
                    for group, pids in groups.items()
                    if pids
                },
                "private_memory": {
                    "worker": _parts(min(workers)),
                    "bare_consumer": _parts(bare.pid),
                },
            }


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _memory(pids: set[int]) -> dict[str, float]:
    """Means in bytes: USS is what would be free without the process, PSS counts its share of what several use."""
    found = [psutil.Process(pid).memory_full_info() for pid in pids]
    return {kind: statistics.mean(getattr(each, kind) for each in found) for kind in ("uss", "pss", "rss")}


def _parts(pid: int) -> dict[str, int]:
    """What a process's private memory consists of, in bytes, by what is mapped there."""
    parts: dict[str, int] = {}
    part = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):  # a mapping begins: addresses, rights, …, and what is mapped
            part = _part(
                words[5] if len(words) > 5 else "", int(words[0].split("-")[1], 16) - int(words[0].split("-")[0], 16)
            )
        elif words[0] in ("Private_Clean:", "Private_Dirty:"):
            parts[part] = parts.get(part, 0) + int(words[1]) * 1024
    return {part: size for part, size in sorted(parts.items(), key=lambda each: -each[1]) if size}


def _part(mapped: str, size: int) -> str:
    if mapped == "[heap]":
        return "heap"
    if mapped.startswith("[stack"):
        return "stacks"
    if not mapped:
        return (
            "stacks of threads"
            if size in (8 << 20, (8 << 20) + 4096)
            else "anonymous (objects of Python, arenas of malloc)"
        )
    if "memfd" in mapped:
        return "scoreboards"
    return "written pages of libraries and of the interpreter"
