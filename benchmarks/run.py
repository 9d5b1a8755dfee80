"""Measures the swarm, the bare client and what a user would pick instead, on one machine and in one run: docs/benchmarks.md.

python benchmarks/run.py [WHAT …] [--save]     of all, or throughput, pairs, latency, slices, scaling, startup, takeover, idle
python benchmarks/run.py --quick               a minute: ratios within one run, against benchmarks/bounds.json; exit 1 for a clear loss
python benchmarks/run.py --report              tables, plots and the README's table anew from the saved results
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import guard
import idle
import latency
import pairs
import report
import scaling
import slices
import startup
import takeover
import throughput
from cluster import cluster
from contestant import PEERS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results") / "results.json"


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started is ended too
    if options.report:
        report.write(json.loads(RESULTS.read_text()), RESULTS.parent, ROOT)
        return 0
    with cluster(options.bootstrap) as bootstrap:
        if options.quick:
            return guard.run(bootstrap, options.messages // 4, _say)
        found = _measured(bootstrap, options)
    print(json.dumps(found, indent=2) if options.json else report.text(found))
    if options.save:
        RESULTS.parent.mkdir(exist_ok=True)
        if RESULTS.exists():  # what was not measured this time stays
            found = {**json.loads(RESULTS.read_text()), **found}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        report.write(found, RESULTS.parent, ROOT)
        _say(f"saved in {RESULTS.parent.relative_to(ROOT)}")
    return 1 if any("error" in found.get(what, {}) for what in WHAT) else 0


def _measured(bootstrap: str, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for what in options.which:
        began = datetime.datetime.now(datetime.UTC)
        try:
            found[what] = WHAT[what](bootstrap, options)
        except Exception as error:  # the others are measured all the same
            _say(traceback.format_exc())
            found[what] = {"error": f"{type(error).__name__}: {error}"}
        found[what]["at"] = began.isoformat(timespec="seconds")
        found[what]["took"] = (datetime.datetime.now(datetime.UTC) - began).total_seconds()
        found[what]["rounds"] = options.runs
        found[what]["machine"] = _machine()
    return found


WHAT: dict[str, Callable[[str, argparse.Namespace], dict[str, Any]]] = {
    "throughput": lambda bootstrap, options: throughput.measure(bootstrap, options.messages, options.runs, _say),
    "pairs": lambda bootstrap, options: pairs.measure(bootstrap, options.rounds, _say),
    "latency": lambda bootstrap, options: latency.measure(bootstrap, options.runs, _say),
    "slices": lambda bootstrap, options: slices.measure(bootstrap, options.runs, _say),
    "scaling": lambda bootstrap, options: scaling.measure(bootstrap, options.runs, _say),
    "startup": lambda bootstrap, options: startup.measure(bootstrap, options.runs, _say),
    "takeover": lambda bootstrap, options: takeover.measure(bootstrap, options.kills, _say),
    "idle": lambda bootstrap, options: idle.measure(bootstrap, options.idle_seconds, _say),
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/run.py",
        description="Measures the swarm, the bare client and what a user would pick instead.",
    )
    parser.add_argument("which", nargs="*", metavar="WHAT", help=f"of {', '.join(WHAT)}; default: all")
    parser.add_argument("--quick", action="store_true", help="compare ratios with benchmarks/bounds.json")
    parser.add_argument("--report", action="store_true", help="draw tables and plots from the saved results")
    parser.add_argument("--messages", type=int, default=800_000, help="for throughput (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each contestant (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each of the pairs (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=9, help="for takeover (default: %(default)s)")
    parser.add_argument(
        "--idle-seconds", type=float, default=15.0, help="to watch an idle swarm (default: %(default)s)"
    )
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a Kafka that runs; default: a real one, started here")
    parser.add_argument("--json", action="store_true", help="print JSON, with every single run")
    parser.add_argument("--save", action="store_true", help="write results, tables and plots into benchmarks/results")
    options = parser.parse_args()
    options.which = options.which or list(WHAT)
    for which in options.which:
        if which not in WHAT:
            parser.error(f"expected {', '.join(WHAT)}, got {which}")
    for name, least in (("messages", 10_000), ("runs", 1), ("rounds", 1), ("kills", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name}: expected {least} or more, got {getattr(options, name)}")
    return options


def _machine() -> dict[str, Any]:
    """What figures depend on; not which machine it is."""
    import confluent_kafka

    import swarm

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory.split()[1]) / (1 << 20), 1),
        "python": platform.python_version(),
        "linux": platform.release(),
        "confluent_kafka": confluent_kafka.__version__,
        "librdkafka": confluent_kafka.libversion()[0],
        "kafka_swarm": swarm.__version__,
        "load": os.getloadavg()[0],
        "peers": {folder.name: _versions(folder) for folder in sorted(PEERS.glob("*")) if (folder / "bin").exists()},
    }


def _versions(folder: Path) -> dict[str, str]:
    """Of the packages that a peer consists of."""
    wanted = ("aiokafka", "kafka-python", "faststream", "quixstreams", "sentry-arroyo", "confluent-kafka", "matplotlib")
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    done = subprocess.run([str(folder / "bin" / "python"), "-c", code], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    return {name: found[name] for name in wanted if name in found}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
