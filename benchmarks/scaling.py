"""What further workers are worth where handlers compute: messages a second over 1, 2, 4 and 8 workers, and of as many bare processes.

Figures only; prints nothing.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import contestant
from cluster import fill, topic
from contestant import Failed
from figures import ratios, spread

COUNTS: Final = (1, 2, 4, 8)
PARTITIONS: Final = 8
MESSAGES: Final = 250_000
"""More than the machine computes in a run."""
SECONDS: Final = 3.0
"""Of each kind, in turns."""
TURN: Final = 0.15
"""Seconds: some twenty batches of each process."""
_WITHIN: Final = 60.0


def measure(bootstrap: str, runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Both, with each number of workers, `runs` times in turn."""
    results: dict[str, dict[int, list[float]]] = {"swarm": {}, "bare": {}}
    with topic(bootstrap, "scaling", PARTITIONS) as name, contestant.folder() as place:
        say(f"scaling: writing {MESSAGES:,} messages")
        fill(bootstrap, name, MESSAGES, PARTITIONS)
        same = contestant.bare_properties(
            contestant.properties("burn", place, bootstrap, {"BENCHMARK_TOPIC": name, "BENCHMARK_RESULT": "/dev/null"})
        )
        for run in range(runs):
            for count in COUNTS:
                for kind, rate in _both(count, name, place, bootstrap, same).items():
                    results[kind].setdefault(count, []).append(rate)
                    say(f"scaling: run {run + 1} of {runs}, {kind}, {count}: {rate:,.0f} messages/s")
    return {
        "seconds": SECONDS,
        "partitions": PARTITIONS,
        **{
            kind: {
                str(count): {
                    "messages_per_second": spread(rates),
                    "against_one": spread(ratios(rates, found[1])),
                    "runs": rates,
                }
                for count, rates in found.items()
            }
            for kind, found in results.items()
        },
        "swarm_against_bare": {
            str(count): spread(ratios(results["swarm"][count], results["bare"][count])) for count in COUNTS
        },
    }


class _Crew:
    """The processes of one kind, that have all had messages. They are stopped, and work when it is their turn: what the machine does
    meanwhile it does to both kinds (see `pairs`)."""

    def __init__(
        self, stack: ExitStack, kind: str, count: int, name: str, place: Path, bootstrap: str, same: dict[str, Any]
    ) -> None:
        fresh = uuid.uuid4().hex[:8]
        self._journal = place / f"burn-{fresh}"
        environment = {"BENCHMARK_TOPIC": name, "BENCHMARK_RESULT": str(self._journal)}
        if kind == "swarm":
            stack.enter_context(contestant.swarm("burn", place, bootstrap, {"swarm": {"workers": count}}, environment))
        else:
            properties = json.dumps({**same, "group.id": f"bare-{fresh}"})
            for _ in range(count):
                stack.enter_context(contestant.program("raw_burn", environment | {"BENCHMARK_PROPERTIES": properties}))
        deadline = time.monotonic() + _WITHIN
        while len(self._pids()) < count:
            if time.monotonic() > deadline:
                raise Failed(f"{kind}: not all of {count} had messages within {_WITHIN:g} s")
            time.sleep(0.02)
        time.sleep(1.0)  # the last rebalance is over
        self.messages, self.seconds = 0, 0.0
        stack.callback(self._send, signal.SIGCONT)  # before they are ended
        self._send(signal.SIGSTOP)

    def turn(self) -> None:
        """Let them work for a moment."""
        before, began = _done(self._journal), time.monotonic()
        self._send(signal.SIGCONT)
        time.sleep(TURN)
        self._send(signal.SIGSTOP)
        self.seconds += time.monotonic() - began
        self.messages += _done(self._journal) - before

    def _pids(self) -> set[int]:
        return {pid for pid, _ in _lines(self._journal)}

    def _send(self, number: signal.Signals) -> None:
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _both(count: int, name: str, place: Path, bootstrap: str, same: dict[str, Any]) -> dict[str, float]:
    """Messages a second of each kind."""
    with ExitStack() as stack:
        crews = {kind: _Crew(stack, kind, count, name, place, bootstrap, same) for kind in ("swarm", "bare")}
        for number in range(int(SECONDS / TURN)):
            for kind in ("swarm", "bare") if number % 2 else ("bare", "swarm"):
                crews[kind].turn()
        return {kind: crew.messages / crew.seconds for kind, crew in crews.items()}


def _lines(journal: Path) -> list[tuple[int, int]]:
    if not journal.exists():
        return []
    text = journal.read_text()
    words = (line.split() for line in text[: text.rfind("\n") + 1].splitlines())
    return [(int(pid), int(messages)) for pid, messages in words]


def _done(journal: Path) -> int:
    return sum(messages for _, messages in _lines(journal))
