"""Rules about whether the work goes on: lag, partitions that stand, who holds them, and how often that changes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from swarm.doctor.facts import Facts, Group, Held, LiveGroup, Look, Member, Place, Seat, Worker, listed
from swarm.doctor.finding import Found, Rule
from swarm.wording import counted, plural

FEWEST: Final = 50
"""Messages by which a lag has to grow between two looks, for single bursts and batches are no trend."""
KEPT_PACE: Final = 0.8
"""Share of what came that was processed meanwhile, from which on the pace is kept."""
MARKERS: Final = 5
"""Offsets up to which a group's own may stay behind all that it may read: markers of transactions."""
BUSY: Final = 10.0
"""Seconds for which a job may run, where no longer one was seen before, until its partition is said to stand."""
OFTEN: Final = 60.0
"""Seconds between two rebalances, on average, below which a group does nothing else."""
SETTLED: Final = 120.0
"""Seconds after its start in which a swarm's rebalances say nothing."""


def _workers(facts: Facts) -> Iterator[Found]:
    assert facts.cluster is not None
    for group in facts.groups:
        topics = [t for t in facts.cluster.topics.values() if _consumes(group, t.name)]
        if not topics or not group.topics <= {topic.name for topic in topics}:
            continue  # one that does not exist yet will bring partitions
        per_topic = group.value("partition.assignment.strategy").text == "range" and not group.new_protocol
        partitions = (max if per_topic else sum)(topic.partitions for topic in topics)
        live = facts.live(group)
        joined = len(live.members) if live is not None and live.stable else 0
        members = max(joined, group.members)
        if members > partitions:
            yield Found(
                f"the group {group.name} has {counted(members, 'member')} for {counted(partitions, 'partition')}",
                f"A partition has one member at a time: {members - partitions} of them "
                f"{plural(members - partitions, 'stands', 'stand')} by and only {plural(members - partitions, 'takes', 'take')} memory.",
                f"Lower swarm.workers to {max(1, partitions - (members - group.members))}, or give the topic more partitions; "
                "as a deliberate reserve it does no harm.",
                f"{facts.said('swarm.workers')}; members now: {joined}; "
                + listed(f"{topic.name}: {counted(topic.partitions, 'partition')}" for topic in topics),
            )


def _consumes(group: Group, topic: str) -> bool:
    import re

    return topic in group.topics or any(
        each.pattern is not None and re.match(each.pattern, topic) is not None for each in group.subscriptions
    )


# -- two looks -------------------------------------------------------------------------------------------------------


def _span(facts: Facts) -> tuple[Look, Look]:
    assert facts.cluster is not None
    return facts.cluster.looks[0], facts.cluster.looks[-1]


def _seats(first: Look, last: Look, group: str) -> list[Seat]:
    """Partitions of a group for which both looks know the end of the log and how far the group is."""
    return [
        seat
        for seat in sorted(first.done)
        if seat[0] == group and seat in last.done and seat[1:] in first.ends and seat[1:] in last.ends
    ]


def _lag_growing(facts: Facts) -> Iterator[Found]:
    first, last = _span(facts)
    gap = last.at - first.at
    for group in facts.groups:
        live = last.groups.get(group.name)
        if live is None or not live.members or _looks_are_too_close(facts, group, gap):
            continue
        standing = {seat for seat, _ in _standing(facts, group)}
        # What a partition that stands adds to the lag has its own finding: no worker and no faster handler would help it.
        seats = [seat for seat in _seats(first, last, group.name) if seat not in standing]
        came = sum(last.ends[seat[1:]] - first.ends[seat[1:]] for seat in seats)
        done = sum(last.done[seat] - first.done[seat] for seat in seats)
        before = sum(first.ends[seat[1:]] - first.done[seat] for seat in seats)
        after = sum(last.ends[seat[1:]] - last.done[seat] for seat in seats)
        # A lag that is less than what is processed from look to look is on its way: committed by interval, or a burst.
        if after - before >= max(FEWEST, (1 - KEPT_PACE) * came) and after > done:
            busy = next((seen for seen in facts.batches if not seen.where), None)
            yield Found(
                f"the lag of the group {group.name} grows",
                f"Some {came / gap:,.0f} messages a second come, and {max(0, done) / gap:,.0f} are processed.",
                "More workers help as long as there are partitions; then faster handlers, virtual partitions for keys, or more "
                "partitions. swarmctl status shows whether they are busy (cpu) or wait.",
                f"in {gap:.1f} s {came} came and {done} were processed; lag {before} -> {after}"
                + (", without what stands still" if standing else "")
                + (f"; {busy.each:.2g} s for a message ({busy.source})" if busy is not None and busy.messages else ""),
            )


