"""Which workers are to tell more than usual, and for how long: their clients' `debug`, their log level. Pure but for its state."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from swarm.debugging import Debug

LONGEST: Final = 86400.0
"""Seconds of one debug; nobody wants it for ever."""
LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(slots=True)
class Order:
    """Debug one worker. until: from its start on, 0.0: it has not been started yet (monotonic seconds)."""

    debug: Debug
    seconds: float
    until: float = 0.0


class Debugging:
    """All of one swarm. Forgotten at a reload, which replaces all workers."""

    def __init__(self) -> None:
        self._orders: dict[int, Order] = {}
        self.level = ""
        """Of all workers, where somebody has set it."""
        self._levels: dict[int, str] = {}

    def order(self, worker: int, flags: str, seconds: float, state_dir: Path) -> Debug:
        """Debug this worker from its next start on; returns what and where."""
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
        debug = Debug(flags, str(state_dir / "debug" / f"worker-{worker}-{stamp}.log"))
        self._orders[worker] = Order(debug, seconds)
        return debug

    def born(self, worker: int, now: float) -> Debug | None:
        """What a worker that is being forked is to tell; the time begins with its first start."""
        order = self._orders.get(worker)
        if order is None:
            return None
        order.until = order.until or now + order.seconds
        return order.debug

    def end(self, worker: int) -> bool:
        """No more of it; whether there was anything."""
        return self._orders.pop(worker, None) is not None

    def over(self, now: float) -> list[int]:
        """Those whose time is over, each once: their workers are to be replaced."""
        found = [worker for worker, order in self._orders.items() if order.until and now >= order.until]
        for worker in found:
            del self._orders[worker]
        return found

    def set_level(self, worker: int | None, level: str) -> None:
        """Of one worker, or of all."""
        if worker is None:
            self.level = level
            self._levels.clear()
        else:
            self._levels[worker] = level

    def level_of(self, worker: int) -> str:
        """Empty: as the settings have it."""
        return self._levels.get(worker, self.level)

    def flags_of(self, worker: int) -> str:
        """Empty: it is not debugged."""
        order = self._orders.get(worker)
        return order.debug.flags if order is not None else ""

    def facts(self, now: float) -> list[dict[str, Any]]:
        """What is under way, for `swarmctl debug`."""
        return [
            {
                "worker": worker,
                "flags": order.debug.flags,
                "path": order.debug.path,
                "left": max(0.0, order.until - now) if order.until else order.seconds,
                "begun": order.until > 0.0,
            }
            for worker, order in sorted(self._orders.items())
        ]


def misfit(request: dict[str, Any], workers: int) -> str:
    """What is wrong with a request to debug or to set a level; empty: nothing."""
    worker = request.get("worker")
    if worker is not None and not (type(worker) is int and 0 <= worker < workers):
        return f"there is no worker {worker!r}: they are numbered 0 to {workers - 1}"
    flags, seconds, level = request.get("flags"), request.get("seconds"), request.get("level")
    if request["command"] == "log_level":
        return "" if level in LEVELS else f"log level: expected one of {', '.join(LEVELS)}, got {level!r}"
    if flags is None:
        return ""
    if worker is None:
        return "debug: expected a worker's number"
    if not isinstance(flags, str) or not flags.replace(",", "").replace("_", "").isalnum() or len(flags) > 500:
        return f"debug: expected names of librdkafka's debug contexts with commas between them, got {flags!r}"
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 < seconds <= LONGEST:
        return f"debug: expected more than 0 and up to {LONGEST:g} seconds, got {seconds!r}"
    return ""
