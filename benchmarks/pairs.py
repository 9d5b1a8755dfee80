"""Two contestants at a time, which take turns of some hundredths of a second: for ratios that are to be told apart from the machine's noise.

A machine that other things share changes its pace by the half, from one second to the next. So both run at once, and one of them is stopped
(SIGSTOP) while the other works, by turns, some hundred times: whatever the machine does, it does to both. What counts is how many messages
each has handled in the time that it had, and how much processor time it took for one. Figures only; prints nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import contestant
from cluster import fill, topic
from contestant import Failed
from field import named
from figures import spread
from throughput import Start

sys.path.insert(0, str(contestant.HERE))
from tally import PROGRESS

PAIRS: Final = (
    ("batch", "consume"),
    ("batch, values read", "consume"),
    ("each", "poll"),
    ("batch, 4 slices by key", "batch"),
    ("batch", "batch, no journal"),
    ("batch, metrics asked for", "batch, no metrics"),
)
TURN: Final = 0.06
"""Seconds. Long against what it takes to stop a process, and against what lies ready in the buffers of its sockets; short against the noise."""
MESSAGES: Final = 3_000_000
END: Final = 0.9
"""The share of the messages at which a round ends: whoever has nothing to read any more is not measured."""
_WITHIN: Final = 60.0


def measure(bootstrap: str, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Every pair `rounds` times."""
    with topic(bootstrap, "pairs") as name, contestant.folder() as place:
        say(f"pairs: writing {MESSAGES:,} messages")
        fill(bootstrap, name, MESSAGES)
        environment = {"BENCHMARK_TOPIC": name, "BENCHMARK_BOOTSTRAP": bootstrap}
        same = contestant.bare_properties(contestant.properties("batch", place, bootstrap, environment))
        start = Start(place, bootstrap, environment, same)
        start(named("consume"), MESSAGES)  # not counted: the messages are in memory after it
        found: dict[str, dict[str, Any]] = {}
        for ours, theirs in PAIRS:
            runs = []
            for number in range(rounds):
                try:
                    with ExitStack() as stack:
                        run = _turns(*(_Runner(stack, start, name, place) for name in (ours, theirs)))
                except Failed as error:
                    say(f"pairs: {ours} against {theirs}: failed: {error}")
                    continue
                runs.append(run)
                say(
                    f"pairs: {ours} against {theirs}, {number + 1} of {rounds}: pace {run['pace']:.3f}, "
                    f"processor time {run['cpu']:.3f}, {run['turns']} turns"
                )
            if runs:
                found[f"{ours} / {theirs}"] = {
                    **{kind: spread([run[kind] for run in runs]) for kind in ("pace", "cpu")},
                    "runs": runs,
                }
            else:
                found[f"{ours} / {theirs}"] = {"failed": f"{ours} or {theirs} came to no end"}
    return {"messages": MESSAGES, "turn": TURN, "pairs": found}


class _Runner:
    """One contestant that is stopped and continued. It is stopped when it has had its first messages."""

    def __init__(self, stack: ExitStack, start: Start, name: str, place: Path) -> None:
        self._path = place / f"progress-{uuid.uuid4().hex[:8]}"
        self._path.write_bytes(bytes(PROGRESS.size))
        stack.enter_context(start.running(named(name), {"BENCHMARK_PROGRESS": str(self._path)}))
        self._pid = self._count = 0
        deadline = time.monotonic() + _WITHIN
        while not (self.count and self._pid):
            if time.monotonic() > deadline:
                raise Failed(f"{name}: no message within {_WITHIN:g} s")
            time.sleep(0.002)
        self.messages = 0
        self.seconds = self.cpu = 0.0
        stack.callback(self._send, signal.SIGCONT)  # before it is ended
        self._send(signal.SIGSTOP)
        self._until_stopped()

    @property
    def count(self) -> int:
        """Messages so far. Whoever is written to at this moment is zero for an instant: never less than before."""
        pid, count = PROGRESS.unpack(self._path.read_bytes())
        self._pid = pid or self._pid
        self._count = max(self._count, count)
        return self._count

    def turn(self, *, counts: bool) -> None:
        """Let it work for a moment."""
        before, used = self.count, self._used()
        began = time.monotonic()
        self._send(signal.SIGCONT)
        time.sleep(TURN)
        self._send(signal.SIGSTOP)
        seconds = time.monotonic() - began
        self._until_stopped()
        if counts:
            self.messages += self.count - before
            self.seconds += seconds
            self.cpu += self._used() - used

    def _used(self) -> float:
        """Seconds of processor time of all its threads."""
        total = 0
        for task in Path(f"/proc/{self._pid}/task").iterdir():
            with suppress(OSError):  # a thread that ends
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def _until_stopped(self) -> None:
        while Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.0005)


def _turns(ours: _Runner, theirs: _Runner) -> dict[str, Any]:
    turns = 0
    while max(ours.count, theirs.count) < END * MESSAGES:
        pair = (ours, theirs) if turns % 2 else (theirs, ours)
        for runner in pair:
            runner.turn(counts=turns >= 4)  # the first ones live on what was fetched before
        turns += 1
    if turns < 10 or not ours.messages or not theirs.messages:
        raise Failed("too few turns")
    return {
        "pace": ours.messages / ours.seconds / (theirs.messages / theirs.seconds),
        "cpu": ours.cpu / ours.messages / (theirs.cpu / theirs.messages),
        "turns": turns,
        "messages_per_second": [each.messages / each.seconds for each in (ours, theirs)],
        "cpu_seconds_per_million": [each.cpu / each.messages * 1e6 for each in (ours, theirs)],
    }
