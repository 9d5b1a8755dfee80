"""What virtual partitions are worth where a handler waits: one partition, 1 ms per message, one slice and four. Figures only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import contestant
from cluster import fill, topic
from field import Contestant
from figures import ratios, spread
from throughput import Start

MESSAGES: Final = 1500
FIELD: Final = (
    Contestant("plain", "ours", "waiting", "waiting"),
    Contestant("4 slices by key", "ours", "waiting", "waiting", environment={"BENCHMARK_SLICES": "4"}),
)


def measure(bootstrap: str, runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Both `runs` times in turn."""
    rates: dict[str, list[float]] = {each.name: [] for each in FIELD}
    with topic(bootstrap, "slices", 1) as name, contestant.folder() as place:
        fill(bootstrap, name, MESSAGES + 100, 1)
        start = Start(place, bootstrap, {"BENCHMARK_TOPIC": name}, {})
        for run in range(runs):
            for each in FIELD:
                found = start(each, MESSAGES)
                rates[each.name].append(found["messages"] / found["seconds"])
                say(f"slices: run {run + 1} of {runs}, {each.name}: {rates[each.name][-1]:,.0f} messages/s")
    plain, divided = (rates[each.name] for each in FIELD)
    return {
        "messages": MESSAGES,
        "messages_per_second": {name: spread(found) for name, found in rates.items()},
        "ratio": spread(ratios(divided, plain)),
    }