def _looks_are_too_close(facts: Facts, group: Group, gap: float) -> bool:
    """Whether single batches take so long, or wait on purpose, or because an operator paused them, that two looks say nothing."""
    slow = any(seen.mean > gap / 3 for seen in facts.batches)
    working = facts.daemon is not None and any(
        (w.job_age or 0.0) > gap / 3 or w.state == "quiet" or any(held.paused for held in w.held)
        for w in facts.daemon.workers
    )
    return slow or working or any(each.waits > gap / 3 for each in group.subscriptions)


def _stuck(facts: Facts) -> Iterator[Found]:
    first, last = _span(facts)
    gap = last.at - first.at
    for group in facts.groups:
        for seat, owner in _standing(facts, group):
            if _is_withheld(facts, group, seat):
                continue  # whoever holds it, and whatever it does
            place, holder = seat[1:], _holder(facts, seat)
            yield Found(
                f"{seat[1]}/{seat[2]} stands still in the group {group.name} while its log grows",
                _why(holder),
                "See what it is doing: swarmctl backtrace, and consume_failed and retry_scheduled in its log. A message that "
                "cannot be processed needs a dead letter topic (dead_letter=) or a mend; only this partition waits.",
                f"{_reached(last.done[seat], holder)} at both looks, {gap:.1f} s apart, end of the log "
                f"{first.ends[place]} -> {last.ends[place]}; held by {_called(holder, owner.label)}",
            )


def _standing(facts: Facts, group: Group) -> Iterator[tuple[Seat, Member]]:
    """Partitions of a group that do not get on although they should, each with the member that holds it."""
    first, last = _span(facts)
    gap = last.at - first.at
    before, live = first.groups.get(group.name), last.groups.get(group.name)
    if live is None or before is None or not (live.stable and before.stable) or not live.members:
        return
    waits = {topic for each in group.subscriptions if each.waits > gap / 3 for topic in each.topics}
    for seat in _seats(first, last, group.name):
        place = seat[1:]
        if last.ends[place] <= first.ends[place] or last.done[seat] != first.done[seat] or seat[1] in waits:
            continue
        if first.done[seat] >= first.ends[place]:
            continue  # it had nothing to do then, and may not know yet that it has
        owner, same = live.owner(place), before.owner(place)
        if owner is None or same is None or owner.label != same.label:
            continue  # nobody has it, or it has just moved: other rules
        holder = _holder(facts, seat)
        if holder is not None and (holder[1].paused or holder[0].state == "quiet" or _is_busy(facts, holder[0])):
            continue  # an operator wants it so, or its job is not to be called long yet
        yield seat, owner


def _is_withheld(facts: Facts, group: Group, seat: Seat) -> bool:
    """Whether all that the group may read is done, and an open transaction hides the rest, which has a rule of its own."""
    first, last = _span(facts)
    stable = last.stable.get(seat[1:])
    return (
        stable is not None
        and group.value("isolation.level").text == "read_committed"
        and stable == first.stable.get(seat[1:])
        and stable < last.ends[seat[1:]]
        and last.done[seat] >= stable - MARKERS
    )


def _holder(facts: Facts, seat: Seat) -> tuple[Worker, Held] | None:
    """The worker of the running daemon that holds a partition."""
    for worker in facts.daemon.workers if facts.daemon is not None else ():
        for held in worker.held:
            if held.seat == seat:
                return worker, held
    return None


def _is_busy(facts: Facts, worker: Worker) -> bool:
    longest = max((seen.longest for seen in facts.batches), default=0.0)
    return worker.job_age is not None and worker.health == "ok" and worker.job_age < max(BUSY, 2 * longest)


def _why(holder: tuple[Worker, Held] | None) -> str:
    if holder is None:
        return "Whoever holds it neither gets on nor gives it up: its handler hangs, or fails again and again."
    worker, held = holder
    if held.standing is not None:
        return "Its client fetches nothing although the broker says that there is more."
    if worker.job_age is not None:
        return f"A job of its worker has been running for {worker.job_age:.0f} s."
    return "No job of it runs: its handler fails and the next attempt waits, or its offset is out of range."


def _reached(done: int, holder: tuple[Worker, Held] | None) -> str:
    """How far the group is there. The daemon tells how far handlers are, whose batch in hand may begin long before."""
    if holder is None or holder[1].committed in (None, done):
        return f"offset {done}"
    return f"offset {holder[1].committed} committed, and its handler has had what is below {done},"


def _called(holder: tuple[Worker, Held] | None, member: str) -> str:
    return f"{holder[0].label}, {holder[0].state}, as {member}" if holder is not None else member


