"""Sixty-four workers on one machine: start, report, rest, rolling restart and stop, and what they and their supervisor cost.

`make test-many WORKERS=64`. A real broker, a topic with a partition for each worker. Exit 1 where something does not come to its end,
where a message is missing, or where the supervisor or the observer takes a hundredth of a core or more while nothing happens. Not
part of `make test`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.ports import free_port
from tests.support.project import Sections, write_project
from tests.support.recording import Recording

IDLE = 30.0  # s
MOST_IDLE = 0.01
"""Of a core, for the supervisor and the observer each."""
PATIENCE = 600.0  # s

APP = """
    from swarm import App
    from recording import record

    app = App("many")

    @app.each("orders")
    def order(message):
        record(message)
"""


def settings(folder: Path, bootstrap: str, workers: int) -> Sections:
    """The defaults, but for what a test needs."""
    return {
        "swarm": {
            "app": "app:app",
            "name": "many",
            "group_id": "many",
            "workers": workers,
            "run_dir": folder / "run",
            "state_dir": folder / "state",
        },
        "kafka": {"bootstrap.servers": bootstrap},
        "observer": {"port": free_port()},
        "log": {"level": "info", "format": "json"},
    }


def run(workers: int) -> int:
    """One run; prints what it measured and returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="many-") as name, Broker() as broker:
        broker.create_topic("orders", workers)
        folder = Path(name) / "project"
        chosen = settings(folder, broker.bootstrap, workers)
        daemon = Daemon(write_project(folder, APP, chosen), chosen)
        recording = Recording(folder)
        try:
            took("start until all are running", lambda: daemon.start().until_running(PATIENCE))
            daemon.wait_for(lambda: _shared_out(daemon, workers), PATIENCE, what="a partition for each worker")
            _produce(broker, workers, 10)
            took(
                "the first messages",
                lambda: daemon.wait_for(lambda: len(recording.seen("orders")) == 10 * workers, PATIENCE),
            )
            _say_memory(daemon)
            problems = _rest(daemon)
            answered = took("rolling restart", lambda: daemon.run("restart", within=PATIENCE))
            _produce(broker, workers, 10)
            daemon.wait_for(lambda: len(recording.seen("orders")) == 20 * workers, PATIENCE, what="the last messages")
            code = took("stop", lambda: daemon.stop(PATIENCE))
        finally:
            daemon.close()
        if answered.returncode != 0 or code != 0:
            problems.append(f"restart answered {answered.returncode} {answered.stderr}, the daemon ended with {code}")
        ends = [event["reason"] for event in daemon.events("worker_exited")]
        if ends != ["requested"] * 2 * workers:
            problems.append(f"workers ended otherwise than asked for: {sorted(set(ends))}, {len(ends)} ends")
        if len(recording.all()) != 20 * workers:
            problems.append(f"{len(recording.all()) - 20 * workers} messages were done twice")
    for problem in problems:
        print(f"FAILED: {problem}")
    return 1 if problems else 0


def took(what: str, do: Callable[[], Any]) -> Any:
    """Do it, and print for how long."""
    begin = time.monotonic()
    result = do()
    print(f"{what}: {time.monotonic() - begin:.1f} s", flush=True)
    return result


def _shared_out(daemon: Daemon, workers: int) -> bool:
    return sum(len(worker["assignment"]) for worker in daemon.workers()) == workers


def _produce(broker: Broker, workers: int, count: int) -> None:
    for partition in range(workers):
        broker.produce("orders", [(None, str(number)) for number in range(count)], partition)


def _say_memory(daemon: Daemon) -> None:
    found = [psutil.Process(worker["pid"]).memory_full_info() for worker in daemon.workers()]
    for kind in ("rss", "pss", "uss"):
        print(f"{kind} of a worker: {statistics.median(getattr(each, kind) for each in found) / 2**20:.1f} MiB")
    print(f"pss of all workers: {sum(each.pss for each in found) / 2**20:.0f} MiB")


def _rest(daemon: Daemon) -> list[str]:
    """What is wrong with the processor time that is used while nothing happens."""
    children = psutil.Process(daemon.pid).children()
    [observer] = [child for child in children if "[observer]" in " ".join(child.cmdline())]
    workers = [child for child in children if "[worker" in " ".join(child.cmdline())]
    chosen = {"supervisor": [psutil.Process(daemon.pid)], "observer": [observer], "workers": workers}
    before = {name: _seconds(processes) for name, processes in chosen.items()}
    until = time.monotonic() + IDLE
    while (left := until - time.monotonic()) > 0:
        time.sleep(left)
    used = {name: (_seconds(processes) - before[name]) / IDLE for name, processes in chosen.items()}
    for name, share in used.items():
        print(f"{name} at rest: {share:.2%} of a core")
    begin, spent = time.monotonic(), _seconds([observer])
    for _ in range(10):
        urllib.request.urlopen(f"{daemon.url}/metrics", timeout=60).read()
    print(
        f"a scrape: {(time.monotonic() - begin) / 10:.3f} s, of which the observer works {(_seconds([observer]) - spent) / 10:.3f} s"
    )
    return [
        f"the {name} takes {used[name]:.2%} of a core while nothing happens"
        for name in ("supervisor", "observer")
        if used[name] >= MOST_IDLE
    ]


def _seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=64)
    sys.exit(run(parser.parse_args().workers))


if __name__ == "__main__":
    main()
