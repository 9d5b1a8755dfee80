"""The hand-over that a broker cannot see coming: with `group.protocol=consumer` (KIP-848), of partitions that were just given. Pure.

librdkafka (up to 2.16, at least) tells its broker of the partitions it holds whenever a connection broke; in the middle of an
assignment it leaves out those that it is being given. What is not named counts as given up, and goes to whoever waits for it, while the
member goes on to take it up, works on it, and hears of it with the answer to its next heartbeat (docs/design.md). So two members
hold a partition for a moment, of whom one is told at once. No more than that is excused here: as soon as the coordinator has
answered the member anything, it has answered that heartbeat, too, and nobody else may be given the partition before it is given up.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from swarm.testing.ledger import Assignment, Partition

UNANSWERED: Final = 10.0
"""Seconds after which a member that has heard nothing of its coordinator has to have lost its partitions instead."""

CAUSE: Final = (
    "the broker gave it to somebody else before its new holder could acknowledge it (group.protocol=consumer)"
)


def given_away(partition: Partition, assignment: Assignment, now: str, seconds: float) -> bool:
    """Whether this assignment, which a revocation of so many seconds ends `now`, was somebody else's before it was acknowledged."""
    if not partition.semantics.new_protocol or not _others(partition, assignment):
        return False
    revoked_after = elapsed(assignment.at, now) - seconds
    answered_after = elapsed(assignment.at, assignment.answered) if assignment.answered else float("inf")
    return revoked_after <= min(answered_after, UNANSWERED)


def _others(partition: Partition, assignment: Assignment) -> bool:
    return bool(assignment.overlaps) or any(assignment in other.overlaps for other in partition.holders)


def elapsed(earlier: str, later: str) -> float:
    """Seconds from one timestamp to another; for ever where one is missing."""
    try:
        return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    except ValueError:
        return float("inf")
