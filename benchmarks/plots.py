"""Draws results.json of the given folder as small SVGs beside it. Runs in the environment of `build/peers/plots`: matplotlib only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "kafka-swarm"  # the same results make the same files
mpl.rcParams["svg.fonttype"] = "none"
import matplotlib.pyplot as plt  # noqa: E402  # after what it reads at its import

COLOURS = {"ours": "#1f6f8b", "raw": "#99a8b2", "peer": "#e6a15c"}
NAMES = {"ours": "kafka-swarm", "raw": "confluent-kafka, bare", "peer": "others"}


def main() -> None:
    folder = Path(sys.argv[1])
    found = json.loads((folder / "results.json").read_text())
    for what, draw in (("throughput", throughput), ("latency", latency), ("scaling", scaling)):
        part = found.get(what)
        if part and "error" not in part:
            figure = draw(part)
            figure.tight_layout()
            figure.savefig(folder / f"{what}.svg", metadata={"Date": None})
            plt.close(figure)


def throughput(part: dict[str, Any]) -> Any:
    found = sorted(part["contestants"].items(), key=lambda each: each[1]["messages_per_second"]["median"])
    figure, axes = plt.subplots(figsize=(8, 0.26 * len(found) + 1))
    rates = [each["messages_per_second"] for _, each in found]
    medians = [rate["median"] for rate in rates]
    errors = [
        [rate["median"] - rate["lowest"] for rate in rates],
        [rate["highest"] - rate["median"] for rate in rates],
    ]
    axes.barh(
        [name for name, _ in found],
        medians,
        xerr=errors,
        color=[COLOURS[each["kind"]] for _, each in found],
        error_kw={"elinewidth": 0.8, "ecolor": "#444"},
    )
    axes.set_xscale("log")
    axes.set_xlabel(f"messages/s, one process, {part['bytes']} bytes (median and range; logarithmic)")
    _legend(axes)
    return figure


def latency(part: dict[str, Any]) -> Any:
    figure, all_axes = plt.subplots(1, len(part["rates"]), figsize=(8, 2.8), squeeze=False)
    for axes, (rate, found) in zip(all_axes[0], part["rates"].items(), strict=True):
        names = list(found["contestants"])
        for kind, marker in (("p50", "o"), ("p99", "s"), ("max", "x")):
            values = [found["contestants"][name][kind]["median"] * 1e3 for name in names]
            axes.plot(values, names, marker, label=kind, color="#1f6f8b", markersize=4)
        axes.set_xscale("log")
        axes.set_title(f"{int(rate):,} messages/s", fontsize=9)
        axes.set_xlabel("ms from produce() to the handler")
        axes.legend(fontsize=7)
    return figure


def scaling(part: dict[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=(5, 3))
    for kind, label, colour in (("swarm", "kafka-swarm", "ours"), ("bare", "bare processes", "raw")):
        counts = list(part[kind])
        rates = [part[kind][count]["messages_per_second"]["median"] for count in counts]
        axes.plot(counts, rates, "o-", label=label, color=COLOURS[colour])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("processes; each message takes some 50 µs of Python")
    axes.set_ylabel("messages/s")
    axes.legend()
    return figure


def _legend(axes: Any) -> None:
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    axes.legend(handles, NAMES.values(), fontsize=7, loc="lower right")


main()
