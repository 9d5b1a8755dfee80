"""Times a contestant from inside: from its first message to its last. Knows no Kafka.

The environment says how many messages there are (BENCHMARK_MESSAGES) and where the result goes (BENCHMARK_RESULT).
"""

from __future__ import annotations

import json
import os
import resource
import threading
import time

MESSAGES = int(os.environ.get("BENCHMARK_MESSAGES", "0"))


class Tally:
    """Starts at the first message and writes the result at the last. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen = 0
        self._began = 0.0
        self._cpu_before = 0.0

    def add(self, messages: int) -> None:
        """So many more were processed; to be called before the first of them and before anything else is timed."""
        with self._lock:
            if not self._seen:
                self.begin()
            self._seen += messages
            if self._seen == MESSAGES:
                self.end()

    def begin(self) -> None:
        self._began = time.monotonic()
        self._cpu_before = time.process_time()

    def end(self) -> None:
        seconds = time.monotonic() - self._began
        result = {
            "messages": MESSAGES,
            "seconds": seconds,
            "cpu_seconds": time.process_time() - self._cpu_before,  # of all threads, librdkafka's too
            "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        path = os.environ["BENCHMARK_RESULT"]
        with open(f"{path}.partial", "w") as file:
            json.dump(result, file)
        os.replace(f"{path}.partial", path)  # whoever waits for it finds all of it
