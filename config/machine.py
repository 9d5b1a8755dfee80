"""What this process may use of the machine: CPUs and memory, by affinity, cgroup (v1 and v2) and /proc. Reads only.

`root` is where the file system begins, so that tests can lay out a small one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def usable_cpus(root: Path = ROOT, affinity: int | None = None) -> int:
    """CPUs this process may use, 1 or more: its affinity, or the cgroup's quota rounded up if that is less.

    affinity: the number of CPUs in the scheduler's mask; None asks the kernel.
    """
    allowed = affinity if affinity is not None else len(os.sched_getaffinity(0))
    quotas = [*_quotas_v2(root), *_quotas_v1(root)]
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas)]))


def usable_memory(root: Path = ROOT) -> int | None:
    """Bytes this process's cgroup may use, or the machine's memory if that is less; None where neither can be read."""
    limits = []
    for group in cgroups(root, ""):
        # above memory.high the kernel slows the group down until it gives memory back: a limit in all but name
        limits += [_integer(_read(group / name)) for name in ("memory.max", "memory.high")]
    limits += [_integer(_read(group / "memory.limit_in_bytes")) for group in cgroups(root, "memory")]
    limits.append(_machine_memory(root))
    return min((limit for limit in limits if limit is not None and limit > 0), default=None)


def _quotas_v2(root: Path) -> Iterator[float]:
    for group in cgroups(root, ""):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        yield from _quota(_integer(quota), _integer(period))


def _quotas_v1(root: Path) -> Iterator[float]:
    for group in cgroups(root, "cpu"):
        yield from _quota(_integer(_read(group / "cpu.cfs_quota_us")), _integer(_read(group / "cpu.cfs_period_us")))


def _quota(quota: int | None, period: int | None) -> Iterator[float]:
    if quota is not None and period is not None and quota > 0 and period > 0:
        yield quota / period


def cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Directories of our cgroup and its ancestors, any of which may hold a limit; controller "" is v2's one hierarchy.

    In a container without a cgroup namespace /proc names a path of the host that is not mounted: its own limits are then at
    the top of the mount, which is an ancestor of every path.
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        inside = [part for part in path.split("/") if part not in {"", ".", ".."}]
        tops = [mount / controllers, mount / controller] if controller else [mount, mount / "unified"]
        for top in dict.fromkeys(tops):
            for depth in range(len(inside), -1, -1):
                yield top.joinpath(*inside[:depth])


def _machine_memory(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            kibibytes = _integer(line.split()[1]) if len(line.split()) > 1 else None
            return kibibytes * 1024 if kibibytes is not None else None
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _integer(text: str) -> int | None:
    """None for "max", -1, and what cannot be read: no limit."""
    return int(text) if text.isascii() and text.isdigit() else None
