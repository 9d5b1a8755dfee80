"""Tables and plots of results: for the terminal, benchmarks/results, docs/benchmarks.md and the README. Measures nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from contestant import PEERS
from targets import verdicts

MIB: Final = 1 << 20
BEGIN, END = "<!-- {}: written by `make bench` -->", "<!-- end of {} -->"
README: Final = (
    "batch",
    "each",
    "exactly-once",
    "consume",
    "poll",
    "aiokafka getmany",
    "kafka-python poll",
    "quixstreams",
    "FastStream confluent, batch",
)
"""Rows of the README's table, where they were measured."""

Row = Sequence[str]


def text(found: Mapping[str, Any]) -> str:
    """All tables, for a terminal or for tables.md."""
    return "\n\n".join(f"## {title}\n\n{table(head, rows)}" for title, head, rows in tables(found))


def write(found: Mapping[str, Any], folder: Path, root: Path) -> None:
    """tables.md and plots into `folder`; the tables also between the marks of docs/benchmarks.md and README.md."""
    (folder / "tables.md").write_text(f"# Results\n\n{text(found)}\n")
    python = PEERS / "plots" / "bin" / "python"
    if python.exists():
        subprocess.run([str(python), str(Path(__file__).with_name("plots.py")), str(folder)], check=True)
    else:
        print("no plots: matplotlib is not installed (make peers)", file=sys.stderr)
    page = root / "docs" / "benchmarks.md"
    for title, head, rows in tables(found):
        between(page, title, table(head, rows))
        if title == "scaling":
            between(root / "docs" / "scale.md", title, table(head, rows))
    if "contestants" in found.get("throughput", {}):
        between(root / "README.md", "benchmarks", _readme(found["throughput"]))


def between(path: Path, name: str, content: str) -> None:
    """Put `content` between the marks of that name, if the file has them."""
    if not path.exists():
        return
    before = path.read_text()
    begin, end = BEGIN.format(name), END.format(name)
    if begin in before and end in before:
        head, _, rest = before.partition(begin)
        tail = rest.partition(end)[2]
        path.write_text(f"{head}{begin}\n\n{content}\n\n{end}{tail}")


