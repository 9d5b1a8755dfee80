"""What workers have noticed about the application, as findings of `status`. Pure.

Kept per worker index: a successor's word replaces its predecessor's. It is gone with a reload, as the code that it speaks of may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from swarm.wording import counted, plural

_TOOK: Final = ": it took "
"""How `swarm.bus` says that a single listener was slow."""
MOST: Final = 500
"""Observations kept in all."""


class Observed:
    """The latest observation of each worker, kind and place."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}

    def heard(self, worker: int, observation: Mapping[str, Any]) -> None:
        """A worker tells."""
        key = (str(observation["kind"]), str(observation["where"]))
        if key in self._known or len(self._known) < MOST:
            self._known.setdefault(key, {})[worker] = observation

    def findings(self) -> Iterator[dict[str, str]]:
        """What an operator, or the application's author, has to mend, in the form that `doctor` has for it."""
        for (kind, where), by_worker in sorted(self._known.items()):
            count = sum(int(each["count"]) for each in by_worker.values())
            example = str(next(iter(by_worker.values()))["example"])
            workers = ", ".join(map(str, sorted(by_worker)))
            who = f"{plural(len(by_worker), 'worker')} {workers}"
            if kind == "threads":
                yield {
                    "rule": "handler_leaves_threads",
                    "severity": "warning",
                    "what": f"the handler of the {where} returns before its work is done",
                    "cause": "It starts threads and does not wait for them. Messages are marked as consumed when it returns, so a "
                    "crash loses what these threads have in hand, and nothing limits how many there are.",
                    "fix": "Wait for them before it returns, or process in the handler: worker.concurrency, virtual_partitions= "
                    'and async def run things side by side. Or use offsets="manual" and mark what is done.',
                    "evidence": f"{count} of the jobs that were looked at left something behind, last a {example} ({who})",
                }
            elif kind == "listener":
                slow = where == "*" or _TOOK in example
                what = f"the listener {where} {'is too slow' if slow else 'raises'}"
                yield {
                    "rule": "listener_fails",
                    "severity": "warning",
                    "what": "listeners of the application are too slow" if where == "*" else what,
                    "cause": "Where more events come than listeners take, those beyond 10,000 that wait are dropped."
                    if slow
                    else "What it would have said or counted is missing; processing goes on as if it were not there.",
                    "fix": "Do less in a listener: count, and send elsewhere."
                    if slow
                    else "Mend it; the log shows listener_failed.",
                    "evidence": f"{counted(count, 'time')}, last {example} ({who})",
                }
