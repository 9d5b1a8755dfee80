"""Which offsets were processed more than once, and which never, and why: from what journals say. Pure: no file, no clock, no Kafka.

What a handler has seen counts as processed, also where its run failed. Of each partition the runs are laid over each other in the order
of their beginning; where one covers what an earlier one covered, the cause is looked for in what is recorded between the two, the most
telling first:

    seek             a handler (or a hook whose outputs failed) went back
    offset_reset     the group began below what the broker had confirmed: somebody moved its offset; or the offset was out of range
    retry            the earlier run failed, its transaction did not happen, or its handler paused without marking
    poll_exceeded    the earlier owner was evicted because it had not polled for `max.poll.interval.ms`
    commit_failed    the broker refused the earlier owner's commit, or did not answer; however that one ended then
    crash            the earlier owner's process ended before the commit
    rebalance        the partition changed hands otherwise: lost, taken while a job ran, or handed over unmarked
    second_group     another group reads the same topic
    unknown          nothing of that is recorded

A *gap* is a range that was passed over and never run by anybody: by a `seek`, by an `offset_reset`, by at-most-once, or `unknown` where a worker
has left no journal. At-most-once commits before it runs: what a worker had in hand or had not begun yet is lost at its `crash`, and what it had
not begun when the partition was taken at a `rebalance`. What a filter skipped, what expired, dead letters, and offsets that hold no message
are none: an assignment that goes on behind them, or commits behind them, is done with them.
"""

from __future__ import annotations

import datetime
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

from swarm.journal_reader import Ahead, Assignment, Committed, Happened, History, Hole, Key, Process, Run
from swarm.letters import Span
from swarm.wording import counted

Cause = Literal[
    "retry",
    "crash",
    "rebalance",
    "poll_exceeded",
    "commit_failed",
    "offset_reset",
    "seek",
    "second_group",
    "produced_twice",
    "unknown",
]
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
LAWFUL_GAPS: Final = frozenset({"seek", "crash", "rebalance"})
"""A handler asked for the first; the others are only found where `delivery="at_most_once"` allows them."""
OF_MEMBERSHIP: Final = frozenset(
    {
        "UNKNOWN_MEMBER_ID",
        "FENCED_INSTANCE_ID",
        "ILLEGAL_GENERATION",
        "REBALANCE_IN_PROGRESS",
        "STALE_MEMBER_EPOCH",
        "FENCED_MEMBER_EPOCH",
    }
)
"""A commit that is refused with one of these comes from who is no longer the owner: that is the rebalance's doing."""
PASSING: Final = frozenset(
    {
        "COORDINATOR_LOAD_IN_PROGRESS",
        "COORDINATOR_NOT_AVAILABLE",
        "NOT_COORDINATOR",
        "REQUEST_TIMED_OUT",
        "NETWORK_EXCEPTION",
    }
)
"""With these the broker only says: later."""
_SAME_MOMENT: Final = 1.0
"""Seconds by which the clocks of two processes, or two reports of one thing, may disagree."""

