"""Measures the swarm against a bare consumer, on one machine and in one run: see README.md beside this file.

python benchmarks/run.py [throughput] [takeover] [idle] [--bootstrap HOST:PORT] [--json] [--save]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import idle
import takeover
import throughput
from cluster import cluster

ROOT = Path(__file__).resolve().parents[1]
WHAT = ("throughput", "takeover", "idle")
MIB = 1 << 20


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started is ended too
    found: dict[str, Any] = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
    }
    with cluster(options.bootstrap) as bootstrap:
        if "throughput" in options.which:
            found["throughput"] = throughput.measure(bootstrap, options.messages, options.runs, _say)
        if "takeover" in options.which:
            found["takeover"] = takeover.measure(bootstrap, options.kills, _say)
        if "idle" in options.which:
            found["idle"] = idle.measure(bootstrap, options.idle_seconds, _say)
    print(json.dumps(found, indent=2) if options.json else _table(found))
    if options.save:
        folder = Path(__file__).with_name("results")
        folder.mkdir(exist_ok=True)
        path = folder / f"{found['at'].replace(':', '').split('+')[0]}-{'-'.join(options.which)}.json"
        path.write_text(json.dumps(found, indent=2) + "\n")
        _say(f"saved as {path.relative_to(ROOT)}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/run.py", description="Measures the swarm against a bare consumer."
    )
    parser.add_argument("which", nargs="*", metavar="WHAT", help=f"of {', '.join(WHAT)}; default: all")
    parser.add_argument("--messages", type=int, default=500_000, help="for throughput (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each contestant (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=10, help="for takeover (default: %(default)s)")
    parser.add_argument(
        "--idle-seconds", type=float, default=30.0, help="to watch an idle swarm (default: %(default)s)"
    )
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a Kafka that runs; default: a real one, started here")
    parser.add_argument("--json", action="store_true", help="print JSON, with every single run")
    parser.add_argument("--save", action="store_true", help="write the JSON into benchmarks/results too")
    options = parser.parse_args()
    options.which = options.which or list(WHAT)
    for which in options.which:
        if which not in WHAT:
            parser.error(f"expected {', '.join(WHAT)}, got {which}")
    for name, least in (("messages", 10_000), ("runs", 1), ("kills", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name}: expected {least} or more, got {getattr(options, name)}")
    return options


def _machine() -> dict[str, Any]:
    """What figures depend on; not which machine it is."""
    import confluent_kafka

    import swarm

    return {
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "linux": platform.release(),
        "confluent_kafka": confluent_kafka.__version__,
        "librdkafka": confluent_kafka.libversion()[0],
        "kafka_swarm": swarm.__version__,
        "load_before": os.getloadavg()[0],
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _table(found: dict[str, Any]) -> str:
    machine = found["machine"]
    software = f"Python {machine['python']}, librdkafka {machine['librdkafka']}"
    lines = [f"{found['at']}, {machine['cpus']} CPUs, {software}, load before {machine['load_before']:.1f}"]
    if "throughput" in found:
        lines += ["", *_throughput(found["throughput"])]
    if "takeover" in found:
        lines += ["", *_takeover(found["takeover"])]
    if "idle" in found:
        lines += ["", *_idle(found["idle"])]
    return "\n".join(lines)


def _throughput(found: dict[str, Any]) -> list[str]:
    lines = [
        f"throughput: one process, {found['messages']:,} messages of {found['bytes']} bytes, {found['partitions']} partitions",
        "               messages/s   ratio to raw (lowest to highest)     CPU   memory",
    ]
    for name, each in found["contestants"].items():
        ratio = each["ratio_to_raw"]
        lines.append(
            f"{name:<14} {each['messages_per_second']['median']:>10,.0f}   {ratio['median']:.2f}"
            f"  ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
            f"              {each['cpu_seconds']['median']:>6.2f} s  {each['peak_memory']['median'] / MIB:>3.0f} MiB"
        )
    return lines


def _takeover(found: dict[str, Any]) -> list[str]:
    def row(name: str, key: str) -> str:
        each = found[key]
        return f"{name:<42} {each['median']:.3f} s  ({each['lowest']:.3f} to {each['highest']:.3f})"

    return [
        f"takeover: {found['kills']} times kill -9, {found['workers']} workers, {found['partitions']} partitions, static membership",
        row("until a message of its partitions", "first"),
        row("until one of each of its partitions", "all"),
        row("  of that: until the fork (from the log)", "forked"),
        row("  and until the assignment", "assigned"),
        f"{'rebalances that the others saw':<42} {found['rebalances_of_others']}",
    ]


def _idle(found: dict[str, Any]) -> list[str]:
    lines = [
        f"idle: {found['workers']} workers and a bare consumer program, {found['seconds']:.0f} s",
        "                CPU per minute   USS         PSS         RSS",
    ]
    for name, each in found["processes"].items():
        memory = "   ".join(f"{each[kind] / MIB:>5.1f} MiB" for kind in ("uss", "pss", "rss"))
        lines.append(f"{name:<15} {each['cpu_seconds_per_minute']:>12.3f} s   {memory}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
