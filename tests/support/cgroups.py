"""A cgroup with limits to run something in, by v2 or by v1's hierarchies, below the one that this process is in. Needs root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_PERIOD = 100_000  # µs


@contextlib.contextmanager
def limited(cpus: float, memory: int) -> Iterator[list[Path]]:
    """Folders whose `cgroup.procs` a process writes its pid to, to have so many CPUs and bytes. Raises OSError where none can be made.

    Whatever was in it must be gone when it ends.
    """
    name = f"swarm-test-{os.getpid()}"
    quota = str(int(cpus * _PERIOD))
    ours = dict(own_cgroups())
    if (_MOUNT / "cgroup.controllers").exists():
        files = {ours[""]: {"cpu.max": f"{quota} {_PERIOD}", "memory.max": str(memory)}}
    else:
        files = {
            ours["cpu"]: {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": str(_PERIOD)},
            ours["memory"]: {"memory.limit_in_bytes": str(memory)},
        }
    with contextlib.ExitStack() as stack:
        made = []
        for parent, limits in files.items():
            group = parent / name
            group.mkdir()
            stack.callback(group.rmdir)
            made.append(group)
            for limit, value in limits.items():
                (group / limit).write_text(value)
        yield made


def own_cgroups() -> Iterator[tuple[str, Path]]:
    """Where this process is, by controller; "" is v2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mount = _MOUNT / controllers if controllers else _MOUNT
        for controller in controllers.split(","):
            yield controller, mount / path.lstrip("/")