Range = tuple[int, int]
"""[start, end)."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked about; empty or None: everything. Instants are seconds since the epoch, of the later run or of the gap's discovery."""

    groups: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    offsets: Span = field(default_factory=Span)
    since: float | None = None
    until: float | None = None

    def wants(self, key: Key) -> bool:
        group, topic, partition = key
        return (
            (not self.groups or group in self.groups)
            and (not self.topics or topic in self.topics)
            and (not self.partitions or partition in self.partitions)
        )

    def covers(self, finding: Finding) -> bool:
        low, high = self.offsets.first, self.offsets.last
        return (
            (self.since is None or finding.at >= self.since)
            and (self.until is None or finding.at < self.until)
            and (low is None or finding.last_offset >= low)
            and (high is None or finding.first_offset <= high)
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """A range that was processed again, or never. `evidence`: sentences for people; `earlier`, `later`: the same for programs."""

    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    cause: Cause
    evidence: str
    at: float
    earlier: dict[str, Any] = field(default_factory=dict)
    later: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "group": self.group,
            "topic": self.topic,
            "partition": self.partition,
            "first_offset": self.first_offset,
            "last_offset": self.last_offset,
            "cause": self.cause,
            "evidence": self.evidence,
            "at": moment(self.at),
            "earlier": self.earlier,
            "later": self.later,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The answer."""

    duplicates: tuple[Finding, ...] = ()
    gaps: tuple[Finding, ...] = ()
    troubles: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Parts of journals that are not there: no gap of their time is judged."""
    daemons: tuple[str, ...] = ()
    """Whose journals these are: what others have done is not known."""
    groups: tuple[str, ...] = ()
    """Whose partitions were looked at."""
    processes: int = 0
    partitions: int = 0
    messages: int = 0

    @property
    def unexplained(self) -> int:
        """Duplicates without a cause, and gaps that neither a handler nor at-most-once allows."""
        unknown = sum(1 for each in self.duplicates if each.cause == "unknown")
        return unknown + sum(1 for each in self.gaps if each.cause not in LAWFUL_GAPS)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run in its assignment."""

    run: Run
    lane: Assignment


def audit(history: History, wish: Wish = Wish()) -> Report:
    """Look at all that the journals say; the wish only chooses what of it is answered."""
    lanes: dict[Key, list[Assignment]] = {}
    for lane in history.assignments():
        lanes.setdefault(lane.key, []).append(lane)
    horizon = max(history.horizons.values(), default=0.0)
    duplicates: list[Finding] = []
    gaps: list[Finding] = []
    wanted = {key: found for key, found in sorted(lanes.items()) if wish.wants(key)}
    for key, all_of_it in wanted.items():
        for some in _epochs(all_of_it):
            partition = _Partition(key, some, history)
            duplicates += partition.duplicates()
            gaps += partition.gaps(horizon)
    duplicates += _second_groups(lanes, wish)
    runs = [run for found in wanted.values() for lane in found for run in lane.runs]
    return Report(
        tuple(sorted((each for each in duplicates if wish.covers(each)), key=_place)),
        tuple(sorted((each for each in gaps if wish.covers(each)), key=_place)),
        tuple(history.troubles),
        tuple(f"{_missing(hole)} ({hole.source}): no gap of that time is judged" for hole in history.holes),
        daemons=tuple(sorted({f"{process.name} on {process.host}" for process in history.processes})),
        groups=tuple(sorted({group for group, _, _ in wanted})),
        processes=sum(1 for process in history.processes if process.worker is not None),
        partitions=len(wanted),
        messages=sum(run.end - run.start if run.messages is None else run.messages for run in runs),
    )


def _missing(hole: Hole) -> str:
    return f"part of the journal of {hole} is missing, from {moment(hole.since)} to {moment(hole.until)}"


def _place(finding: Finding) -> tuple[Any, ...]:
    return finding.topic, finding.partition, finding.first_offset, finding.at, finding.group


def _epochs(lanes: list[Assignment]) -> Iterator[list[Assignment]]:
    """The assignments of one partition, apart where its topic was made anew: from there on its offsets mean other messages."""
    cuts = sorted(fact.at for lane in lanes for fact in lane.named("topic_recreated"))
    rest = lanes
    for cut in cuts:
        # The lane that noticed belongs to the former topic; its successor begins right after.
        before = [lane for lane in rest if lane.since <= cut and not _is_successor(lane, cut)]
        if before:
            yield before
        rest = [lane for lane in rest if lane not in before]
    if rest:
        yield rest


def _is_successor(lane: Assignment, cut: float) -> bool:
    return lane.since >= cut and not lane.named("topic_recreated")


class _Coverage:
    """Which piece covers which offsets: the newest one each."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._parts: list[tuple[int, int, _Piece]] = []

    def lay(self, piece: _Piece) -> list[tuple[int, int, _Piece]]:
        """Cover the piece's offsets; returns what of them was covered before, and by which."""
        start, end = piece.run.start, piece.run.end
        at = bisect_right(self._starts, start)
        if at and self._parts[at - 1][1] > start:
            at -= 1
        stop = at
        overlaps: list[tuple[int, int, _Piece]] = []
        kept: list[tuple[int, int, _Piece]] = []
        while stop < len(self._parts) and self._parts[stop][0] < end:
            low, high, other = self._parts[stop]
            overlaps.append((max(low, start), min(high, end), other))
            if low < start:
                kept.append((low, start, other))
            if high > end:
                kept.append((end, high, other))
            stop += 1
        kept.append((start, end, piece))
        kept.sort(key=lambda part: part[0])
        self._parts[at:stop] = kept
        self._starts[at:stop] = [part[0] for part in kept]
        return overlaps


class _Partition:
    """One partition of one group: its assignments in the order of their beginning."""

    def __init__(self, key: Key, lanes: list[Assignment], history: History) -> None:
        self.key = key
        self.lanes = lanes
        self._history = history
        self.pieces = sorted(
            (_Piece(run, lane) for lane in lanes for run in lane.runs if run.start < run.end),
            key=lambda piece: (piece.run.began_at, piece.lane.since, piece.run.order),
        )
        self.commits = sorted(
            ((commit.at, commit, lane) for lane in lanes for commit in lane.commits), key=lambda found: found[0]
        )

    # -- twice -------------------------------------------------------------------------------------------------------

    def duplicates(self) -> list[Finding]:
        coverage = _Coverage()
        found: list[tuple[Finding, _Piece, _Piece]] = []
        for later in self.pieces:
            for start, end, earlier in coverage.lay(later):
                for low, high, cause, why in self._explain(earlier, later, start, end):
                    found.append((self._finding(low, high, cause, why, earlier, later), earlier, later))
        return _merged(found)

    def _finding(self, start: int, end: int, cause: Cause, why: str, earlier: _Piece, later: _Piece) -> Finding:
        return Finding(*self.key, start, end - 1, cause, why, later.run.began_at, _facts(earlier), _facts(later))

    def _explain(self, earlier: _Piece, later: _Piece, start: int, end: int) -> Iterator[tuple[int, int, Cause, str]]:
        """The causes of running [start, end) again; each with the part that it explains."""
        while start < end:  # a part that was set back, then what is left of it
            went_back = self._went_back(earlier, later, start)
            if went_back is not None:
                yield start, end, *went_back
                return
            if earlier.lane is later.lane:
                yield start, end, *self._unless_missing(*self._within(earlier, later), earlier, later)
                return
            set_back = self._set_back(earlier.lane, later.lane, start)
            if set_back is None:
                middle = _died_after_refusal(earlier.lane, start, end)
                why = self._between(earlier, later, start, middle)
                yield start, middle, *self._unless_missing(*why, earlier, later)
                start = middle
                continue
            began, commit, holder = set_back
            middle = min(end, commit.offset)
            text = (
                f"the broker had confirmed {commit.offset} to {holder.process} at {moment(commit.at)}, and the group stood at "
                f"{began.start} when {began.process} got the partition at {moment(began.since)}: "
                "its offset was set back from outside, or the topic was made anew"
            )
            yield start, middle, *self._unless_missing("offset_reset", text, earlier, later)
            start = middle

    def _unless_missing(self, cause: Cause, why: str, earlier: _Piece, later: _Piece) -> tuple[Cause, str]:
        """A cause that follows from what is not recorded, where that may only be missing, is unknown."""
        recorded = cause in ("retry", "poll_exceeded", "commit_failed") or (
            cause == "rebalance" and earlier.lane.released is not None
        )
        since, until = sorted((earlier.run.began_at, later.run.began_at))
        for hole in self._history.holes:
            concerned = cause == "offset_reset" or hole.is_of(earlier.lane.process) or hole.is_of(later.lane.process)
            if not recorded and concerned and hole.meets(since, until):
                return "unknown", f"{_missing(hole)}, and perhaps the cause with it"
        return cause, why

    def _went_back(self, earlier: _Piece, later: _Piece, start: int) -> tuple[Cause, str] | None:
        for lane in self.lanes:
            for fact in lane.named("moved"):
                if not fact.data["to"] <= start < max(fact.data.get("position", 0), fact.data["to"] + 1):
                    continue
                if lane is earlier.lane and fact.order < earlier.run.order:
                    continue
                if lane is later.lane and fact.order > later.run.order:
                    continue
                if (lane is earlier.lane or earlier.run.began_at <= fact.at) and (
                    lane is later.lane or fact.at <= later.run.began_at
                ):
                    to, at = fact.data["to"], moment(fact.at)
                    if fact.data.get("why") == "seek":
                        return "seek", f"{lane.process} was asked by its handler at {at} to go on at {to}"
                    return "offset_reset", f"{lane.process} found its offset out of range at {at} and went on at {to}"
        return None

    def _within(self, earlier: _Piece, later: _Piece) -> tuple[Cause, str]:
        """Both runs belong to one assignment."""
        run, lane = earlier.run, earlier.lane
        if run.outcome == "aborted":
            return (
                "retry",
                f"its transaction did not happen, so that attempt {later.run.attempt} repeats it: {run.error}",
            )
        if run.outcome == "failed":
            return (
                "retry",
                f"attempt {run.attempt} failed at {moment(run.ended_at)}, attempt {later.run.attempt} followed: {run.error}",
            )
        if later.run.attempt > 1:
            return "retry", f"it is attempt {later.run.attempt} of a batch that failed"
        if any(run.order < fact.order for fact in lane.named("partition_paused")):
            return "retry", "its handler paused the partition without marking these messages"
        return "unknown", "both runs belong to one assignment, and nothing is recorded between them"

    def _between(self, earlier: _Piece, later: _Piece, start: int, end: int) -> tuple[Cause, str]:
        """The partition changed hands between the two runs."""
        former, heir = earlier.lane, later.lane
        if heir.since < former.since:
            return self._behind_the_times(later, earlier)
        evicted = _evicted(former, earlier.run.began_at, later.run.began_at)
        if evicted is not None:
            return (
                "poll_exceeded",
                f"{former.process} was evicted at {moment(evicted.at)}: {evicted.data.get('error', '')}",
            )
        if earlier.run.outcome in ("failed", "aborted"):
            what = "failed" if earlier.run.outcome == "failed" else "did not happen (its transaction was aborted)"
            return (
                "retry",
                f"attempt {earlier.run.attempt} {what}, and the partition changed hands before the next: {earlier.run.error}",
            )
        released = former.released
        refused = _refused(former, start, end)
        if released is None:
            return self._without_release(former, heir, later, refused)
        how = released.data.get("how")
        if how == "lost" and not (refused is not None and _is_refusal(refused)):
            return "rebalance", (
                f"{former.process} lost the partition (noticed at {moment(released.at)}), so that it could not commit any more"
                f"{_rival(former)}"
            )
        if refused is not None and refused.data.get("code") not in OF_MEMBERSHIP:
            return "commit_failed", _could_not_commit(former, refused)
        if released.data.get("late"):
            return (
                "rebalance",
                f"a job of {former.process} still ran when the partition was taken at {moment(released.at)}",
            )
        if refused is not None:
            return "rebalance", f"{former.process} was no member any more when it committed: {refused.data.get('code')}"
        if former.traits.get("offsets") == "manual":
            return (
                "rebalance",
                f"{former.process} handed the partition over at {moment(released.at)}; its handler had not marked these",
            )
        if earlier.run.outcome == "in_hand" or earlier.run.ended_at > released.at + _SAME_MOMENT:
            return (
                "rebalance",
                f"{former.process} let go of the partition at {moment(released.at)} while these were in hand",
            )
        return "unknown", f"{former.process} gave the partition up in good order at {moment(released.at)}"

    def _behind_the_times(self, later: _Piece, earlier: _Piece) -> tuple[Cause, str]:
        """The later run belongs to an older assignment: its worker did not know yet that it had lost the partition."""
        old = later.lane
        evicted = _evicted(old, old.since, later.run.began_at + 3600.0)
        if evicted is not None:
            return (
                "poll_exceeded",
                f"{old.process} was evicted, and ran these before it noticed: {evicted.data.get('error', '')}",
            )
        return (
            "rebalance",
            f"{old.process} had lost the partition to {earlier.lane.process}, and ran these before it noticed",
        )

    def _without_release(
        self, former: Assignment, heir: Assignment, later: _Piece, refused: Happened | None
    ) -> tuple[Cause, str]:
        process = former.process
        if process.exit is not None:
            if process.exit.at > later.run.began_at + _SAME_MOMENT and process is not heir.process:
                return "rebalance", (
                    f"{process} had lost the partition before it ended at {moment(process.exit.at)} ({_ending(process)})"
                )
            ended = f"ended at {moment(process.exit.at)}, {_ending(process)}"
        elif process.ended is None and self._lives_on(process):
            return (
                "rebalance",
                f"{process} has not let go of the partition: perhaps it is frozen, cut off from the broker, or gone with its host",
            )
        else:
            ended = f"ended without a word after {moment(process.seen_at)}"
        if refused is not None and refused.data.get("code") not in OF_MEMBERSHIP:
            return "commit_failed", f"{_could_not_commit(former, refused)}; then it {ended}"
        return "crash", f"{process} {ended}, before they were committed{_last_commit(former)}"

    def _lives_on(self, process: Process) -> bool:
        """Whether nothing is known of a process's end, nor of its supervisor's, nor of a successor."""
        for other in self._history.processes:
            later = other.source == process.source and other.began_at > process.began_at
            if later and other.worker in (None, process.worker):
                return False
        return not any(
            source == process.source and deed.what == "swarm_stopped" and deed.at >= process.began_at
            for source, deed in self._history.deeds
        )

    def _set_back(
        self, former: Assignment, heir: Assignment, start: int
    ) -> tuple[Assignment, Committed, Assignment] | None:
        """The assignment, of those after `former` up to `heir`, that began below what had been confirmed; that, and to whom."""
        for lane in self.lanes:
            if not former.since <= lane.since <= heir.since or lane is former or lane.start > start:
                continue
            confirmed = self._confirmed_before(lane)
            if confirmed is not None and confirmed[0].offset > start:
                return lane, *confirmed
        return None

    def _confirmed_before(self, lane: Assignment) -> tuple[Committed, Assignment] | None:
        """What the broker had confirmed last when an assignment began."""
        best = None
        for at, commit, holder in self.commits:
            if at > lane.since:
                break
            if holder is not lane:
                best = commit, holder
        return best

    # -- never -------------------------------------------------------------------------------------------------------

    def gaps(self, horizon: float) -> list[Finding]:
        found = [*self._jumps(), *self._forward_starts(horizon), *self._dropped_in_hand(), *self._never_begun()]
        covered = sorted((piece.run.start, piece.run.end) for piece in self.pieces if not _torn(piece))
        return [
            replace(gap, first_offset=start, last_offset=end - 1)
            for gap in found
            for start, end in _without(gap.first_offset, gap.last_offset + 1, covered)
        ]

    def _gap(self, start: int, end: int, cause: Cause, why: str, at: float, lane: Assignment) -> Finding:
        return Finding(*self.key, start, end - 1, cause, why, at, {}, _who(lane))

    def _jumps(self) -> Iterator[Finding]:
        for lane in self.lanes:
            for fact in lane.named("moved"):
                position, to = fact.data.get("position", 0), fact.data["to"]
                if to <= position:
                    continue
                if fact.data.get("why") == "seek":
                    why = f"{lane.process} was asked by its handler to go on at {to}, and stood at {position}"
                    yield self._gap(position, to, "seek", why, fact.at, lane)
                else:
                    edge = fact.data.get("edge")
                    removed = "retention had removed " + (
                        "the first of these, and it passed over what was still there"
                        if edge == "latest"  # the end of the log, and not the first message that is left
                        else "what is between"
                    )
                    why = (
                        f"{lane.process} found its offset {position} out of range and went on at {to} "
                        f"(offset_out_of_range={edge}): {removed}"
                    )
                    yield self._gap(position, to, "offset_reset", why, fact.at, lane)

    def _forward_starts(self, horizon: float) -> Iterator[Finding]:
        """Assignments that begin behind everything that was run or committed before."""
        reach, known_at = None, 0.0
        for number, lane in enumerate(self.lanes):
            judged = known_at >= horizon and not self._is_missing(known_at, lane.since)
            if reach is not None and lane.start > reach and judged:
                why = (
                    f"{lane.process} got the partition at {moment(lane.since)} and began at {lane.start}, although nobody in these "
                    f"journals had processed or committed more than {reach}: "
                )
                missing = self._unheard(known_at, lane.since)
                if missing:
                    why += f"{missing} worked meanwhile, and its journal is not among these"
                    yield self._gap(reach, lane.start, "unknown", why, lane.since, lane)
                else:
                    why += (
                        "the group's offset was set forward from outside, "
                        "or a member processed them whose journal is not among these (--journal)"
                    )
                    yield self._gap(reach, lane.start, "offset_reset", why, lane.since, lane)
            ends = [lane.start, *(run.end for run in lane.runs), *(commit.offset for commit in lane.commits)]
            ends += [fact.data["to"] for fact in lane.named("moved")]
            ahead = self._committed_ahead(number)
            if ahead is not None:
                ends.append(ahead.offset)
            reach = max([reach or 0, *ends])
            known_at = max([known_at, lane.since, *(run.ended_at for run in lane.runs)])

    def _is_missing(self, since: float, until: float, process: Process | None = None) -> bool:
        """Whether a part of a worker's journal of this time is not there. process: of its worker's, else of anybody's."""
        return any(
            hole.meets(since, until) and (hole.worker is not None if process is None else hole.is_of(process))
            for hole in self._history.holes
        )

    def _unheard(self, since: float, until: float) -> str:
        """A worker of whom its supervisor says that it worked meanwhile and ended in good order, and who has left no word here.

        Another end tells nothing: who died before it had a partition has written nothing either.
        """
        heard = {(process.source, process.worker, process.pid) for process in self._history.processes}
        sources = {lane.process.source for lane in self.lanes}
        began: dict[tuple[str, Any, Any], float] = {}
        for source, deed in self._history.deeds:
            who = source, deed.data.get("worker"), deed.data.get("pid")
            if source not in sources or who in heard:
                continue
            if deed.what == "worker_started":
                began[who] = deed.at
            ended_well = deed.what == "worker_exited" and deed.data.get("graceful")
            if ended_well and began.get(who, 0.0) <= until and deed.at >= since - _SAME_MOMENT:
                return f"worker {who[1]} (pid {who[2]})"
        return ""

    def _dropped_in_hand(self) -> Iterator[Finding]:
        """At-most-once: what was committed before its run, and whose process ended with it."""
        for number, lane in enumerate(self.lanes):
            for run in lane.runs:
                if not _torn(_Piece(run, lane)) or lane.released is not None or number + 1 >= len(self.lanes):
                    continue
                heir = self.lanes[number + 1]
                if heir.start >= run.end and not self._is_missing(run.began_at, heir.since, lane.process):
                    why = f"at-most-once: {lane.process} had them in hand when it ended ({_ending(lane.process)})"
                    ahead = lane.ahead  # knows the first message; a run goes on over what was skipped before it
                    known = ahead is not None and run.start <= ahead.start < run.end <= ahead.end
                    start = ahead.start if ahead is not None and known else run.start
                    yield self._gap(start, run.end, "crash", why, heir.since, heir)

    def _never_begun(self) -> Iterator[Finding]:
        """At-most-once: what was committed before its run, which did not begin."""
        for number, lane in enumerate(self.lanes):
            ahead = self._committed_ahead(number)
            if ahead is None:
                continue
            # A lane runs in order: what is below the newest that was begun since was begun, too, or skipped.
            begun = max((run.end for run in lane.runs if run.ended_at >= ahead.at), default=ahead.start)
            if begun >= ahead.end:
                continue
            process, released, heir = lane.process, lane.released, self.lanes[number + 1]
            answered = any(commit.at >= ahead.at and commit.offset >= ahead.offset for commit in lane.commits)
            sent = (
                f"committed {ahead.offset}" if answered else f"sent the commit of {ahead.offset}, and heard no answer,"
            )
            why = f"at-most-once: {process} had {sent} at {moment(ahead.at)}, before their run"
            cause: Cause = "crash" if released is None else "rebalance"
            if released is not None:
                why = f"at-most-once: {process} let go of the partition at {moment(released.at)}: it had {sent} before their run"
            elif process.exit is None:
                why += f", and never began it ({_ending(process)})"
            else:
                why += f", and ended before it began that: {_ending(process)} at {moment(process.exit.at)}"
            yield self._gap(max(ahead.start, begun), ahead.end, cause, why, heir.since, heir)

    def _committed_ahead(self, number: int) -> Ahead | None:
        """At-most-once: what an assignment committed last before its run, where the broker took that: the next one went on behind it."""
        ahead = self.lanes[number].ahead
        if ahead is None or number + 1 >= len(self.lanes) or self.lanes[number + 1].start < ahead.offset:
            return None
        heir = self.lanes[number + 1]
        return None if self._is_missing(ahead.at, heir.since, self.lanes[number].process) else ahead


def _torn(piece: _Piece) -> bool:
    return piece.run.outcome == "in_hand" and piece.lane.traits.get("delivery") == "at_most_once"


def _without(start: int, end: int, covered: list[Range]) -> Iterator[Range]:
    """What of [start, end) is in none of the ranges, which are sorted."""
    for low, high in covered:
        if high <= start:
            continue
        if low >= end:
            break
        if low > start:
            yield start, low
        start = max(start, high)
    if start < end:
        yield start, end


def _evicted(lane: Assignment, since: float, until: float) -> Happened | None:
    return next(
        (
            fact
            for fact in lane.process.facts
            if fact.what == "client_error"
            and fact.data.get("code") == "_MAX_POLL_EXCEEDED"
            and fact.data.get("group") in ("", lane.group)
            and since - _SAME_MOMENT <= fact.at <= until + 60.0
        ),
        None,
    )


def _refused(lane: Assignment, start: int, end: int) -> Happened | None:
    """A commit of an assignment that would have covered [start, end), and was not followed by one that did: what the broker refused
    before what it did not answer, and then the last one."""
    failed = [
        fact
        for fact in lane.named("commit_failed")
        if fact.data.get("offset", 0) > start
        and not any(commit.order > fact.order and commit.offset >= end for commit in lane.commits)
    ]
    return max(failed, key=lambda fact: (_is_refusal(fact), fact.order), default=None)


def _is_refusal(fact: Happened) -> bool:
    """Whether the broker said no to this commit, and would have again. What begins with an underscore is librdkafka's own word."""
    code = str(fact.data.get("code"))
    return not code.startswith("_") and code not in OF_MEMBERSHIP | PASSING


def _died_after_refusal(lane: Assignment, start: int, end: int) -> int:
    """Up to where [start, end) was to be committed by one that was refused to a process which then died: what is behind that is apart."""
    refused = _refused(lane, start, end) if lane.released is None else None
    return end if refused is None else min(end, refused.data.get("offset", end))


def _could_not_commit(lane: Assignment, refused: Happened) -> str:
    why = refused.data.get("error") or refused.data.get("code")
    return f"{lane.process} could not commit {refused.data.get('offset')} at {moment(refused.at)}: {why}"


def _rival(lane: Assignment) -> str:
    for fact in lane.process.facts:
        contested = fact.what == "seat_contested" or fact.data.get("code") == "FENCED_INSTANCE_ID"
        if contested and fact.data.get("group") == lane.group:
            return "; another process had taken its static id: is there a second daemon of this name and host?"
    return ""


def _last_commit(lane: Assignment) -> str:
    if not lane.commits:
        return f" (it had begun at {lane.start} and committed nothing)"
    last = max(lane.commits, key=lambda commit: commit.at)
    return f" (its last commit: {last.offset} at {moment(last.at)})"


def _ending(process: Process) -> str:
    if process.exit is None:
        return "its end is not in these journals"
    data = process.exit.data
    by = data.get("signal") or f"code {data.get('code')}"
    killed = f" after it was killed for {process.killed.data.get('reason')}" if process.killed is not None else ""
    return f"{data.get('reason')} ({by}){killed}"


def _who(lane: Assignment) -> dict[str, Any]:
    process = lane.process
    return {
        "name": process.name,
        "host": process.host,
        "worker": process.worker,
        "pid": process.pid,
        "app_version": process.app_version or None,
        "group": lane.group,
        "assigned_at": moment(lane.since),
        "assigned_from": lane.start,
        "exit": None if process.exit is None else {k: v for k, v in process.exit.data.items() if k != "worker"},
    }


def _facts(piece: _Piece) -> dict[str, Any]:
    run = piece.run
    return {
        **_who(piece.lane),
        "epoch": piece.lane.number,
        "attempt": run.attempt,
        "outcome": run.outcome,
        "error": run.error or None,
        "began_at": moment(run.began_at),
        "ended_at": moment(run.ended_at),
    }


def _merged(found: list[tuple[Finding, _Piece, _Piece]]) -> list[Finding]:
    """Neighbours of one cause between the same two assignments are one; so are repetitions of one range within an assignment."""
    merged: list[tuple[Finding, Assignment, Assignment, int]] = []
    for finding, earlier, later in found:
        if merged:
            last, former, heir, times = merged[-1]
            same = last.cause == finding.cause and former is earlier.lane and heir is later.lane
            if same and former is not heir and finding.first_offset == last.last_offset + 1:
                merged[-1] = _joined(last, finding), former, heir, 1
                continue
            place = (last.first_offset, last.last_offset)
            if same and former is heir and place == (finding.first_offset, finding.last_offset):
                merged[-1] = replace(last, evidence=finding.evidence, later=finding.later), former, heir, times + 1
                continue
        merged.append((finding, earlier.lane, later.lane, 1))
    return [_told(*each) for each in merged]


def _joined(one: Finding, other: Finding) -> Finding:
    return replace(
        one,
        last_offset=other.last_offset,
        earlier={**one.earlier, "ended_at": other.earlier["ended_at"], "outcome": other.earlier["outcome"]},
        later={**one.later, "ended_at": other.later["ended_at"]},
    )


def _told(finding: Finding, former: Assignment, heir: Assignment, times: int) -> Finding:
    """With who ran it before and again, in words."""
    before, again = finding.earlier, finding.later
    first = (
        f"run by {former.process} at {before['began_at']} (attempt {before['attempt']}, {_OUTCOMES[before['outcome']]})"
    )
    if former is heir:
        second = f"and by the same assignment at {again['began_at']} (attempt {again['attempt']}, {_OUTCOMES[again['outcome']]})"
        if times > 1:
            second += f", {counted(times, 'time')} more in all"
    else:
        second = (
            f"and again at {again['began_at']} by {heir.process}, which got the partition at {moment(heir.since)} "
            f"from {heir.start} on"
        )
    return replace(finding, evidence=f"{finding.evidence}; {first}, {second}")


_OUTCOMES: Final = {
    "done": "done",
    "failed": "failed",
    "aborted": "transaction aborted",
    "in_hand": "in hand at the end",
}


def _second_groups(lanes: dict[Key, list[Assignment]], wish: Wish) -> list[Finding]:
    """What one group has processed and another one has, too."""
    places: dict[tuple[str, int], list[tuple[float, str, list[Range], list[Assignment]]]] = {}
    for (group, topic, partition), all_of_it in lanes.items():
        newest = list(_epochs(all_of_it))[-1]
        ranges = _union((run.start, run.end) for lane in newest for run in lane.runs)
        if ranges:
            began = min(run.began_at for lane in newest for run in lane.runs)
            places.setdefault((topic, partition), []).append((began, group, ranges, newest))
    found = []
    for (topic, partition), groups in places.items():
        groups.sort(key=lambda each: (each[0], each[1]))
        for number, (began, group, ranges, held) in enumerate(groups):
            if not wish.wants((group, topic, partition)):
                continue
            for _, other, others, theirs in groups[:number]:
                if wish.groups and other not in wish.groups:
                    continue
                for start, end in _intersection(ranges, others):
                    why = f"group {other} has processed them, too: {_daemons(theirs)}; group {group}: {_daemons(held)}"
                    found.append(
                        Finding(
                            group,
                            topic,
                            partition,
                            start,
                            end - 1,
                            "second_group",
                            why,
                            began,
                            _who(theirs[0]),
                            _who(held[0]),
                        )
                    )
    return found


def _daemons(lanes: list[Assignment]) -> str:
    names = dict.fromkeys(
        f"daemon {lane.process.name} on {lane.process.host} ({lane.process.source})" for lane in lanes
    )
    return ", ".join(names)


def _union(ranges: Iterable[Range]) -> list[Range]:
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif start < end:
            found.append((start, end))
    return found


def _intersection(some: list[Range], others: list[Range]) -> Iterator[Range]:
    for start, end in some:
        for low, high in others:
            if max(start, low) < min(end, high):
                yield max(start, low), min(end, high)


def moment(at: float) -> str:
    """An instant as people read it, in UTC."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
