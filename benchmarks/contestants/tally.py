"""Times a contestant from inside: from its first message to its last. Knows no Kafka.

The environment says how many messages count (BENCHMARK_MESSAGES; the topic may hold more) and where the result goes
(BENCHMARK_RESULT); or, with BENCHMARK_PROGRESS, where it is to be seen all the time how many there were. Nothing but the standard library, for every contestant imports it, and 3.11 of it.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import struct
import threading
import time
from itertools import count

MESSAGES = int(os.environ.get("BENCHMARK_MESSAGES", "0"))
_TICK = os.sysconf("SC_CLK_TCK")
PROGRESS = struct.Struct("=qq")
"""The process that counts, and its count."""
_EVERY = 64
"""So many single messages are one step of the progress."""


class Tally:
    """Starts at the first message and writes the result at the last. Any thread."""

    def __init__(self, *, children: bool = False) -> None:
        self._children = children
        self._lock = threading.Lock()
        self._numbers = count(1)  # `next` is one step for the interpreter: no lock for each message
        self._seen = 0
        self._ended = False
        self._began = 0.0
        self._cpu_before = 0.0
        self._progress: mmap.mmap | None = None

    def add(self, messages: int) -> None:
        """So many more were processed: once for each batch."""
        with self._lock:
            if not self._seen:
                self.begin()
            self._seen += messages
            if self._progress is not None:
                PROGRESS.pack_into(self._progress, 0, os.getpid(), self._seen)
            if self._seen >= MESSAGES and not self._ended:
                self._ended = True
                self.end(self._seen)

    def one(self) -> None:
        """One more was processed."""
        number = next(self._numbers)
        if number == 1:
            self.begin()
        if self._progress is not None and number % _EVERY == 0:
            PROGRESS.pack_into(self._progress, 0, os.getpid(), number)
        if number == MESSAGES:
            self.end(number)

    def begin(self) -> None:
        if path := os.environ.get("BENCHMARK_PROGRESS"):
            with open(path, "r+b") as file:
                self._progress = mmap.mmap(file.fileno(), PROGRESS.size)
        self._began = time.monotonic()
        self._cpu_before = self._cpu()

    def end(self, messages: int) -> None:
        ended = time.monotonic()
        result = {
            "messages": messages,
            "seconds": ended - self._began,
            "first_at": self._began,
            "cpu_seconds": self._cpu() - self._cpu_before,  # of all threads, librdkafka's too
            "peak_memory": self._peak(),
        }
        path = os.environ["BENCHMARK_RESULT"]
        with open(f"{path}.partial", "w") as file:
            json.dump(result, file)
        os.replace(f"{path}.partial", path)  # whoever waits for it finds all of it

    def _cpu(self) -> float:
        return time.process_time() + sum(_cpu_of(pid) for pid in self._pids())

    def _peak(self) -> int:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return own + sum(_peak_of(pid) for pid in self._pids())

    def _pids(self) -> list[int]:
        """Processes of ours that work for us."""
        if not self._children:
            return []
        found = []
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children") as file:
                found += [int(pid) for pid in file.read().split()]
        return found


def _cpu_of(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        words = file.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICK


def _peak_of(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
