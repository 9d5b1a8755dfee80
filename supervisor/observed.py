"""What workers, and the process of the supervisor's listeners, have noticed about the application, as findings of `status`. Pure.

Of workers it is kept per worker index: a successor's word replaces its predecessor's. It is gone with a reload, as the code that it speaks of may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from swarm.observations import LONGEST
from swarm.wording import counted, plural

_TOOK: Final = ": it took "
"""How `swarm.bus` says that a single listener was slow."""
MOST: Final = 500
"""Observations kept in all."""
Lapse = Literal["dropped", "died", "garbled"]
"""What concerns the process of the supervisor's listeners as a whole: an event that it did not take, its death, and words of it that cannot be
understood."""


@dataclass(slots=True)
class _Own:
    """Of one listener in the supervisor's process of listeners. times: by event, in the process that lives; earlier: in those before it."""

    earlier: int = 0
    times: dict[str, int] = field(default_factory=dict)
    example: str = ""
    off: bool = False


class Observed:
    """The latest observation of each worker, kind and place."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
        self._own: dict[tuple[str, int], _Own] = {}
        self._lapses: dict[Lapse, int] = {}
        self._missed = ""
        self._hangs = ("", "", 0.0)

    def heard(self, worker: int, observation: Mapping[str, Any]) -> None:
        """A worker tells."""
        key = (str(observation["kind"]), str(observation["where"]))
        if key in self._known or len(self._known) < MOST:
            self._known.setdefault(key, {})[worker] = observation

    def listener_failed(self, number: int, listener: str, heard: str, error: str, times: int, *, off: bool) -> None:
        """A listener of the supervisor's own events, by its number in the app and its name, went wrong, over this event for the `times`th time in
        its process. off: it is called no more."""
        key = (listener, number)
        if key in self._own or len(self._own) < MOST:
            own = self._own.setdefault(key, _Own())
            own.times[heard if heard in own.times or len(own.times) < MOST else ""] = times
            own.example = f"at {heard}: {' '.join(error.split())}"[:LONGEST]
            own.off |= off

    def listeners_ended(self) -> None:
        """The process of the supervisor's listeners ended. The next one counts anew, and calls all of them."""
        self._hangs = ("", "", 0.0)
        for own in self._own.values():
            own.earlier += sum(own.times.values())
            own.times.clear()
            own.off = False

    def listeners_lapsed(self, lapse: Lapse, heard: str, error: str, times: int) -> None:
        """The process of the supervisor's listeners lapsed for the `times`th time, over whichever event; at last over this one."""
        self._lapses[lapse] = times
        if lapse != "garbled":
            self._missed = f"at {heard}: {error}"[:LONGEST]

    def listener_hangs(self, listener: str, heard: str, seconds: float) -> None:
        """A listener of the supervisor's own events has not returned for so long; 0.0: none of them is called so."""
        self._hangs = (listener, heard, seconds)

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
                yield _listener(where, example, f"{counted(count, 'time')}, last {example} ({who})")
        listener, heard, seconds = self._hangs
        if seconds:
            yield {
                "rule": "listener_fails",
                "severity": "warning",
                "what": f"the listener {listener} does not return",
                "cause": "Those of the supervisor's events share one process, so none of them hears anything meanwhile, and what its "
                "socket does not hold is dropped.",
                "fix": "Give what it waits for a timeout.",
                "evidence": f"It was called over {heard} {seconds:.0f} s ago (in the process that hears the supervisor's events)",
            }
        where_heard = "(in the process that hears the supervisor's events)"
        if missed := self._lapses.get("dropped", 0) + self._lapses.get("died", 0):
            yield {
                "rule": "listener_fails",
                "severity": "warning",
                "what": "listeners of the supervisor's events miss some of them",
                "cause": "Their process is too slow, or has ended. The supervisor waits for nobody: what they do not take is dropped.",
                "fix": "Do less in a listener: count, and send elsewhere; see which one ends the process.",
                "evidence": f"{counted(missed, 'time')}, last {self._missed} {where_heard}",
            }
        if garbled := self._lapses.get("garbled", 0):
            yield {
                "rule": "listener_fails",
                "severity": "warning",
                "what": "the process of the supervisor's listeners says what cannot be understood",
                "cause": "Something in it writes into a descriptor that is not its own, so that a failure of a listener may not be shown here.",
                "fix": "See which listener closes or writes into descriptors by their numbers.",
                "evidence": f"{counted(garbled, 'time')} {where_heard}",
            }
        for (listener, _), own in sorted(self._own.items()):
            evidence = f"{counted(own.earlier + sum(own.times.values()), 'time')}, last {own.example} {where_heard}"
            found = _listener(listener, own.example, evidence)
            yield {**found, "what": f"{found['what']}, and is called no more"} if own.off else found


def _listener(where: str, example: str, evidence: str) -> dict[str, str]:
    slow = where == "*" or _TOOK in example
    what = f"the listener {where} {'is too slow' if slow else 'raises'}"
    return {
        "rule": "listener_fails",
        "severity": "warning",
        "what": "listeners of the application are too slow" if where == "*" else what,
        "cause": "Where more events come than listeners take, those beyond 10,000 that wait are dropped."
        if slow
        else "What it would have said or counted is missing; processing goes on as if it were not there.",
        "fix": "Do less in a listener: count, and send elsewhere."
        if slow
        else "Mend it; the log shows listener_failed.",
        "evidence": evidence,
    }
