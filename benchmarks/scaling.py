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
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Done:
    """Messages, and the seconds of processor time that the handlers took for them."""

    messages: int
    cpu: float


class Crew:
    """The processes of one kind, that have all had messages. They are stopped, and work when it is their turn: what the machine does
    meanwhile it does to both kinds (see `pairs`)."""

    def __init__(
        self,
        stack: ExitStack,
        kind: str,
        count: int,
        name: str,
        place: Path,
        bootstrap: str,
        same: dict[str, Any],
        settings: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """settings: of a swarm, beside the number of workers."""
        fresh = uuid.uuid4().hex[:8]
        self._journal = place / f"burn-{fresh}"
        environment = {"BENCHMARK_TOPIC": name, "BENCHMARK_RESULT": str(self._journal)}
        if kind == "swarm":
            stack.enter_context(
                contestant.swarm(
                    "burn", place, bootstrap, {**(settings or {}), "swarm": {"workers": count}}, environment
                )
            )
        else:
            properties = json.dumps({**same, "group.id": f"bare-{fresh}"})
            for _ in range(count):
                stack.enter_context(contestant.program("raw_burn", environment | {"BENCHMARK_PROPERTIES": properties}))
        deadline = time.monotonic() + _WITHIN
        while len(self.pids()) < count:
            if time.monotonic() > deadline:
                raise Failed(f"{kind}: not all of {count} had messages within {_WITHIN:g} s")
            time.sleep(0.02)
        time.sleep(1.0)  # the last rebalance is over
        self.messages, self.seconds = 0, 0.0
        stack.callback(self.send, signal.SIGCONT)  # before they are ended
        self.send(signal.SIGSTOP)

    def turn(self) -> None:
        """Let them work for a moment."""
        before, began = self.done().messages, time.monotonic()
        self.send(signal.SIGCONT)
        time.sleep(TURN)
        self.send(signal.SIGSTOP)
        self.seconds += time.monotonic() - began
        self.messages += self.done().messages - before

    def done(self) -> Done:
        """So far, by all of them."""
        lines = self._lines()
        return Done(sum(messages for _, messages, _ in lines), sum(spent for _, _, spent in lines) / 1e9)

    def pids(self) -> set[int]:
        """Of those that have had messages."""
        return {pid for pid, _, _ in self._lines()}

    def _lines(self) -> list[list[int]]:
        if not self._journal.exists():
            return []
        text = self._journal.read_text()
        return [[int(word) for word in line.split()] for line in text[: text.rfind("\n") + 1].splitlines()]

    def send(self, number: signal.Signals) -> None:
        """A signal to each of them."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _both(count: int, name: str, place: Path, bootstrap: str, same: dict[str, Any]) -> dict[str, float]:
    """Messages a second of each kind."""
    with ExitStack() as stack:
        crews = {kind: Crew(stack, kind, count, name, place, bootstrap, same) for kind in ("swarm", "bare")}
        for number in range(int(SECONDS / TURN)):
            for kind in ("swarm", "bare") if number % 2 else ("bare", "swarm"):
                crews[kind].turn()
        return {kind: crew.messages / crew.seconds for kind, crew in crews.items()}
