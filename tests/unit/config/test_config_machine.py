"""CPUs and memory by cgroup, on a small file system of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.config import Settings, memory_budget
from swarm.config.machine import usable_cpus, usable_memory

GIB = 1024**3


def _lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {"proc/self/cgroup": "0::/a/b\n", "proc/meminfo": f"MemTotal: {8 * GIB // 1024} kB\nMemFree: 1 kB\n"}
V1 = {"proc/self/cgroup": "4:cpu,cpuacct:/a\n3:memory:/a\n0::/\n", "proc/meminfo": V2["proc/meminfo"]}


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 8),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 2),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3),
        ({**V2, "sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "9900000 100000\n"}, 8),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "garbage"}, 8),
        ({**V2, "proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        ({**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_usable_cpus_are_the_quota_rounded_up_within_the_affinity(
    tmp_path: Path, files: dict[str, str], cpus: int
) -> None:
    """Both versions, limits of any ancestor, and a container whose path is not mounted."""
    assert usable_cpus(_lay_out(tmp_path, files), affinity=8) == cpus


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({}, None),
        (V2, 8 * GIB),
        ({**V2, "sys/fs/cgroup/a/b/memory.max": "max\n"}, 8 * GIB),
        ({**V2, "sys/fs/cgroup/a/b/memory.max": f"{2 * GIB}\n", "sys/fs/cgroup/a/memory.max": f"{GIB}\n"}, GIB),
        ({**V2, "sys/fs/cgroup/a/b/memory.max": f"{2 * GIB}\n", "sys/fs/cgroup/a/b/memory.high": f"{GIB}\n"}, GIB),
        ({**V1, "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{3 * GIB}\n"}, 3 * GIB),
        ({**V1, "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, 8 * GIB),
    ],
)
def test_usable_memory_is_the_smallest_limit(tmp_path: Path, files: dict[str, str], memory: int | None) -> None:
    """Of the cgroup, its ancestors and the machine."""
    assert usable_memory(_lay_out(tmp_path, files)) == memory


@pytest.mark.parametrize(
    ("limit", "kill", "budget"),
    [
        ("auto", "auto", (8 * GIB * 4 // 5 // 4, 8 * GIB // 4)),
        ("400MiB", "auto", (400 * 2**20, 500 * 2**20)),
        ("auto", 0, (8 * GIB * 4 // 5 // 4, 0)),
        (0, "auto", (0, 0)),
        (0, "1GiB", (0, GIB)),
        ("auto", "1GiB", (GIB * 4 // 5, GIB)),
    ],
)
def test_the_budget_of_a_worker_is_its_share(
    tmp_path: Path, limit: object, kill: object, budget: tuple[int, int]
) -> None:
    """80 % of the memory over four workers and 125 % of that; off stays off; an automatic limit stays below a given kill."""
    settings = Settings.model_validate(
        {"swarm": {"workers": 4}, "supervision": {"memory_limit": limit, "memory_kill": kill}}
    )

    assert memory_budget(settings, _lay_out(tmp_path, V2)) == pytest.approx(budget, abs=2)
