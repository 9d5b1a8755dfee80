"""What follows from a failed run: retry, run a smaller slice, set one message aside, or drop. Pure: values in, values out.

The rule for dead letters is that only the message that fails is set aside, never a healthy one of the same batch. Where the
failing message is known (it ran alone, or `each` stopped at it) it is set aside after `max_attempts`. Where a batch fails as a
whole, its messages are run in halves until the failing one stands alone, and has failed so twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from swarm.plan import Decision, Plan

PROOFS: Final = 2
"""Failures of a message alone before it is set aside, unless `max_attempts` is fewer. The runs before the search may have failed for
another message, or for another reason: one failure alone, of a handler whose database is away, would condemn a healthy one."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed run: `size` messages were still unmarked when it ended; `failed` runs in a row began with the first of them.

    culprit_known: the first unmarked message is the one that raised. tries: failed runs in a row that the message was a part of
    which raised; more than `failed` while it is searched for in ever smaller slices. alone: of these, failed runs in a row in which
    nothing else can have raised.
    decision: what the application says to the error (`DeadLetter.decide`), None: nothing.
    """

    size: int
    failed: int
    culprit_known: bool
    tries: int
    alone: int
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Run the unmarked messages again after `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Narrow:
    """Run only the first `size` of the unmarked messages next, at once."""

    size: int


@dataclass(frozen=True, slots=True)
class SetAside:
    """Dead-letter the first unmarked message, then go on behind it."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Drop the first unmarked message, with an event, and go on behind it: the application said so."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """At-most-once: all `size` unmarked messages never run again. `letter`: they are dead-lettered, if there is a topic; else dropped."""

    size: int
    letter: bool = True


Verdict = Retry | Narrow | SetAside | Skip | GiveUp


def after_failure(plan: Plan, failure: Failure, chance: float) -> Verdict:
    """The verdict on a failed run; `chance` (0 to 1) places the delay within the backoff's jitter."""
    if plan.delivery == "at_most_once":
        return GiveUp(1 if failure.culprit_known else failure.size, failure.decision != "skip")
    letter = plan.dead_letter
    if failure.decision is not None:
        over = failure.decision != "retry"
    else:
        over = letter is not None and failure.tries >= letter.max_attempts
    if not over:
        return Retry(plan.backoff.delay(failure.failed, chance))
    if not failure.culprit_known and failure.size > 1:
        return Narrow(max(1, failure.size // 2))
    if failure.decision is None and letter is not None and failure.alone < min(PROOFS, letter.max_attempts):
        return Retry(plan.backoff.delay(failure.alone, chance))
    return Skip() if failure.decision == "skip" else SetAside()
