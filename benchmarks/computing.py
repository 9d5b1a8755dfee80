"""Where a worker that computes spends more than a bare process: both on one core at the same time, so that whatever the machine does it
does to both, and the processor time of each of their threads counted.

python benchmarks/computing.py [--runs N]       µs of processor time per message, and what each part is of the difference
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import contestant
from cluster import cluster, fill, topic
from scaling import PARTITIONS, Crew, Done

MESSAGES: Final = 800_000
SECONDS: Final = 6.0
PARTS: Final = ("handler", "rest of its thread", "other threads", "librdkafka")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="pairs (default: %(default)s)")
    runs = parser.parse_args().runs
    with cluster(None) as bootstrap, topic(bootstrap, "computing", PARTITIONS) as name, contestant.folder() as place:
        fill(bootstrap, name, MESSAGES, PARTITIONS)
        pairs = [_pair(name, place, bootstrap) for _ in range(runs)]
    print(
        f"µs per message: worker, bare, difference; medians of {runs}; work in the same processor time: {_ratio(pairs)}"
    )
    for part in PARTS:
        ours, bare = (statistics.median(pair[kind][part] for pair in pairs) for kind in ("swarm", "bare"))
        print(f"  {part:<20}{ours:8.2f}{bare:8.2f}{ours - bare:+8.2f}")


def _ratio(pairs: list[dict[str, dict[str, float]]]) -> str:
    """What a worker does in the processor time in which a bare process does 1."""
    ratios = sorted(sum(pair["bare"].values()) / sum(pair["swarm"].values()) for pair in pairs)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def _pair(name: str, place: Path, bootstrap: str) -> dict[str, dict[str, float]]:
    """µs per message, by the parts, of a worker with one thread for handlers and of a bare process, on the first core."""
    one_thread = {"swarm": {"workers": 1}, "worker": {"concurrency": 1}}
    environment = {"BENCHMARK_TOPIC": name, "BENCHMARK_RESULT": "/dev/null"}
    same = contestant.bare_properties(contestant.properties("burn", place, bootstrap, environment))
    with ExitStack() as stack:
        crews = {kind: Crew(stack, kind, 1, name, place, bootstrap, same, one_thread) for kind in ("swarm", "bare")}
        pids = {kind: next(iter(crew.pids())) for kind, crew in crews.items()}
        for kind, pid in pids.items():
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), {min(os.sched_getaffinity(0))})
            crews[kind].send(signal.SIGCONT)
        time.sleep(0.5)  # what came to them while they were stopped is over
        before = {kind: (crews[kind].done(), _threads(pid)) for kind, pid in pids.items()}
        time.sleep(SECONDS)
        after = {kind: (crews[kind].done(), _threads(pid)) for kind, pid in pids.items()}
    return {kind: _parts(*before[kind], *after[kind]) for kind in pids}


def _parts(
    earlier: Done, threads_before: dict[str, tuple[str, float]], later: Done, threads: dict[str, tuple[str, float]]
) -> dict[str, float]:
    messages = later.messages - earlier.messages
    inside = later.cpu - earlier.cpu
    used = {
        thread: (what, spent - threads_before.get(thread, ("", 0.0))[1]) for thread, (what, spent) in threads.items()
    }
    library = sum(spent for what, spent in used.values() if what.startswith("rdk:"))
    ours = sorted((spent for what, spent in used.values() if not what.startswith("rdk:")), reverse=True)
    spent = (inside, ours[0] - inside, sum(ours[1:]), library)
    return {part: 1e6 * seconds / messages for part, seconds in zip(PARTS, spent, strict=True)}


def _threads(pid: int) -> dict[str, tuple[str, float]]:
    """Each thread's name for the kernel, and the seconds that it ran (proc_pid_schedstat(5))."""
    found = {}
    for path in Path(f"/proc/{pid}/task").iterdir():
        found[path.name] = (
            (path / "comm").read_text().strip(),
            int((path / "schedstat").read_text().split()[0]) / 1e9,
        )
    return found


if __name__ == "__main__":
    main()
