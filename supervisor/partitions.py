"""What the supervisor knows of partitions, over whatever worker holds them: paused, suspected, standing, without an owner.

Reads the workers' scoreboards, tells workers and says events; knows no process and no signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from swarm import events
from swarm.ownership import Unowned
from swarm.pauses import Pauses, Word
from swarm.supervisor.record import Worker
from swarm.supervisor.suspects import Job, Suspects

if TYPE_CHECKING:
    from swarm.bus import Bus
    from swarm.supervisor.census import Census

SECOND_LOOK: Final = 10.0
"""Seconds after which the owners of partitions are looked at again where one had none, or a worker has come up."""
SOON: Final = 1.0
"""The same where a worker has died while it gave partitions back: that these have no owner then is to be expected."""
SOON_FOR: Final = 30.0
"""Seconds after the successor has come up for which that is so."""
LONGEST_NAME: Final = 249
"""Characters of a topic's name, by Kafka's rules, and of a group's, by ours."""

Tell = Callable[[Worker, dict[str, Any]], bool]
"""Send a command to a worker; whether it went through."""


class Partitions:
    """Those of one swarm."""

    def __init__(
        self,
        workers: list[Worker],
        bus: Bus,
        tell: Tell,
        suspects: Iterable[dict[str, Any]] = (),
        pauses: Iterable[dict[str, Any]] = (),
    ) -> None:
        """workers: the supervisor's own list, which changes. suspects, pauses: those of a predecessor."""
        self.suspects = Suspects(suspects)
        self.pauses = Pauses(pauses)
        self.unowned = Unowned()
        self.given_up: dict[tuple[str, str, int], int] = {}
        """Partitions for which a worker was replaced, and where they stood: until they move, no other one is."""
        self._workers = workers
        self._bus = bus
        self._tell = tell
        self._census_at = 0.0
        self._left = False
        """A worker has died while it gave partitions back, and none has come up since."""
        self._soon_until = self._rest_until = 0.0

    def look(self) -> None:
        """Forget what has passed. In each pass."""
        if self.suspects:
            self._acquit()
        if self.given_up:
            self._forget_moved()

    # -- messages that kill their process ----------------------------------------------------------------------------

    def suspect(self, worker: Worker) -> None:
        """A process has died by its own fault: what it had in hand may be why."""
        jobs = [Job(j.group, j.topic, j.partition, j.first_offset, j.last_offset) for j in worker.board.jobs()]
        if not jobs:
            return
        for suspect in self.suspects.died(jobs):
            where = (suspect.group, suspect.topic, suspect.partition)
            if suspect.condemned:
                self._bus.publish(events.MessageCondemned(*where, suspect.first, suspect.deaths))
            else:
                self._bus.publish(events.MessagesSuspected(*where, suspect.first, suspect.last, suspect.deaths))

    def _acquit(self) -> None:
        """What was committed meanwhile is nobody's worry any more."""
        for worker in self._workers:
            if worker.process is not None:
                for view in worker.board.assigned():
                    self.suspects.passed(view.group, view.topic, view.partition, view.committed)

    # -- partitions that stand still ---------------------------------------------------------------------------------

    def give_up_standing(self, worker: Worker, now: float) -> None:
        """A worker is replaced for partitions that stand still: once, for where the fault is elsewhere it helps nobody."""
        for view in worker.standing(self.given_up):
            self.given_up[(view.group, view.topic, view.partition)] = view.position
            seconds = now - view.stands_since
            self._bus.publish(
                events.PartitionStands(
                    view.group, view.topic, view.partition, view.position, view.high, seconds, "replace"
                )
            )

    def _forget_moved(self) -> None:
        for worker in self._workers:
            for view in worker.board.assigned() if worker.process is not None else ():
                key = (view.group, view.topic, view.partition)
                if key in self.given_up and view.position > self.given_up[key]:
                    del self.given_up[key]

    # -- partitions that an operator pauses --------------------------------------------------------------------------

    def say(
        self, request: dict[str, Any], groups: list[str], consumes: Callable[[str | None, str], bool], *, paused: bool
    ) -> list[dict[str, Any]]:
        """Pause or resume: a wish of `swarmctl pause` or `resume` with a topic. Returns who holds what it speaks of.

        groups: the swarm's, as far as they are known; consumes: whether one of them (None: any) has a subscription to a topic. What a
        reload has taken out of the app can be resumed all the same. Raises ValueError for what makes no sense.
        """
        topic, partition, group = request.get("topic"), request.get("partition"), request.get("group")
        if (
            not isinstance(topic, str)
            or not topic
            or len(topic) > LONGEST_NAME
            or not (partition is None or (type(partition) is int and partition >= 0))
            or not (group is None or (isinstance(group, str) and len(group) <= LONGEST_NAME))
        ):
            what = f"topic {topic!r}, partition {partition!r}, group {group!r}"
            raise ValueError(f"{request['command']}: expected a topic, and a partition and a group or none, got {what}")
        if paused and group is not None and groups and group not in groups:
            raise ValueError(f"this swarm has no group {group!r}: it consumes in {', '.join(groups)}")
        if paused and not consumes(group, topic):
            raise ValueError(f"nothing in this swarm consumes {topic!r}{f' in group {group}' if group else ''}")
        word = Word(paused, topic, partition, group)
        before = self.pauses.version
        self.pauses.say(word)
        if self.pauses.version != before:
            self._bus.publish((events.PauseOrdered if paused else events.PauseLifted)(topic, partition, group))
        return [
            {"worker": worker.index, "group": view.group, "topic": view.topic, "partition": view.partition}
            for worker in self._workers
            if worker.process is not None
            for view in worker.board.assigned()
            if word.speaks_of(view.group, view.topic, view.partition)
        ]

    # -- partitions that nobody has ----------------------------------------------------------------------------------

    def ask_for_owners(self, interval: float, now: float, census: Census) -> None:
        """Have the broker asked now and then, while somebody works, whether every partition has an owner."""
        if not interval or now < self._census_at or now < self._rest_until or not any(map(_is_up, self._workers)):
            return
        if census.begin():
            self._census_at, self._rest_until = now + interval, now + census.pause

    def died(self, worker: Worker) -> None:
        """A worker has ended against all plans."""
        self._left = self._left or any(group.giving_since for group in worker.board.groups())

    def came_up(self, now: float) -> None:
        """A worker has: a death in the middle of a rebalance may have left partitions to nobody (docs/design.md)."""
        if self._left:
            self._left, self._soon_until = False, now + SOON_FOR
        self._look_again(now)

    def _look_again(self, now: float) -> None:
        self._census_at = min(self._census_at, now + (SOON if now < self._soon_until else SECOND_LOOK))

    def hear_census(self, found: dict[str, Any], now: float) -> None:
        """What the broker has answered about a group."""
        self.unowned.error = found.get("error")
        if now < self._soon_until:
            self._look_again(now)
        if self.unowned.error is not None:
            return
        group, unowned = found["group"], found["unowned"]
        if unowned:  # who is giving it up, and still has a job of it in hand, has it
            held = {
                (view.topic, view.partition)
                for each in self._workers
                for view in each.board.assigned()
                if view.group == group
            }
            unowned = {t: [p for p in partitions if (t, p) not in held] for t, partitions in unowned.items()}
        for topic, partitions, seconds in self.unowned.told(group, unowned, now):
            self._bus.publish(events.PartitionUnowned(group, topic, tuple(partitions), seconds))
        if self.unowned.in_doubt():
            self._look_again(now)
        if self.unowned.to_mend(group, now):
            members = [w for w in self._workers if _is_up(w) and any(v.group == group for v in w.board.groups())]
            for worker in sorted(members, key=lambda each: _in_hand(each, group)):
                if self._tell(worker, {"command": "rejoin", "group": group}):
                    return


def _in_hand(worker: Worker, group: str) -> tuple[int, int]:
    """What a worker has of a group: jobs, and partitions. Who joins anew ends its jobs first, and one that hangs would hold all up."""
    jobs = sum(1 for job in worker.board.jobs() if job.group == group)
    return jobs, sum(1 for view in worker.board.assigned() if view.group == group)


def _is_up(worker: Worker) -> bool:
    return worker.process is not None and worker.board.state in ("running", "quiet") and not worker.terminated_at