def _unowned(facts: Facts) -> Iterator[Found]:
    """What the daemon says, and what both looks of our own saw."""
    seen: dict[tuple[str, str], dict[int, str]] = {}
    for (name, topic, partition), age in facts.daemon.unowned if facts.daemon is not None else ():
        seen.setdefault((name, topic), {})[partition] = f"for {age:.0f} s or longer, as the daemon says"
    if facts.cluster is not None and len(facts.cluster.looks) > 1:
        first, last = _span(facts)
        for group in facts.groups:
            views = [look.groups.get(group.name) for look in (first, last)]
            for place in sorted(last.ends):
                if _consumes(group, place[0]) and all(_has_none(view, place) for view in views):
                    told = f"at two looks {last.at - first.at:.1f} s apart"
                    seen.setdefault((group.name, place[0]), {}).setdefault(place[1], told)
    bound = {group.name for group in facts.groups if any(each.bound for each in group.subscriptions)}
    for (name, topic), partitions in seen.items():
        numbers = listed(str(number) for number in sorted(partitions))
        evidence = listed(f"partition {number}: {told}" for number, told in sorted(partitions.items()))
        if name in bound:
            yield Found(
                f"{topic}/{numbers} {'is' if len(partitions) == 1 else 'are'} bound to no worker, so the group {name} reads nothing of it",
                "The topic has more partitions than the subscription binds to workers: it has grown, or one was forgotten.",
                "Give it to a worker in partitions= of the subscription, and swarmctl reload.",
                evidence,
            )
            continue
        yield Found(
            f"nobody in the group {name} has {topic}/{numbers}",
            "A member died while the group was sharing out its partitions, or a member may not see the topic: nobody reads them, "
            "and nobody notices before the next rebalance.",
            "Let a worker join again: swarmctl restart. Where that does not help, look for members that may not read the topic.",
            evidence,
        )


def _has_none(view: LiveGroup | None, place: Place) -> bool:
    return view is not None and view.stable and bool(view.members) and view.owner(place) is None


def _ping_pong(facts: Facts) -> Iterator[Found]:
    cause = "Each move stops the group, and what was in hand and not committed is processed again."
    fix = (
        "Look for what makes members leave: workers that are replaced (swarmctl status), batches near max.poll.interval.ms, a second "
        "daemon with the same static ids, sessions too short for the network."
    )
    for each in facts.handovers:
        if each.times > 2 and each.span / each.times < OFTEN * 10:
            where = f"{each.seat[1]}/{each.seat[2]}"
            yield Found(
                f"{where} goes to and fro between the workers of the group {each.seat[0]}",
                cause,
                fix,
                f"{where} changed hands {each.times} times in {each.span / 60:.0f} min (journal)",
            )
    looks = facts.cluster.looks if facts.cluster is not None else ()
    for group in facts.groups:
        views = [look.groups[group.name] for look in looks if group.name in look.groups]
        moves = _moves(views)
        if moves:
            yield Found(f"partitions of the group {group.name} go to and fro", cause, fix, listed(moves, 3))
    if facts.daemon is not None and not facts.handovers:
        for worker in facts.daemon.workers:
            uptime = worker.uptime or 0.0
            if uptime > SETTLED and worker.rebalances > 5 and uptime / worker.rebalances < OFTEN:
                yield Found(
                    f"{worker.label} is given other partitions again and again",
                    cause,
                    fix,
                    f"{worker.rebalances} changes of its assignment in {uptime / 60:.0f} min (status)",
                )


def _moves(views: list[LiveGroup]) -> list[str]:
    """Partitions that were with one member, with another, and with the first again, or moved at every look."""
    settled = [view for view in views if view.stable]
    found = []
    for place in sorted({place for view in settled for member in view.members for place in member.held}):
        owners = [owner.label for view in settled if (owner := view.owner(place)) is not None]
        changes = [(a, b) for a, b in pairwise(owners) if a != b]
        if len(changes) > 1:
            path = [owners[0], *(after for _, after in changes)]
            found.append(f"{place[0]}/{place[1]}: {' -> '.join(path)}")
    return found


RULES: Final = (
    Rule(
        "more_workers_than_partitions",
        "warning",
        "a group with more members than its topics have partitions",
        _workers,
        ("app", "cluster"),
    ),
    Rule(
        "lag_growing",
        "warning",
        "a lag that grows between two looks, and is more than what is processed between them",
        _lag_growing,
        ("app", "looks"),
    ),
    Rule(
        "partition_stuck",
        "error",
        "a partition whose offset stands at both looks while its log grows, and who holds it",
        _stuck,
        ("app", "looks"),
    ),
    Rule(
        "partition_unowned",
        "error",
        "a partition that no member of the group has",
        _unowned,
        ("app", "holders"),
    ),
    Rule(
        "ownership_ping_pong",
        "warning",
        "partitions that go to and fro between members",
        _ping_pong,
        ("app", "holders"),
    ),
)
