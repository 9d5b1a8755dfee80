"""Messages a second of every contestant of the field, in turn, on the same messages. Figures only; prints nothing.

Each run has all contestants, one after the other and in rotating order; ratios are taken within a run, so that a machine that
becomes slower meanwhile does not decide. One that fails does not end the run: it is named with its reason.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import contestant
from cluster import PARTITIONS, SIZE, fill, topic
from contestant import Failed
from field import FIELD, MEASURE, Contestant
from figures import of_same_runs, spread

WITHIN = 60.0
"""Seconds after which a contestant has failed."""
PATIENCE = 2
"""Failures after which a contestant is not tried again."""


def measure(
    bootstrap: str, messages: int, runs: int, say: Callable[[str], None], field: Sequence[Contestant] = FIELD
) -> dict[str, Any]:
    """Every contestant `runs` times."""
    with (
        topic(bootstrap, "throughput") as name,
        topic(bootstrap, "copies") as out,
        contestant.folder() as place,
    ):
        say(f"throughput: writing {messages:,} messages of {SIZE} bytes")
        fill(bootstrap, name, messages)
        environment = {"BENCHMARK_TOPIC": name, "BENCHMARK_OUT": out, "BENCHMARK_BOOTSTRAP": bootstrap}
        same = contestant.bare_properties(contestant.properties("batch", place, bootstrap, environment))
        start = Start(place, bootstrap, environment, same)
        start(field[0], messages)  # not counted: the broker's code is compiled and the messages are in memory after it
        results: dict[str, list[dict[str, Any]]] = {each.name: [] for each in field}
        failures: dict[str, list[str]] = {each.name: [] for each in field}
        for each in field:
            if each.settings.keys() - contestant.SECTIONS:
                failures[each.name] = PATIENCE * ["this version has no such setting"]
        for run in range(runs):
            order = list(field)[run % len(field) :] + list(field)[: run % len(field)]
            for each in order:
                if len(failures[each.name]) >= PATIENCE:
                    continue
                try:
                    found = start(each, max(1000, int(messages * each.share)))
                except Failed as error:
                    failures[each.name].append(str(error))
                    say(f"throughput: run {run + 1} of {runs}, {each.name}: failed: {error}")
                    continue
                results[each.name].append({**found, "run": run})
                rate = found["messages"] / found["seconds"]
                say(f"throughput: run {run + 1} of {runs}, {each.name}: {rate:,.0f} messages/s")
    return {
        "messages": messages,
        "bytes": SIZE,
        "partitions": PARTITIONS,
        "properties": {key: value for key, value in same.items() if key not in {"bootstrap.servers", "group.id"}},
        "contestants": {
            each.name: _summary(each, results[each.name], results.get(MEASURE.get(each.form, ""), []))
            for each in field
            if results[each.name]
        },
        "failed": {
            each.name: failures[each.name][-1] for each in field if not results[each.name] and failures[each.name]
        },
    }


class Start:
    """Runs one contestant from its start to its result, and ends it."""

    def __init__(
        self,
        place: Path,
        bootstrap: str,
        environment: Mapping[str, str],
        same: Mapping[str, Any],
        within: float = WITHIN,
    ) -> None:
        self._place = place
        self._bootstrap = bootstrap
        self._environment = dict(environment)
        self._same = dict(same)
        self._defaults = {"bootstrap.servers": bootstrap, "auto.offset.reset": "earliest"}
        self._within = within

    def __call__(self, each: Contestant, messages: int) -> dict[str, Any]:
        """What its tally has written, with `to_first`: seconds from its start to its first message. Raises Failed."""
        began = time.monotonic()
        with self.running(each, {"BENCHMARK_MESSAGES": str(messages)}) as wait:
            found = wait()
        if "first_at" in found:
            found["to_first"] = found["first_at"] - began
        return found

    @contextmanager
    def running(self, each: Contestant, more: Mapping[str, str]) -> Iterator[Callable[[], dict[str, Any]]]:
        """It runs as long as the context, with a group of its own; what is handed out waits for its result. Raises Failed."""
        fresh = uuid.uuid4().hex[:8]
        path = self._place / f"result-{fresh}"
        environment = {
            **self._environment,
            **each.environment,
            **more,
            "BENCHMARK_RESULT": str(path),
            "BENCHMARK_GROUP": f"group-{fresh}",
        }
        if each.kind == "ours":
            with (
                contestant.swarm(each.script, self._place, self._bootstrap, each.settings, environment) as daemon,
                scraped(daemon.settings["observer"]["port"]) if each.scraped else nullcontext(),
            ):
                yield lambda: contestant.result(path, self._within, lambda: daemon.exit_code is None, daemon.story)
            return
        properties = self._same if each.same_properties else self._defaults
        environment["BENCHMARK_PROPERTIES"] = json.dumps({**properties, "group.id": f"group-{fresh}"})
        errors = self._place / f"errors-{fresh}"
        with contestant.program(each.script, environment, each.peer, errors) as process:
            yield lambda: contestant.result(
                path, self._within, lambda: process.poll() is None, lambda: errors.read_text(errors="replace")
            )


@contextmanager
def scraped(port: int) -> Iterator[None]:
    """Somebody asks the observer for metrics all the time, four times a second."""
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.25):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _summary(each: Contestant, found: list[dict[str, Any]], measure: list[dict[str, Any]]) -> dict[str, Any]:
    rates = [run["messages"] / run["seconds"] for run in found]
    summary: dict[str, Any] = {
        "kind": each.kind,
        "form": each.form,
        "messages_per_second": spread(rates),
        "cpu_seconds_per_million": spread([run["cpu_seconds"] / run["messages"] * 1e6 for run in found]),
        "peak_memory": spread([run["peak_memory"] for run in found]),
        "to_first": spread([run["to_first"] for run in found]),
        "runs": found,
    }
    if measure:
        summary["compared_with"] = MEASURE[each.form]
        summary["ratio"] = spread(of_same_runs(found, measure) or [0.0])
    return summary
