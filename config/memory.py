"""How much memory each worker may use, from the settings and the machine. Decides nothing about a worker."""

from __future__ import annotations

from pathlib import Path

from swarm.config.machine import ROOT, usable_memory
from swarm.config.schema import Settings


def memory_budget(settings: Settings, root: Path = ROOT, workers: int | None = None) -> tuple[int, int]:
    """(limit, kill) per worker in bytes, 0 for off; reads /proc and /sys below `root`.

    limit "auto": 80 % of what the cgroup or the machine has, over the workers, and below a `memory_kill` that was set.
    kill "auto": 125 % of the limit, so off with it. workers: instead of `swarm.workers`, after a `scale`.
    """
    set_limit, set_kill = settings.supervision.memory_limit, settings.supervision.memory_kill
    if set_limit == "auto":
        limit = (usable_memory(root) or 0) * 4 // 5 // (workers or settings.swarm.workers)
        if set_kill != "auto" and set_kill:
            limit = min(limit, set_kill * 4 // 5)
    else:
        limit = set_limit
    return limit, limit * 5 // 4 if set_kill == "auto" else set_kill


def fetch_budget(settings: Settings, groups: int, root: Path = ROOT) -> int:
    """Bytes that the client of one of a worker's `groups` may hold of what it has fetched: together a quarter of the worker's limit.

    0: no limit is known. As `memory_budget`, for `swarm.workers` workers.
    """
    return memory_budget(settings, root)[0] // 4 // max(1, groups)