def table(head: Row, rows: Iterable[Row]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def tables(found: Mapping[str, Any]) -> list[tuple[str, Row, list[Row]]]:
    """(title, head, rows) of everything that was measured."""
    made: list[tuple[str, Row, list[Row]]] = [
        (
            "targets",
            ("what", "target", "measured", "met"),
            [
                (each.target.what, each.target.aim, each.shown, {True: "yes", False: "**no**", None: "-"}[each.met])
                for each in verdicts(found)
            ],
        ),
        ("machine", ("measured", "at", "runs", "took", "load at its end", "on"), _machines(found)),
    ]
    makers = {
        "throughput": (
            ("who", "messages/s", "range", "ratio to the bare loop", "CPU s per million", "peak memory", "to first"),
            _throughput,
        ),
        "pairs": (("who", "against", "pace", "range", "processor time for a message", "range"), _pairs),
        "latency": (("rate", "who", "p50 ms", "p99 ms", "max ms", "p50 ratio", "p99 ratio"), _latency),
        "slices": (("who", "messages/s", "range"), _slices),
        "scaling": (("processes", "swarm, messages/s", "bare", "swarm against 1", "bare against 1", "ratio"), _scaling),
        "startup": (("who", "seconds", "range"), _startup),
        "takeover": (("until", "seconds", "range"), _takeover),
        "idle": (("workers", "process", "CPU % of a core", "USS MiB", "PSS MiB", "RSS MiB"), _idle),
        "private memory": (("process", "what", "MiB"), _private),
    }
    for title, (head, rows) in makers.items():
        part = found.get("idle" if title == "private memory" else title, {})
        if part and "error" not in part:
            made.append((title, head, rows(part)))
    return made


def _range(each: Mapping[str, float], form: str = ",.0f", factor: float = 1.0) -> str:
    return f"{each['lowest'] * factor:{form}} to {each['highest'] * factor:{form}}"


def _machines(found: Mapping[str, Any]) -> list[Row]:
    rows = []
    for what, part in found.items():
        machine = part["machine"]
        peers = {name: version for peer in machine["peers"].values() for name, version in peer.items()}
        versions = ", ".join(
            f"{name} {machine[key]}"
            for name, key in (
                ("Python", "python"),
                ("confluent-kafka", "confluent_kafka"),
                ("librdkafka", "librdkafka"),
            )
        )
        others = ", ".join(
            f"{name} {version}"
            for name, version in sorted(peers.items())
            if name not in ("confluent-kafka", "matplotlib")
        )
        rows.append(
            (
                what,
                part["at"],
                str(part["rounds"]),
                f"{part['took']:.0f} s",
                f"{machine['load']:.1f}",
                f"{machine['cpus']} CPUs ({machine['cpu']}), {machine['memory_gib']:.0f} GiB, Linux {machine['linux']}, {versions}"
                + (f"; {others}" if what == "throughput" else ""),
            )
        )
    return rows


def _throughput(part: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, each in part["contestants"].items():
        ratio = each.get("ratio")
        rows.append(
            (
                f"{'**' if each['kind'] == 'ours' else ''}{name}{'**' if each['kind'] == 'ours' else ''}",
                f"{each['messages_per_second']['median']:,.0f}",
                _range(each["messages_per_second"]),
                f"{ratio['median']:.2f} ({_range(ratio, '.2f')}) of {each['compared_with']}" if ratio else "",
                f"{each['cpu_seconds_per_million']['median']:.2f}",
                f"{each['peak_memory']['median'] / MIB:.0f} MiB",
                f"{each['to_first']['median']:.2f} s",
            )
        )
    rows += [(name, "failed", why, "", "", "", "") for name, why in part["failed"].items()]
    return rows


def _pairs(part: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for pair, each in part["pairs"].items():
        ours, _, theirs = pair.partition(" / ")
        if "failed" in each:
            rows.append((ours, theirs, "failed", each["failed"], "", ""))
            continue
        figures = [(f"{each[kind]['median']:.2f}", _range(each[kind], ".2f")) for kind in ("pace", "cpu")]
        rows.append((ours, theirs, *figures[0], *figures[1]))
    return rows


def _readme(part: Mapping[str, Any]) -> str:
    found = part["contestants"]
    rows = []
    for name in README:
        if name in found:
            each = found[name]
            who = {"ours": "kafka-swarm", "raw": "confluent-kafka", "peer": ""}[each["kind"]]
            ratio = f"{each['ratio']['median']:.2f}" if "ratio" in each and each["kind"] == "ours" else ""
            rows.append(
                (
                    f"{who} {name}".strip(),
                    f"{each['messages_per_second']['median']:,.0f}",
                    ratio,
                    f"{each['cpu_seconds_per_million']['median']:.1f} s",
                    f"{each['peak_memory']['median'] / MIB:.0f} MiB",
                )
            )
    head = ("one process, one topic", "messages/s", "of the bare loop", "CPU per million", "peak memory")
    return table(head, rows)


def _latency(part: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for rate, found in part["rates"].items():
        for name, each in found["contestants"].items():
            ratio = each["ratio"]
            rows.append(
                (
                    f"{int(rate):,}/s",
                    name,
                    *(
                        f"{each[kind]['median'] * 1e3:.2f} ({_range(each[kind], '.2f', 1e3)})"
                        for kind in ("p50", "p99", "max")
                    ),
                    *(f"{ratio[kind]['median']:.2f}" if kind in ratio else "" for kind in ("p50", "p99")),
                )
            )
        rows += [(f"{int(rate):,}/s", name, "failed", why, "", "", "") for name, why in found["failed"].items()]
    return rows


def _slices(part: Mapping[str, Any]) -> list[Row]:
    return [(name, f"{each['median']:,.0f}", _range(each)) for name, each in part["messages_per_second"].items()]


def _scaling(part: Mapping[str, Any]) -> list[Row]:
    return [
        (
            count,
            *(f"{part[kind][count]['messages_per_second']['median']:,.0f}" for kind in ("swarm", "bare")),
            *(f"{part[kind][count]['against_one']['median']:.2f}" for kind in ("swarm", "bare")),
            f"{each['median']:.2f} ({_range(each, '.2f')})",
        )
        for count, each in part["swarm_against_bare"].items()
    ]


def _startup(part: Mapping[str, Any]) -> list[Row]:
    who = {"swarm": f"`swarmctl start`, {part['workers']} workers", "bare": "a bare program"}
    return [
        (label, f"{part[kind]['seconds']['median']:.2f}", _range(part[kind]["seconds"], ".2f"))
        for kind, label in who.items()
    ]


def _takeover(part: Mapping[str, Any]) -> list[Row]:
    names = {
        "forked": "the fork of the successor (from the log)",
        "assigned": "its assignment (from the log)",
        "first": "a message of its partitions",
        "all": "one of each of its partitions",
    }
    rows: list[Row] = [
        (label, f"{part[kind]['median']:.3f}", _range(part[kind], ".3f")) for kind, label in names.items()
    ]
    return [*rows, ("rebalances that the others saw", str(part["rebalances_of_others"]), f"{part['kills']} kills")]


def _idle(part: Mapping[str, Any]) -> list[Row]:
    return [
        (
            count,
            name.replace("_", " "),
            f"{each['cpu_percent']:.2f}",
            *(f"{each[kind] / MIB:.1f}" for kind in ("uss", "pss", "rss")),
        )
        for count, swarm in part["swarms"].items()
        for name, each in swarm["processes"].items()
    ]


def _private(part: Mapping[str, Any]) -> list[Row]:
    swarm = part["swarms"]["8"] if "8" in part["swarms"] else next(iter(part["swarms"].values()))
    return [
        (name.replace("_", " "), what, f"{size / MIB:.2f}")
        for name, parts in swarm["private_memory"].items()
        for what, size in parts.items()
    ]
