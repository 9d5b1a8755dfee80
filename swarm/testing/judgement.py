"""The last step: what was passed over, against the messages that there are. Pure: partitions in, violations out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from swarm.testing.ledger import Partition
from swarm.testing.ranges import Range, Ranges, shown
from swarm.testing.violations import Violation


def judge(partition: Partition, there: Ranges | None) -> Iterator[Violation]:
    """The suspicions of which messages exist (`there`; None: any offset stands for one)."""
    told: dict[str, Ranges] = {}
    for suspicion in partition.suspicions:
        found: list[Range] = [(suspicion.start, suspicion.end)]
        if there is not None:
            found = list(there.within(suspicion.start, suspicion.end))
        if suspicion.invariant == "order":
            found = [gap for low, high in found for gap in partition.skipped.gaps(low, high)]
        known = told.setdefault(suspicion.invariant, Ranges())
        found = [gap for low, high in found for gap in known.gaps(low, high)]
        if not found:
            continue
        for low, high in found:
            known.add(low, high)
        late = not any(partition.done.gaps(low, high) for low, high in found)
        when = "not handled by then, but later" if late else "handled by nobody"
        yield Violation(
            suspicion.invariant,
            f"{suspicion.text}: {shown(found)} {when}",
            (suspicion.evidence,) if suspicion.evidence else (),
        )
    if there is not None and partition.semantics.delivery != "at_most_once":
        for run in partition.holes:
            missing = there.count(run.first, run.end) - run.count - partition.skipped.count(run.first, run.end)
            if missing > 0:
                text = f"{partition}: a run left out {missing} of the messages between its first and its last"
                yield Violation("lost", text, (str(run),))


def judge_outputs(
    partition: Partition, outputs: Iterable[tuple[str, int, int]], there: Ranges | None
) -> Iterator[Violation]:
    """What a group's handlers really made of a partition's messages, against what is said to be done. `outputs`: as in `Facts`."""
    counts = Counter(offset for topic, number, offset in outputs if (topic, number) == partition.key[1:])
    delivery = partition.semantics.delivery
    if delivery != "at_least_once" and (
        twice := Ranges(sorted(offset for offset, count in counts.items() if count > 1))
    ):
        yield Violation(delivery, f"{partition}: {shown(twice.parts())} more than once in the outputs")
    if delivery == "at_most_once":
        return
    made = Ranges(sorted(counts))
    missing = [gap for low, high in partition.done.parts() for gap in made.gaps(low, high)]
    missing = [gap for low, high in missing for gap in partition.aside.gaps(low, high)]
    if there is not None:
        missing = [part for low, high in missing for part in there.within(low, high)]
    if missing:
        yield Violation("lost", f"{partition}: {shown(missing)} said to be done, and not in the outputs")
