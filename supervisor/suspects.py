"""Messages that may be killing their process: what was in hand at deaths by a worker's own fault. Pure: told of deaths and commits.

A message that makes its process die (a segmentation fault, a memory explosion, `os._exit`, a loop that never ends) would take down
one worker after the other. So the ranges in hand at such deaths are kept. Where a range dies twice, its messages run one by one, with
nothing else running beside; the message in hand at the next such death is *condemned*: it never runs again, and is dead-lettered, or
held where there is no dead letter topic. Healthy messages of the range run, alone, and go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from swarm.suspicion import ALONE_AFTER

MOST: Final = 300
"""Ranges that are kept at most, so that they fit one message to a worker; the oldest goes first, a condemned one last."""


class Job(NamedTuple):
    """What was in hand."""

    group: str
    topic: str
    partition: int
    first: int
    last: int


@dataclass(slots=True)
class Suspect:
    """Offsets `first` to `last`, of which one may have killed its process `deaths` times."""

    group: str
    topic: str
    partition: int
    first: int
    last: int
    deaths: int
    condemned: bool = False

    def meets(self, job: Job) -> bool:
        """Whether they have a message in common."""
        same = (self.group, self.topic, self.partition) == (job.group, job.topic, job.partition)
        return same and self.first <= job.last and job.first <= self.last


def _by_partition(jobs: Iterable[Job]) -> list[Job]:
    """The slices of a batch (virtual partitions) lie between each other: what was in hand is the whole of them, once."""
    found: dict[tuple[str, str, int], Job] = {}
    for job in jobs:
        other = found.get(job[:3], job)
        found[job[:3]] = Job(*job[:3], min(job.first, other.first), max(job.last, other.last))
    return list(found.values())


class Suspects:
    """All of one swarm."""

    def __init__(self, known: Iterable[dict[str, Any]] = ()) -> None:
        self._all = [Suspect(**each) for each in known]
        self.version = 0
        """Counts the changes."""

    def __bool__(self) -> bool:
        return bool(self._all)

    def died(self, jobs: Iterable[Job]) -> list[Suspect]:
        """A process died by its own fault with these jobs in hand; returns those who are condemned by that, and the other suspects
        of it, with their deaths counted. Condemned is only who was alone in hand: else it may have been the other one."""
        jobs = _by_partition(jobs)
        alone = len(jobs) == 1
        touched = []
        for job in jobs:
            known = next((each for each in self._all if each.meets(job) and not each.condemned), None)
            if known is None:
                known = Suspect(*job, deaths=0)
                self._all.append(known)
            elif alone and known.deaths >= ALONE_AFTER and job.first == job.last and known.first != known.last:
                # It was run alone: this is the one. The others of its range go on being run alone, in case there are two.
                known = Suspect(*job, deaths=known.deaths)
                self._all.append(known)
            else:
                # The one that kills is in both.
                known.first, known.last = max(known.first, job.first), min(known.last, job.last)
            known.deaths += 1
            known.condemned = alone and known.deaths > ALONE_AFTER and known.first == known.last
            touched.append(known)
        while len(self._all) > MOST:
            self._all.remove(next((each for each in self._all if not each.condemned), self._all[0]))
        self.version += 1
        return touched

    def passed(self, group: str, topic: str, partition: int, committed: int) -> bool:
        """The group has committed so far: what is below is nobody's worry any more. Whether that changed anything."""
        before = len(self._all)
        self._all = [
            each
            for each in self._all
            if (each.group, each.topic, each.partition) != (group, topic, partition) or each.last >= committed
        ]
        if len(self._all) == before:
            return False
        self.version += 1
        return True

    def facts(self) -> list[dict[str, Any]]:
        """For workers, for a successor of the supervisor, and for `status`."""
        return [asdict(each) for each in self._all]
