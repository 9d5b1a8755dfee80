"""The invariants by name, and what is said where one did not hold. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

INVARIANTS: Final[Mapping[str, str]] = {
    "lost": "at-least-once and exactly-once lose no message: what is passed over was handled, set aside, or skipped as asked",
    "twice": "no message is handled twice without a recorded cause",
    "at_most_once": "at-most-once never repeats a message",
    "exactly_once": "outputs of exactly-once appear once under read_committed",
    "order": "a partition's messages are handled in the order of their offsets",
    "one_job": "a partition has one job at a time in a process",
    "own_partitions": "a process handles only partitions that it holds",
    "one_owner": "a partition has one holder in a group",
    "commit_past_work": "a commit never passes a message that is not done",
    "commit_after_release": "nothing is committed for a partition after its revocation",
    "commit_went_back": "what the broker has confirmed stays committed",
    "left_running": "when the swarm has stopped, none of its workers is left",
    "killed_for_a_reason": "what was killed, was killed for a recorded reason and with an incident",
    "evidence": "the facts are complete enough to judge",
}
"""By name: what each violation is about."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold: its name in `INVARIANTS`, what happened, and the lines that show it."""

    invariant: str
    text: str
    evidence: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join([f"{self.invariant}: {self.text}", *self.evidence])


def report(violations: Sequence[Violation]) -> str:
    """Violations as a text for people; at most twenty of them."""
    shown_ = [str(violation) for violation in violations[:20]]
    if len(violations) > 20:
        shown_.append(f"and {len(violations) - 20} more")
    return "\n".join(shown_)
