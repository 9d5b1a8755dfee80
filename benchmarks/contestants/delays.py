"""How long messages were on their way: each begins with the instant at which it was produced (`pacer.py`), of the same machine's clock.

The first BENCHMARK_SKIP are not counted: a group that joins, a cache that is cold. Writes the result after BENCHMARK_MESSAGES.
"""

from __future__ import annotations

import json
import os
import threading
import time
from array import array

MESSAGES = int(os.environ["BENCHMARK_MESSAGES"])
SKIP = int(os.environ["BENCHMARK_SKIP"])


class Delays:
    """Takes messages' values; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen = 0
        self._delays = array("d")

    def note(self, value: bytes) -> None:
        """A message is being processed."""
        now = time.monotonic_ns()
        with self._lock:
            self._seen += 1
            if SKIP < self._seen <= SKIP + MESSAGES:
                self._delays.append((now - int.from_bytes(value[:8], "little")) / 1e9)
                if self._seen == SKIP + MESSAGES:
                    self._write()

    def _write(self) -> None:
        ordered = sorted(self._delays)
        result = {
            "messages": len(ordered),
            "p50": ordered[len(ordered) // 2],
            "p99": ordered[len(ordered) * 99 // 100],
            "max": ordered[-1],
        }
        path = os.environ["BENCHMARK_RESULT"]
        with open(f"{path}.partial", "w") as file:
            json.dump(result, file)
        os.replace(f"{path}.partial", path)
