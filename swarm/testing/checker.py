"""Takes a swarm's events one by one and finds what contradicts the invariants. Knows no Kafka, no process and no clock of its own.

What it keeps is what the judgement needs: a long history costs memory for its accidents, not for its length. Where the last line
of a killed process may be missing, the benefit of the doubt is given; each such place says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from swarm.testing import hand_over
from swarm.testing.hand_over import elapsed
from swarm.testing.judgement import judge, judge_outputs
from swarm.testing.ledger import EVERYTHING, Assignment, Cause, Key, Partition, Process, Run, Suspicion
from swarm.testing.ranges import Range, Ranges, shown
from swarm.testing.semantics import Book, Semantics
from swarm.testing.violations import Violation

RELEASE_MARGIN: Final = 0.05
"""Seconds between a job's end and the line that says it."""
TOLD_WITHIN: Final = 10.0
"""Seconds within which a worker that was frozen learns, when it goes on, that it has lost a partition which others have handled meanwhile."""
LATE_START: Final = 1.0
"""Seconds after a loss in which one run may still begin: its thread had it in hand already, and a loss waits for nobody."""

Event = Mapping[str, Any]
Offsets = Ranges | Iterable[int]


class Checker:
    """Takes events and finds violations. Feed it from one thread."""

    def __init__(self, book: Book | None = None, *, hasty_broker: bool = False) -> None:
        """hasty_broker: as in `invariants.Facts`."""
        self._book = book or Book()
        self._hasty_broker = hasty_broker
        self._number = 0
        self._at = ""
        self._processes: dict[int, Process] = {}
        self._everybody: list[Process] = []
        self._partitions: dict[Key, Partition] = {}
        self._violations: list[Violation] = []
        self._judged_debug = False
        self._doubted: list[Assignment] = []
        """Those with a `doubt`."""
        self._late: list[Assignment] = []
        """Those with `late` commits."""
        self._supervisors: dict[str, int | None] = {}
        """Of each log, the pid of the one that runs; None: it has stopped."""
        self.repeated: Counter[str] = Counter()
        """Messages that were handled again, by the kind of cause."""
        self.events: Counter[str] = Counter()
        """Events by name."""
        self._handlers: dict[str, Callable[[Event], None]] = {
            name.removeprefix("_on_"): getattr(self, name) for name in dir(self) if name.startswith("_on_")
        }

    def feed(self, event: Event) -> None:
        """The next event, as parsed from its line."""
        self._number += 1
        name = event["event"]
        self.events[name] += 1
        handler = self._handlers.get(name)
        if handler is not None:
            self._at = event.get("timestamp", "")
            handler(event)

    def finish(
        self,
        contents: Mapping[tuple[str, int], Offsets] | None = None,
        committed: Mapping[Key, int] | None = None,
        *,
        complete: bool = False,
        outputs: Mapping[str, Iterable[tuple[str, int, int]]] | None = None,
    ) -> list[Violation]:
        """The judgement, with what else is known at the end (see `Facts`). Call it once."""
        if self._blind(committed or {}):
            self._violation(
                "evidence", "offsets were committed, and the log has no event of level debug: set log.level to debug"
            )
            return self._violations
        held = (
            None
            if contents is None
            else {
                where: offsets if isinstance(offsets, Ranges) else Ranges(offsets)
                for where, offsets in contents.items()
            }
        )
        self._violations += [violation for assignment in self._late for _, violation in assignment.late]
        # Who was frozen between the answer to where it begins and its first run learns at once that it has lost the partition.
        self._violations += [
            each.doubt
            for each in self._doubted
            if each.doubt is not None and not (each.end == "lost" and each.run is None)
        ]
        for process in self._everybody:
            for key, assignment in process.holds.items():
                for earlier, later, open_ in assignment.deferred:
                    self._twice(self._partitions[key], earlier, later, open_)
                assignment.deferred = []
        self._end_of_processes()
        for partition in self._partitions.values():
            self._end_of_partition(partition, committed, held, complete)
        if complete and held is not None:
            self._never_assigned(held)
        for partition in self._partitions.values():
            there = None if held is None else held.get(partition.key[1:], Ranges())
            self._violations += judge(partition, there)
        for group, positions in (outputs or {}).items():
            made = list(positions)
            for key, partition in self._partitions.items():
                if key[0] == group:
                    there = None if held is None else held.get(key[1:], Ranges())
                    self._violations += judge_outputs(partition, made, there)
        return self._violations

    # -- processes ---------------------------------------------------------------------------------------------------

    def _process(self, event: Event) -> Process:
        pid = event.get("pid") or 0
        process = self._processes.get(pid)
        if process is None or process.ended:
            process = Process(pid, event.get("worker"), event.get("source", ""))
            self._processes[pid] = process
            self._everybody.append(process)
        return process

    def _on_swarm_started(self, event: Event) -> None:
        source, pid = event.get("source", ""), event.get("pid")
        before = self._supervisors.get(source)
        if before is not None and before != pid:  # else it has replaced its own program, and keeps its workers
            self._orphan_all(source, "its supervisor ended without a word")
        self._supervisors[source] = pid

    def _orphan_all(self, source: str, why: str) -> None:
        for process in self._everybody:
            if process.source == source and not process.ended and not process.trouble:
                process.trouble = why

    def _on_swarm_stopped(self, event: Event) -> None:
        source = event.get("source", "")
        self._supervisors[source] = None
        for process in self._everybody:
            if process.source == source and process.started and not process.ended and not process.trouble:
                self._violation("left_running", f"{process} was started and had not ended when the swarm was stopped")

    def _on_worker_started(self, event: Event) -> None:
        process = self._process(event)
        if process.started:  # the pid was used before, and nobody saw that process end
            process.ended = True
            process = self._process(event)
        process.started = True
        process.worker = event.get("worker")

    def _on_worker_killed(self, event: Event) -> None:
        process = self._process(event)
        process.trouble = f"killed: {event.get('reason')}"
        if not event.get("reason") or not event.get("incident"):
            self._violation(
                "killed_for_a_reason",
                f"{process} was killed with reason {event.get('reason')!r} and incident {event.get('incident')!r}",
                self._here("killed"),
            )

    def _on_worker_exited(self, event: Event) -> None:
        process = self._process(event)
        code, signal = event.get("code"), event.get("signal")
        if (code != 0 or signal is not None) and not event.get("graceful"):
            process.trouble = process.trouble or f"ended with {f'signal {signal}' if signal else f'code {code}'}"
        elif event.get("graceful") is False:
            process.trouble = process.trouble or "ended in the middle of its work"
        process.ended = True
        for key in list(process.holds):
            self._release(self._partitions[key], process.holds[key], "process", process.trouble)

    def _troubled(self, event: Event) -> None:
        process = self._process(event)
        process.trouble = process.trouble or event["event"].replace("_", " ")

    _on_orphaned = _on_orphan_gave_up = _on_thread_died = _on_worker_gives_up = _troubled

    def _on_fault(self, event: Event) -> None:
        """Said by whoever makes accidents: `{"event": "fault", "kind": "freeze", "pid": 7}`, or without a pid, for a group or topic
        whose offsets an operator has moved: `{"event": "fault", "kind": "offset_reset", "group": …, "topic": …}`."""
        if event.get("pid") is not None:
            process = self._processes.get(event["pid"])
            if process is not None and not process.ended:
                process.trouble = process.trouble or str(event.get("kind"))
            return
        for key, partition in self._partitions.items():
            if event.get("group") in (None, key[0]) and event.get("topic") in (None, key[1]):
                self._cause(partition, None, str(event.get("kind")), within=False, asked=True)
                partition.acknowledged = 0

    def _on_log_lines_dropped(self, event: Event) -> None:
        self._violation(
            "evidence",
            f"{event.get('count')} lines of the log were dropped: nothing is proved by the rest",
            self._here(),
        )

    # -- membership --------------------------------------------------------------------------------------------------

    def _on_subscribed(self, event: Event) -> None:
        self._judged_debug = True
        self._book.declare(event["group"], Semantics.of(event))

    def _on_partitions_assigned(self, event: Event) -> None:
        process = self._process(event)
        group = event["group"]
        for topic, number, start in event["partitions"]:
            key = (group, topic, number)
            partition = self._partitions.get(key)
            if partition is None:
                semantics = self._book.find(group, topic)
                partition = self._partitions[key] = Partition(key, semantics, start, start)
            assignment = Assignment(process, self._number, self._at, start, start)
            mine = process.holds.get(key)
            if mine is not None:
                self._violation(
                    "one_owner",
                    f"{partition} was assigned to {process}, which holds it already",
                    str(mine),
                    str(assignment),
                )
                self._release(partition, mine, "revoked", "")
            for other in partition.holders:
                other.overlaps.append(assignment)
            self._believe(partition, start)
            if start < partition.start:
                partition.start = start
                partition.judged = min(partition.judged, start)
            self._passed(partition, start, "lost", f"{partition} was assigned at {start}", str(assignment))
            if start < partition.acknowledged and not self._reset(partition):
                text = (
                    f"{partition} was assigned at {start}, although the broker had confirmed {partition.acknowledged}"
                )
                assignment.doubt = Violation("commit_went_back", text, (str(assignment),))
                self._doubted.append(assignment)
            process.holds[key] = assignment
            partition.holders.append(assignment)

    def _believe(self, partition: Partition, committed: int) -> None:
        """The broker holds `committed`: what it cuts off of a run whose end nobody heard of was marked there, or committed with it."""
        if not partition.semantics.marks:
            return
        unheard = [holder.run for holder in partition.holders if holder.run is not None and not holder.run.closed]
        for run in [*partition.torn, *unheard]:
            if run.first < committed <= run.end:
                partition.done.add(run.first, committed)
        partition.torn = [run for run in partition.torn if run.end > committed]

    def _on_partitions_revoked(self, event: Event) -> None:
        self._taken(event, "revoked", "")

    def _on_partitions_lost(self, event: Event) -> None:
        self._taken(event, "lost", "the partition was lost")

    def _taken(self, event: Event, how: str, cause: str) -> None:
        process = self._process(event)
        for topic, number in event["partitions"]:
            key = (event["group"], topic, number)
            assignment = process.holds.get(key)
            if assignment is not None:
                self._release(self._partitions[key], assignment, how, cause, float(event.get("seconds", 0)))

    def _on_revocation_given_up(self, event: Event) -> None:
        process = self._process(event)
        for topic, number in event["partitions"]:
            assignment = process.holds.get((event["group"], topic, number))
            if assignment is not None:
                assignment.given_up = True

    def _on_client_error(self, event: Event) -> None:
        if event.get("fatal"):
            self._broken(event, "its client met a fatal error")

    def _on_client_rebuilt(self, event: Event) -> None:
        self._broken(event, "its client was rebuilt")

    def _broken(self, event: Event, cause: str) -> None:
        for key, assignment in self._process(event).holds.items():
            if key[0] == event["group"]:
                assignment.cause = assignment.cause or cause

    def _ran_until_then(self, run: Run | None, seconds: float) -> bool:
        """Whether a run was going on when a release began that took so many seconds."""
        return run is not None and (not run.closed or elapsed(run.ended_at, self._at) <= seconds + RELEASE_MARGIN)

    def _release(
        self, partition: Partition, assignment: Assignment, how: str, cause: str, seconds: float = 0.0
    ) -> None:
        run = assignment.run
        process = assignment.process
        unheard = run is not None and not run.closed
        self._settle(partition, assignment)
        if run is not None and unheard and partition.semantics.each and (how == "revoked" or not process.trouble):
            # Asked to end before its first message, it says nothing: there is nothing to say.
            partition.handled.cut(run.first, run.end)
        cause = cause or assignment.cause or process.trouble
        if not cause and how == "revoked" and hand_over.given_away(partition, assignment, self._at, seconds):
            assignment.given_away, cause = True, hand_over.CAUSE
        if not cause and assignment.overlaps and self._hasty_broker:
            cause = "the broker handed it on before it was given up"
        if not cause and assignment.given_up:
            cause = "the revocation did not wait any longer"
        if not cause and how == "revoked" and partition.semantics.long_running and self._ran_until_then(run, seconds):
            cause = "revoked while a long-running job ran"
        assignment.end, assignment.cause, assignment.ended_at = how, cause, self._at
        assignment.top = max(
            assignment.top, assignment.start, assignment.position or 0, run.committed if run is not None else 0
        )
        if run is not None and unheard:
            partition.torn.append(run)
            if partition.semantics.marks:
                assignment.top = max(assignment.top, run.end)
        partition.holders.remove(assignment)
        process.holds.pop(partition.key, None)
        process.former[partition.key] = assignment
        # One that was lost again at once was told of it late: it had been frozen.
        others = [other for other in assignment.overlaps if not other.in_vain and not other.given_away]
        if others and not cause and not assignment.refused:
            self._violation(
                "one_owner",
                f"{partition} was handed to {others[0].process} while {process} held it, which gave it up in good order later",
                str(assignment),
                str(others[0]),
                self._here(how),
            )
        assignment.overlaps = []
        for first, second, repeated in assignment.deferred:
            if how == "lost" and elapsed(second.at, self._at) <= TOLD_WITHIN:
                self.repeated["by a worker that had lost the partition before"] += sum(b - a for a, b in repeated)
            else:
                self._twice(partition, first, second, repeated)
        assignment.deferred = []
        pending, assignment.pending = assignment.pending, []
        for earlier, later, start, end in pending:
            self._explain(partition, earlier, later, start, end)

    # -- runs --------------------------------------------------------------------------------------------------------

    def _on_batch_started(self, event: Event) -> None:
        self._judged_debug = True
        process = self._process(event)
        key = (event["group"], event["topic"], event["partition"])
        partition = self._partitions.get(key)
        first, end = event["first_offset"], event["last_offset"] + 1
        assignment = process.holds.get(key)
        if partition is None or assignment is None:
            self._late_start(process, key, first, end, event)
            return
        run = Run(self._number, self._at, assignment, first, end, event["count"], event["attempt"])
        former = process.former.get(key)
        for before in (assignment.run, former.run if former is not None and former.end != "process" else None):
            # `each` that is asked to end before its first message says nothing.
            if before is not None and not before.closed and not partition.semantics.each:
                self._violation(
                    "one_job", f"{partition}: a run began while another was going on", str(before), str(run)
                )
                before.closed = True  # said once
        if assignment.undecided:
            assignment.undecided = False
            self._believe(partition, first)
        self._settle(partition, assignment)
        self._expect(partition, assignment, run)
        gaps = event.get("gaps", ())
        starts, ends = [first, *(last + 1 for _, last in gaps)], [*(begin for begin, _ in gaps), end]
        for start, stop in zip(starts, ends, strict=True):
            self._handle(partition, run, start, stop)
        assignment.run = run
        if run.count < end - first and not partition.semantics.virtual:
            partition.holes.append(run)

    def _late_start(self, process: Process, key: Key, first: int, end: int, event: Event) -> None:
        partition, former = self._partitions.get(key), process.former.get(key)
        if partition is not None and former is not None and (former.run is None or former.run.closed):
            unwaited = former.end == "lost" or (former.end == "revoked" and partition.semantics.long_running)
            if unwaited and elapsed(former.ended_at, self._at) <= LATE_START:
                # Its thread had the messages in hand already. One run, and at once.
                former.run = Run(self._number, self._at, former, first, end, event["count"], event["attempt"])
                partition.torn.append(former.run)
                self._handle(partition, former.run, first, end)
                return
        what = partition or f"{key[1]}/{key[2]} in group {key[0]}"
        self._violation(
            "own_partitions",
            f"{what}: a run of {first}-{end - 1} began in {process}, which does not hold the partition",
            self._here("batch_started"),
            *([str(former)] if former is not None else []),
        )

    def _expect(self, partition: Partition, assignment: Assignment, run: Run) -> None:
        """The run begins where the one before ended, or behind what was passed over for a good reason."""
        expected, assignment.position = assignment.position, None
        if expected is None:
            return
        if run.first > expected:
            if assignment.leaped:
                partition.done.add(expected, run.first)
            elif partition.semantics.delivery != "at_most_once":
                for start, end in partition.done.gaps(expected, run.first):
                    partition.suspicions.append(
                        Suspicion("order", start, end, f"{partition}: a run began at {run.first} before", str(run))
                    )
        assignment.leaped = False

    def _handle(self, partition: Partition, run: Run, first: int, end: int) -> None:
        """A handler sees these offsets: by which right, if one has seen them before?"""
        again = list(partition.handled.overlapping(first, end))
        partition.handled.put(first, end, run)
        for start, stop, earlier in again:
            self._explain(partition, earlier, run, start, stop)

    def _on_batch_consumed(self, event: Event) -> None:
        self._judged_debug = True
        found = self._run_of(event)
        if found is None:
            return
        partition, assignment = found
        first, end = event["first_offset"], event["last_offset"] + 1
        partition.done.add(first, end)
        assignment.top = max(assignment.top, end)
        run = assignment.run
        if run is None or run.first > first or run.end < end:
            return
        run.reach, run.ended_at = max(run.reach, end), self._at
        run.closed = True
        assignment.position = max(assignment.position or 0, end)

    def _run_of(self, event: Event) -> tuple[Partition, Assignment] | None:
        key = (event["group"], event["topic"], event["partition"])
        process = self._process(event)
        held, former = process.holds.get(key), process.former.get(key)
        assignment = held or former
        if held is not None and former is not None and former.run is not None and not former.run.closed:
            # A job that outlived its assignment; nothing of the next one runs beside it.
            assignment = former if held.run is None or held.run.closed else held
        partition = self._partitions.get(key)
        return (partition, assignment) if partition is not None and assignment is not None else None

    def _on_consume_failed(self, event: Event) -> None:
        self._failed(event, "failure")

    def _on_transaction_aborted(self, event: Event) -> None:
        self._failed(event, "transaction aborted")
        found = self._run_of(event)
        if found is not None and str(event.get("error", "")).startswith("Undecided"):
            partition, assignment = found
            assignment.undecided = True
            first, end = event["first_offset"], event["last_offset"] + 1
            partition.torn.append(Run(self._number, self._at, assignment, first, end, end - first, 1))

    def _failed(self, event: Event, kind: str) -> None:
        found = self._run_of(event)
        if found is None:
            return
        partition, assignment = found
        first, end = event["first_offset"], event["last_offset"] + 1
        run = assignment.run
        if run is not None and partition.semantics.virtual:
            end = max(end, run.end)  # what other slices did above it cannot be committed before it is
        self._cause(partition, assignment.process, kind, first, max(end, first + 1), within=True)
        if run is None or not run.first <= first < run.end:
            return
        if partition.semantics.each and partition.semantics.delivery == "at_most_once":
            partition.handled.cut(first + 1, run.end)  # it stopped at the message that raised
            if run.closed:
                partition.handled.put(first, first + 1, run)
        run.closed = run.failed = True
        assignment.position = first if assignment.position is None else max(assignment.position, first)

    def _on_hook_failed(self, event: Event) -> None:
        process = self._process(event)
        for key in process.holds:
            if key[1:] == (event["topic"], event["partition"]):
                self._cause(self._partitions[key], process, "a hook failed", within=True)

    def _on_message_dead_lettered(self, event: Event) -> None:
        self._set_aside(event, event["offset"], event["offset"] + 1)

    def _on_message_dropped(self, event: Event) -> None:
        self._set_aside(event, event["first_offset"], event["last_offset"] + 1)
        found = self._run_of(event)
        if found is not None:  # perhaps because its commit is under way
            top = found[1].top = max(found[1].top, event["last_offset"] + 1)
            found[1].late = [each for each in found[1].late if each[0] > top]

    def _on_messages_skipped(self, event: Event) -> None:
        self._judged_debug = True
        first, end = event["first_offset"], event["last_offset"] + 1
        partition = self._partitions.get((event["group"], event["topic"], event["partition"]))
        if partition is not None:
            partition.skipped.add(first, end)
        self._set_aside(event, first, end)

    def _set_aside(self, event: Event, first: int, end: int) -> None:
        found = self._run_of(event)
        if found is not None:
            partition, assignment = found
            partition.done.add(first, end)
            partition.aside.add(first, end)
            if assignment.position is not None and first <= assignment.position:
                assignment.position = max(assignment.position, end)

    def _on_partition_sought(self, event: Event) -> None:
        """A handler asked to go on elsewhere."""
        found = self._run_of(event)
        if found is None:
            return
        partition, assignment = found
        self._cause(partition, assignment.process, "seek", event["offset"], within=True, asked=True)
        self._leap(partition, assignment, event["offset"])

    def _on_partition_paused(self, event: Event) -> None:
        """A handler asked for a pause: what it had not marked runs again after it."""
        found = self._run_of(event)
        if found is None:
            return
        partition, assignment = found
        self._cause(partition, assignment.process, "pause", within=True, asked=True)

    def _leap(self, partition: Partition, assignment: Assignment, target: int) -> None:
        run = assignment.run
        partition.done.add(run.first if run is not None else assignment.position or 0, target)
        assignment.leaped = True

    def _on_offset_out_of_range(self, event: Event) -> None:
        found = self._run_of(event)
        if found is not None:
            partition, assignment = found
            self._cause(partition, assignment.process, "offset out of range", within=True, asked=True)
            target = event.get("target")
            if target is not None and target > event["offset"]:
                partition.done.add(event["offset"], target)  # skipped, as the subscription asks for
            assignment.leaped = True

    def _on_topic_missing(self, event: Event) -> None:
        """Where it comes back it may have been deleted and made again, and then its offsets begin anew."""
        for key, partition in self._partitions.items():
            if key[:2] == (event["group"], event["topic"]):
                self._cause(partition, None, "the topic was missing", within=True, asked=True)
                partition.acknowledged = 0

    def _on_topic_recreated(self, event: Event) -> None:
        """Its offsets begin anew: what is known is of a topic that nobody can look at any more."""
        key = (event["group"], event["topic"], event["partition"])
        partition = self._partitions.get(key)
        if partition is None:
            return
        fresh = Partition(key, partition.semantics, 0, 0)
        fresh.holders = partition.holders
        for assignment in fresh.holders:
            assignment.run, assignment.position, assignment.pending = None, None, []
        self._partitions[key] = fresh

    def _cause(
        self,
        partition: Partition,
        process: Process | None,
        kind: str,
        start: int = 0,
        end: int = EVERYTHING,
        *,
        within: bool,
        asked: bool = False,
    ) -> None:
        partition.causes.append(Cause(self._number, process, kind, start, end, within, asked))

    # -- commits -----------------------------------------------------------------------------------------------------

    def _on_offsets_committed(self, event: Event) -> None:
        self._judged_debug = True
        process = self._process(event)
        for key, held in process.holds.items():
            if key[0] == event["group"]:
                held.answered = held.answered or self._at
        for topic, number, offset in event["offsets"]:
            key = (event["group"], topic, number)
            partition = self._partitions.get(key)
            assignment = process.holds.get(key)
            if partition is None:
                what = f"{topic}/{number} in group {event['group']}"
                self._violation(
                    "commit_after_release",
                    f"{what}: {process} committed {offset}, and it was never assigned to anybody",
                    self._here("offsets_committed"),
                )
                continue
            if assignment is None:
                self._late_commit(partition, process, offset)
            else:
                self._committed(partition, assignment, offset)
            partition.acknowledged = max(partition.acknowledged, offset)

    def _committed(self, partition: Partition, assignment: Assignment, offset: int) -> None:
        run = assignment.run
        if assignment.leaped and assignment.position is not None and (run is None or run.closed):
            # Out of range: where it goes on is committed before it is read.
            partition.done.add(assignment.position, offset)
        if run is not None and run.first < offset:
            run.committed = max(run.committed, min(offset, run.end))
        if partition.judged < offset:
            self._passed(
                partition,
                offset,
                "commit_past_work",
                f"{partition}: {offset} was committed",
                self._here("offsets_committed"),
                run,
            )

    def _late_commit(self, partition: Partition, process: Process, offset: int) -> None:
        """The answer to a commit that was sent before may come after the revocation; a commit of what was done later may not."""
        former = process.former.get(partition.key)
        if former is None or offset > former.top:
            violation = Violation(
                "commit_after_release",
                f"{partition}: {process} committed {offset}"
                + (f", and held it up to {former.top} only" if former is not None else ", and never held it"),
                (self._here("offsets_committed"), *([str(former)] if former is not None else [])),
            )
            if former is not None and partition.semantics.delivery == "at_most_once":
                if not former.late:
                    self._late.append(former)
                former.late.append((offset, violation))  # unless it is said yet what it dropped
            else:
                self._violations.append(violation)

    def _passed(
        self, partition: Partition, offset: int, invariant: str, text: str, evidence: str, run: Run | None = None
    ) -> None:
        """Everything below `offset` is said to be done. What of it is not, is kept for the judgement; `run` is judged at its end."""
        if partition.judged >= offset:
            return
        if partition.semantics.delivery != "at_most_once":
            for start, end in partition.done.gaps(partition.judged, offset):
                for low, high in [(start, end)] if run is None else _without(start, end, run.first, run.end):
                    partition.suspicions.append(Suspicion(invariant, low, high, text, evidence))
        partition.judged = offset

    def _settle(self, partition: Partition, assignment: Assignment) -> None:
        """The end of what is said of a run: what was committed while it went on must have been done by it."""
        run = assignment.run
        if run is None:
            return
        if run.closed and not run.failed:  # it was asked to end early: what it did not do, nobody saw
            for start, end in partition.done.gaps(run.first, run.end):
                partition.handled.cut(start, end)
            if partition.semantics.each and not partition.semantics.virtual:  # also of what others have done before
                partition.handled.cut(max(run.first, run.reach), run.end)
        if not run.committed:
            return
        committed, run.committed = run.committed, 0
        assignment.top = max(assignment.top, committed)
        if partition.semantics.delivery == "at_most_once":
            return
        if partition.semantics.marks:  # it was the handler's word, also where it took it back later for the retry
            partition.done.add(run.first, committed)
            return
        for start, end in partition.done.gaps(run.first, committed):
            partition.suspicions.append(
                Suspicion(
                    "commit_past_work",
                    start,
                    end,
                    f"{partition}: {committed} was committed, and the run did not do it",
                    str(run),
                )
            )

    def _on_commit_failed(self, event: Event) -> None:
        process = self._process(event)
        for topic, number, offset in event["offsets"]:
            key = (event["group"], topic, number)
            partition = self._partitions.get(key)
            if partition is None:
                continue
            if (
                offset == partition.acknowledged
            ):  # it was confirmed, taken back by an older one, and could not be repeated
                partition.acknowledged = 0
            self._cause(partition, process, f"commit failed ({event.get('code')})", within=False)
            assignment = process.holds.get(key)
            if assignment is not None:
                assignment.refused = True

    # -- repetitions -------------------------------------------------------------------------------------------------

    def _explain(self, partition: Partition, earlier: Run, later: Run, start: int, end: int) -> None:
        """Find the recorded cause of handling `start` to `end` - 1 again."""
        asked_only = partition.semantics.delivery == "at_most_once"
        same = earlier.assignment is later.assignment
        open_: list[Range] = [(start, end)]
        for cause in reversed(partition.causes):
            if not open_ or cause.number < earlier.number:
                break
            if cause.process is not None and cause.process is not earlier.assignment.process:
                continue
            if (asked_only and not cause.asked) or (same and not cause.within):
                continue
            open_ = self._take(open_, cause.start, cause.end, cause.kind)
        if not open_:
            return
        if not same and not asked_only:
            assignment = earlier.assignment
            why = assignment.cause if assignment.end else ""
            if partition.semantics.manual:
                why = why or "not marked (manual offsets)"
            if not why and assignment.end and later.assignment.in_vain:
                why = "by a worker that had lost the partition before"
            if not why and assignment.end and later.assignment.given_away:
                why = hand_over.CAUSE
            if why:
                for low, high in open_:
                    self.repeated[why] += high - low
                return
            if not assignment.end:
                assignment.pending += [(earlier, later, low, high) for low, high in open_]
                return
            if not later.assignment.end and partition.semantics.delivery != "at_most_once":
                later.assignment.deferred.append((earlier, later, open_))
                return
        self._twice(partition, earlier, later, open_)

    def _twice(self, partition: Partition, earlier: Run, later: Run, open_: list[Range]) -> None:
        asked_only = partition.semantics.delivery == "at_most_once"
        self._violation(
            "at_most_once" if asked_only else "twice",
            f"{partition}: {shown(open_)} handled again" + ("" if asked_only else ", and no cause is recorded"),
            str(earlier),
            f"  in the assignment of {earlier.assignment}"
            + (f", {earlier.assignment.end}" if earlier.assignment.end else ""),
            str(later),
        )

    def _take(self, open_: list[Range], start: int, end: int, kind: str) -> list[Range]:
        left: list[Range] = []
        for low, high in open_:
            rest = _without(low, high, start, end)
            explained = (high - low) - sum(stop - begin for begin, stop in rest)
            if explained:
                self.repeated[kind] += explained
            left += rest
        return left

    # -- the end -----------------------------------------------------------------------------------------------------

    def _blind(self, committed: Mapping[Key, int]) -> bool:
        return not self._judged_debug and any(
            committed.get(key, 0) > partition.start for key, partition in self._partitions.items()
        )

    def _end_of_processes(self) -> None:
        for source, pid in self._supervisors.items():
            if pid is not None:
                self._orphan_all(source, "its end is not in the log")
        for process in self._everybody:
            for key in list(process.holds):
                # What ended without a word has not given up anything in good order.
                self._release(
                    self._partitions[key], process.holds[key], "process", process.trouble or "its end is not in the log"
                )

    def _end_of_partition(
        self,
        partition: Partition,
        committed: Mapping[Key, int] | None,
        held: Mapping[tuple[str, int], Ranges] | None,
        complete: bool,
    ) -> None:
        if committed is not None:
            last = committed.get(partition.key, 0)
            self._believe(partition, last)
            self._passed(partition, last, "lost", f"{partition}: {last} is committed at the end", "")
            if last < partition.acknowledged and not self._reset(partition):
                self._violation(
                    "commit_went_back",
                    f"{partition}: {last} is committed at the end, although the broker had confirmed {partition.acknowledged}",
                )
        if complete and held is not None:
            there = held.get(partition.key[1:])
            if there:
                self._passed(partition, there.end, "lost", f"{partition}: everything was to be consumed", "")
                if committed is not None and (rest := list(there.within(committed.get(partition.key, 0), there.end))):
                    self._violation(
                        "lost", f"{partition}: {shown(rest)} not committed at the end, although everything was consumed"
                    )

    def _reset(self, partition: Partition) -> bool:
        return any(cause.asked for cause in partition.causes)

    def _never_assigned(self, held: Mapping[tuple[str, int], Ranges]) -> None:
        for group in self._book.groups:
            for topic in self._book.topics(group):
                for (name, number), there in held.items():
                    if name == topic and there and (group, topic, number) not in self._partitions:
                        self._violation(
                            "lost",
                            f"{topic}/{number} in group {group}: {shown(there.parts())} never assigned to anybody",
                        )

    def _violation(self, invariant: str, text: str, *evidence: str) -> None:
        self._violations.append(Violation(invariant, text, tuple(filter(None, evidence))))

    def _here(self, what: str = "") -> str:
        return f"line {self._number}, {self._at}: {what}".rstrip(": ")


def _without(start: int, end: int, first: int, last: int) -> list[Range]:
    """`start` to `end` - 1 without `first` to `last` - 1."""
    return [(low, high) for low, high in ((start, min(end, first)), (max(start, last), end)) if low < high]
