"""How long a kill -9 of a worker holds up its partitions, and what the others notice. Figures only; prints nothing.

Three workers, static membership (the default), steady input. Two figures for each kill: until the first message of one of the
worker's partitions is processed again, and until each of its partitions has had one.
"""

from __future__ import annotations

import datetime
import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contestant
from cluster import PARTITIONS, topic
from figures import spread

from tests.support.daemon import Daemon

WORKERS = 3
RATE = 600
"""Messages a second: 100 for each partition, so a figure is good to 10 ms."""
SOUND = 1.0
"""Seconds after which a worker counts as sound again, and its successor is started without delay. The default is 60 s, which would
make the second kill of a worker wait: that is backoff, and not what is measured."""
_WITHIN = 60.0


def measure(bootstrap: str, kills: int, say: Callable[[str], None]) -> dict[str, Any]:
    """`kills` workers in turn, each when the one before has long been replaced."""
    backoff: dict[str, Any] = {"initial": 0.0, "factor": 2.0, "maximum": 30.0, "reset_after": SOUND}
    settings: dict[str, dict[str, Any]] = {"swarm": {"workers": WORKERS}, "supervision": {"restart_backoff": backoff}}
    with topic(bootstrap, "takeover") as name, contestant.folder() as place:
        journal = Journal(place / f"pulse-{uuid.uuid4().hex[:8]}")
        environment = {
            "BENCHMARK_TOPIC": name,
            "BENCHMARK_RESULT": str(journal.path),
            "BENCHMARK_BOOTSTRAP": bootstrap,
            "BENCHMARK_PARTITIONS": str(PARTITIONS),
            "BENCHMARK_RATE": str(RATE),
        }
        with (
            contestant.swarm("pulse", place, bootstrap, settings, environment) as daemon,
            contestant.program("steady", environment),
        ):
            daemon.wait_for(lambda: _all_shared(daemon), what="each worker to hold partitions")
            found = []
            for number in range(kills):
                found.append(_kill(daemon, journal, number % WORKERS))
                say(f"takeover: kill {number + 1} of {kills}: {found[-1]['first']:.3f} s, all {found[-1]['all']:.3f} s")
    return {
        "workers": WORKERS,
        "partitions": PARTITIONS,
        "messages_per_second": RATE,
        "kills": kills,
        "first": spread([each["first"] for each in found]),
        "all": spread([each["all"] for each in found]),
        "forked": spread([each["forked"] for each in found]),
        "assigned": spread([each["assigned"] for each in found]),
        "rebalances_of_others": sum(each["rebalances_of_others"] for each in found),
        "runs": found,
    }


class Journal:
    """The lines that the workers' handlers write; read on from where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def forget(self) -> None:
        """What is there so far is of no interest."""
        self.lines()

    def lines(self) -> list[tuple[float, int, int]]:
        """(monotonic time, partition, pid) of the batches since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        complete = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(complete)
        words = (line.split() for line in complete.splitlines())
        return [(float(when), int(partition), int(pid)) for when, partition, pid in words]


def _kill(daemon: Daemon, journal: Journal, index: int) -> dict[str, Any]:
    # What was sound long enough is restarted at once; and an echo of the kill before (a late rebalance) would show.
    daemon.wait_for(lambda: _sound(daemon, index), what=f"worker {index} to be sound", within=_WITHIN)
    victim = daemon.workers()[index]
    partitions = {held["partition"] for held in victim["assignment"]}
    journal.lines()
    logged = len(daemon.events())

    killed, killed_at = time.monotonic(), datetime.datetime.now(datetime.UTC)
    os.kill(victim["pid"], signal.SIGKILL)
    again: dict[int, float] = {}

    def all_again() -> bool:
        for when, partition, pid in journal.lines():
            if partition in partitions and pid != victim["pid"] and when > killed:
                again.setdefault(partition, when - killed)
        return again.keys() == partitions

    daemon.wait_for(all_again, what=f"partitions {sorted(partitions)} to be processed again", within=_WITHIN)
    daemon.wait_for(lambda: _sound(daemon, index), what=f"worker {index} to be sound again", within=_WITHIN)
    since = daemon.events()[logged:]
    own = {victim["pid"]} | {line["pid"] for line in since if line["event"] == "worker_started"}
    changes = [
        line for line in since if line["event"] in {"partitions_assigned", "partitions_revoked", "partitions_lost"}
    ]
    forked = [line for line in since if line["event"] == "worker_started"]
    assigned = [line for line in changes if line["pid"] in own]
    return {
        "worker": index,
        "partitions": sorted(partitions),
        "first": min(again.values()),
        "all": max(again.values()),
        # From the log, whose times are those of the wall clock, in milliseconds.
        "forked": _seconds(killed_at, forked[0]),
        "assigned": _seconds(killed_at, assigned[0]),
        "rebalances_of_others": len([line for line in changes if line["pid"] not in own]),
    }


def _seconds(since: datetime.datetime, line: dict[str, Any]) -> float:
    return (datetime.datetime.fromisoformat(line["timestamp"]) - since).total_seconds()


def _all_shared(daemon: Daemon) -> bool:
    return all(len(worker["assignment"]) == PARTITIONS // WORKERS for worker in daemon.workers())


def _sound(daemon: Daemon, index: int) -> bool:
    worker = daemon.workers()[index]
    return bool(worker["assignment"]) and worker["state"] == "running" and worker["uptime"] > 2 * SOUND
