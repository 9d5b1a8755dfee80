"""Memory and processor time of worker processes: cheap for every pass, exact when asked. The only module that uses psutil."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swarm.config.machine import ROOT, cgroups

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICK: Final = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. RSS counts shared pages in full; PSS shares them out; USS counts only what would be freed at the process's end."""

    rss: int
    uss: int | None = None
    pss: int | None = None


def resident(pid: int) -> int | None:
    """RSS by /proc/PID/statm: some 20 µs; None if the process is gone."""
    try:
        return int(_read(f"/proc/{pid}/statm").split()[1]) * _PAGE
    except (OSError, IndexError):
        return None


def _read(path: str) -> bytes:
    """A small file, whole. Without a Path and a stream: they cost more than the kernel does."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def full(pid: int) -> Memory | None:
    """RSS, USS and PSS: about 1 ms (the kernel walks the page tables); None if the process is gone or not ours to read."""
    import psutil

    try:
        info = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return None
    return Memory(info.rss, info.uss, info.pss)


def cpu_seconds(pid: int) -> float | None:
    """User and system time by /proc/PID/stat; None if the process is gone."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) * _TICK


def oom_kills(root: Path = ROOT) -> int | None:
    """Processes of our cgroup that the kernel has killed for memory so far (memory.events, or v1's memory.oom_control); None: unknown."""
    for name, controller in (("memory.events", ""), ("memory.oom_control", "memory")):
        for group in cgroups(root, controller):
            try:
                lines = (group / name).read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                key, _, value = line.partition(" ")
                if key == "oom_kill" and value.isdigit():
                    return int(value)
    return None


def oom_group(root: Path = ROOT) -> bool:
    """Whether the kernel kills all processes of our cgroup, or of one around it, where one of them runs out of memory (cgroup v2 only)."""
    for group in cgroups(root, ""):
        try:
            if (group / "memory.oom.group").read_text().strip() == "1":
                return True
        except OSError:
            continue
    return False


class OomKills:
    """Which of the processes that were killed, the kernel killed for their memory: the cgroup counts, but names nobody.

    Each kill that was counted explains one death, that of a process reaped within `FOR` seconds of it.
    """

    FOR: Final = 5.0

    def __init__(self, count: Callable[[], int | None] = oom_kills) -> None:
        self._count = count
        self._known = count()
        self._unexplained: list[float] = []

    def look(self, now: float) -> None:
        """Note what was counted since. Every now and then, so that an old kill (of a process that is no worker) explains nothing."""
        count = self._count()
        if count is not None and self._known is not None:
            self._unexplained += [now] * min(count - self._known, 1000)
        self._known = count
        self._unexplained = [at for at in self._unexplained if now - at < self.FOR]

    def explains(self, now: float) -> bool:
        """Whether a process that has just died by SIGKILL was killed for its memory."""
        self.look(now)
        return bool(self._unexplained) and self._unexplained.pop(0) > 0.0
