"""What can happen: one frozen dataclass per fact, past tense, no prose. Knows nothing of logs, metrics, Kafka or processes.

Logging, metrics, tests and an application's listeners subscribe to these (`swarm.bus`). `LEVEL` is the level a log line gets.
Times in fields named `seconds` are durations; a listener that needs the wall clock takes it when it is called.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. Subclasses add the facts."""

    LEVEL: ClassVar[Level] = "info"

    @classmethod
    def event_name(cls) -> str:
        """The class name in snake_case: the `event` of a JSON log line."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def facts(self) -> dict[str, Any]:
        """The fields as a dictionary, in their order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


# -- the swarm: the supervisor says these ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SwarmStarted(Event):
    """The supervisor holds its run directory and begins to fork."""

    name: str
    version: str
    workers: int
    run_dir: str


@dataclass(frozen=True, slots=True)
class SwarmStopping(Event):
    """A stop was asked for: by a signal or through the control socket."""

    reason: str


@dataclass(frozen=True, slots=True)
class SwarmStopped(Event):
    """All workers are gone; `code` is the supervisor's exit code."""

    code: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SwarmQuiet(Event):
    """No new work is taken, and what was running has ended; partitions are kept."""


@dataclass(frozen=True, slots=True)
class SwarmResumed(Event):
    """Work is taken again after quiet."""


@dataclass(frozen=True, slots=True)
class SwarmFailed(Event):
    """The swarm cannot go on (no worker ever came up, …); the supervisor ends with exit code 1."""

    LEVEL = "error"

    reason: str


@dataclass(frozen=True, slots=True)
class SupervisorWarning(Event):
    """Something an operator should know that does not stop the swarm, with its mend."""

    LEVEL = "warning"

    what: str


@dataclass(frozen=True, slots=True)
class SettingsWarning(Event):
    """Something in the settings is odd and was passed over: an unknown `SWARM_…` variable, for example. Said before the first fork."""

    LEVEL = "warning"

    what: str


@dataclass(frozen=True, slots=True)
class WorkerStarted(Event):
    """A worker was forked. `restarts` counts how often this index was replaced before."""

    worker: int
    pid: int
    restarts: int


@dataclass(frozen=True, slots=True)
class WorkerReady(Event):
    """A worker's consumers have all joined their groups."""

    worker: int
    pid: int
    seconds: float


@dataclass(frozen=True, slots=True)
class WorkerStopping(Event):
    """The supervisor sent TERM to a worker."""

    worker: int
    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerKilled(Event):
    """A worker was ended by force: the supervisor sent KILL, or, `by` itself, the worker gave up its drain just before it would have
    (`drain_overdue`). Its backtrace is in the incident."""

    LEVEL = "error"

    worker: int
    pid: int
    reason: str
    incident: str
    by: Literal["supervisor", "itself"] = "supervisor"


@dataclass(frozen=True, slots=True)
class WorkerExited(Event):
    """A worker is gone. Exactly one of `code` and `signal` is set; `detail` says it in words. `graceful`: it had ended its jobs,
    committed, and closed its clients."""

    worker: int
    pid: int
    code: int | None
    signal: str | None
    reason: str
    detail: str
    graceful: bool = False


@dataclass(frozen=True, slots=True)
class WorkerBackoff(Event):
    """A worker's index waits before it is forked again."""

    LEVEL = "warning"

    worker: int
    seconds: float
    failures: int


@dataclass(frozen=True, slots=True)
class BacktraceDumped(Event):
    """Every thread's backtrace of one worker, once per request and worker."""

    worker: int
    pid: int
    text: str


@dataclass(frozen=True, slots=True)
class ProcessBacktraceDumped(Event):
    """The same for a process that is no worker: `supervisor` or `observer`."""

    process: str
    pid: int
    text: str


@dataclass(frozen=True, slots=True)
class ObserverStarted(Event):
    """The observer listens."""

    pid: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ObserverFailed(Event):
    """The observer could not listen or died; consuming goes on, it is tried again after `seconds`."""

    LEVEL = "warning"

    reason: str
    seconds: float


# -- a worker --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BootFailed(Event):
    """A worker could not be set up: the app, an `after_fork` hook or a client failed. It ends with code 70."""

    LEVEL = "error"

    error: str
    traceback: str


@dataclass(frozen=True, slots=True)
class MetricsSetAside(Event):
    """A file of the application's own metrics was damaged when its worker began: it has another name now, and counting begins anew."""

    LEVEL = "error"

    path: str
    error: str


@dataclass(frozen=True, slots=True)
class Orphaned(Event):
    """The supervisor is gone: this worker ends and commits the job in hand, and leaves."""

    LEVEL = "warning"

    what: str


@dataclass(frozen=True, slots=True)
class OrphanGaveUp(Event):
    """The job in hand of an orphaned worker did not end within `shutdown_timeout`: it is not committed, and the worker ends."""

    LEVEL = "warning"

    what: str


@dataclass(frozen=True, slots=True)
class WorkerGivesUp(Event):
    """A part of the runtime is broken (`thread_died`): nothing more is committed, and the worker ends with code 71."""

    LEVEL = "error"

    reason: str


@dataclass(frozen=True, slots=True)
class UnknownCommand(Event):
    """The supervisor, of another release after a reload, has said something that this worker does not know. It is passed over."""

    LEVEL = "error"

    command: str


@dataclass(frozen=True, slots=True)
class DrainOverdue(Event):
    """A worker was told to go `seconds` ago and has not come to an end within its share of `shutdown_timeout`. What holds it up: `jobs`
    are (group, topic, partition, first offset, last offset, age in s), `threads` those that are alive, `partitions` (group, topic,
    partition) those it has not handed over. `then`: it ends itself now (`exit`), or waits for KILL, because it is replaced for a fault."""

    LEVEL = "warning"

    seconds: float
    jobs: tuple[tuple[str, str, int, int, int, float], ...]
    threads: tuple[str, ...]
    partitions: tuple[tuple[str, str, int], ...]
    then: Literal["exit", "wait"]


# -- a worker's group membership -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscribed(Event):
    """A worker has made its client for a subscription: what its messages are promised. `marks`: the handler may mark as it goes.
    `protocol`: of its group, `classic` or `consumer`."""

    LEVEL = "debug"

    group: str
    topics: tuple[str, ...]
    pattern: str | None
    delivery: str
    offsets: str
    each: bool
    virtual_partitions: bool
    long_running: bool
    marks: bool
    protocol: str = "classic"


@dataclass(frozen=True, slots=True)
class PartitionsAssigned(Event):
    """Partitions were given to this worker; `partitions` holds (topic, partition, next offset)."""

    group: str
    partitions: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class PartitionsRevoked(Event):
    """Partitions were taken while still a member, after the in-flight batches ended and were committed (or were given up)."""

    group: str
    partitions: tuple[tuple[str, int], ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class PartitionsLost(Event):
    """Partitions were taken after this member had been evicted, or could not be handed over at a stop, because nobody answered:
    nothing more can be committed for them."""

    LEVEL = "warning"

    group: str
    partitions: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class RevocationGivenUp(Event):
    """A job did not end before the group would have evicted this member; its partition goes on elsewhere and may repeat."""

    LEVEL = "error"

    group: str
    partitions: tuple[tuple[str, int], ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class StaleMessagesDropped(Event):
    """Messages fetched for an assignment that had ended were dropped; whoever holds the partition reads them."""

    LEVEL = "debug"

    group: str
    topic: str
    partition: int
    count: int


@dataclass(frozen=True, slots=True)
class OffsetOutOfRange(Event):
    """The group's offset is no longer in the log. `action` is `pause`, `earliest` or `latest` (`offset_out_of_range=`); `target` is
    where it goes on, None at a pause."""

    LEVEL = "error"

    group: str
    topic: str
    partition: int
    offset: int
    action: str
    target: int | None


@dataclass(frozen=True, slots=True)
class PartitionPaused(Event):
    """A handler asked for a pause of so many seconds, to go on at `offset`, or (None) at what it had not marked."""

    LEVEL = "debug"

    group: str
    topic: str
    partition: int
    seconds: float
    offset: int | None


@dataclass(frozen=True, slots=True)
class PartitionStands(Event):
    """Nothing of this partition was read for `seconds`, from `offset` on, although its log grew to `end` and nothing of it is in hand.
    `action`: seek (it is fetched afresh), or replace (that did not help, and its worker is replaced, once)."""

    LEVEL = "warning"

    group: str
    topic: str
    partition: int
    offset: int
    end: int
    seconds: float
    action: str


@dataclass(frozen=True, slots=True)
class ConsumptionPaused(Event):
    """An operator paused this partition, and it rests now: no job of it runs, and `offset` is the next that will be handled."""

    LEVEL = "debug"

    group: str
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class ConsumptionResumed(Event):
    """An operator's pause of this partition is over."""

    LEVEL = "debug"

    group: str
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class PartitionSought(Event):
    """A handler asked to go on reading at `offset` (`seek`, or `pause` with another offset), or a hook's outputs were taken back."""

    LEVEL = "debug"

    group: str
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class TopicMissing(Event):
    """A subscribed topic does not exist (yet); the others are consumed, and so is this one as soon as it appears."""

    LEVEL = "warning"

    group: str
    topic: str


@dataclass(frozen=True, slots=True)
class PartitionMissing(Event):
    """A partition that is bound to this worker (`partitions=`) does not exist (yet), though others of its topic do; they are consumed,
    and so is this one as soon as it appears."""

    LEVEL = "warning"

    group: str
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class TopicRecreated(Event):
    """The topic was deleted, and the group's offsets with it; it is there again, or may be. `offset` was the next one to be read of the
    former; what of it was fetched and not begun is gone. The new one is read from its beginning."""

    LEVEL = "warning"

    group: str
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class ClientError(Event):
    """librdkafka reported an error. Repetitions are folded: `count` is how many there were since the last such event."""

    LEVEL = "warning"

    group: str
    code: str
    error: str
    fatal: bool
    count: int


@dataclass(frozen=True, slots=True)
class ClientRebuilt(Event):
    """A consumer met a fatal error (fenced, …), was closed, and a new one was made in its place."""

    LEVEL = "warning"

    group: str
    error: str


@dataclass(frozen=True, slots=True)
class ClientClosed(Event):
    """A consumer was closed at the worker's stop, after `seconds`. `left`: it has left its group for good, else it keeps its seat.
    `settled`: all that was done is committed, and the group has answered; else what is left is taken from it in time."""

    LEVEL = "debug"

    group: str
    left: bool
    settled: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class SeatContested(Event):
    """Another process joins a group under this worker's `group.instance.id`, again and again, or holds it for longer than a dead one could:
    most likely a second daemon of the same `swarm.name` and `swarm.host`. Each takes the partitions from the other. The client waits so
    many seconds before it tries again; said at the 2nd, 4th, 8th, … of so many `times`."""

    LEVEL = "error"

    group: str
    instance: str
    times: int
    seconds: float


# -- processing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchStarted(Event):
    """A handler's run begins: `count` messages from `first_offset` to `last_offset`, before any of them is seen. `gaps` holds
    (first, last) offsets between those that are not among them: done or skipped before, or not in the log."""

    LEVEL = "debug"

    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    count: int
    attempt: int
    gaps: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class BatchConsumed(Event):
    """These messages are done: a handler's run over them succeeded, or it marked them before it raised."""

    LEVEL = "debug"

    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    count: int
    attempt: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ConsumeFailed(Event):
    """A handler's run raised."""

    LEVEL = "error"

    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    attempt: int
    error: str
    traceback: str


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """The messages from `offset` on run again after `seconds`, as attempt number `attempt`."""

    LEVEL = "warning"

    group: str
    topic: str
    partition: int
    offset: int
    attempt: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MessageDeadLettered(Event):
    """A message was set aside; its delivery was confirmed before this event."""

    LEVEL = "error"

    group: str
    topic: str
    partition: int
    offset: int
    target: str
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class MessageDropped(Event):
    """Messages were given up without a dead letter: at-most-once where there is no topic for them, or because `decide` said `skip`."""

    LEVEL = "error"

    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    error: str


@dataclass(frozen=True, slots=True)
class MessagesSkipped(Event):
    """Messages that no handler saw, as asked: `reason` is `expired` (`expires_after=`) or `filtered` (`filter=`). They count as done."""

    LEVEL = "debug"

    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class PartitionerFailed(Event):
    """`virtual_partitions=` could not divide a batch: all of it ran as one slice, in order."""

    LEVEL = "error"

    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    error: str


@dataclass(frozen=True, slots=True)
class DeciderFailed(Event):
    """`DeadLetter(decide=…)` raised, or answered something else than retry, dead_letter or skip: `max_attempts` decided."""

    LEVEL = "error"

    group: str
    topic: str
    partition: int
    offset: int
    error: str


@dataclass(frozen=True, slots=True)
class MessagesSuspected(Event):
    """A process died by its own fault with these messages in hand, for the `deaths`-th time: after two deaths they run one by one."""

    LEVEL = "warning"

    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    deaths: int


@dataclass(frozen=True, slots=True)
class MessageCondemned(Event):
    """This message killed its process each time it ran, at last with nothing else running: it is set aside, or held."""

    LEVEL = "error"

    group: str
    topic: str
    partition: int
    offset: int
    deaths: int


@dataclass(frozen=True, slots=True)
class MessageHeld(Event):
    """Said once a minute while a partition waits for somebody: its next message kills its process and has no dead letter topic to go to; or
    may do so, and long-running jobs of the worker leave no moment to run it alone."""

    LEVEL = "error"

    group: str
    topic: str
    partition: int
    offset: int
    deaths: int


@dataclass(frozen=True, slots=True)
class TransactionCommitted(Event):
    """A transaction happened: what was produced in it, and, where it carries one, the `offset` behind what was consumed (the next one)."""

    LEVEL = "debug"

    group: str
    topic: str
    partition: int
    offset: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class TransactionAborted(Event):
    """A transaction could not be committed, for a reason that is not the handler's: nothing of it happened, and the run is repeated."""

    LEVEL = "warning"

    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    error: str


@dataclass(frozen=True, slots=True)
class TransactionalProducerReplaced(Event):
    """A transactional producer met a fatal error (fenced by a successor, …), was closed, and a new one is made in its place."""

    LEVEL = "warning"

    transactional_id: str
    error: str


@dataclass(frozen=True, slots=True)
class DeadLetterFailed(Event):
    """The dead letter topic could not be written; the message stays where it is and the attempt is repeated."""

    LEVEL = "error"

    group: str
    topic: str
    partition: int
    offset: int
    target: str
    error: str
    seconds: float


@dataclass(frozen=True, slots=True)
class OffsetsCommitted(Event):
    """The broker holds these next offsets: (topic, partition, next offset)."""

    LEVEL = "debug"

    group: str
    offsets: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class CommitFailed(Event):
    """The broker refused or did not answer; what is still ours is tried again. `code` `_IN_DOUBT`: it was committed at the stop, and an older
    one that is still under way may take it back."""

    LEVEL = "warning"

    group: str
    offsets: tuple[tuple[str, int, int], ...]
    code: str
    error: str


@dataclass(frozen=True, slots=True)
class HookFailed(Event):
    """A hook (`on_assigned`, `on_revoked`, …) raised; processing goes on."""

    LEVEL = "error"

    hook: str
    topic: str
    partition: int
    error: str


@dataclass(frozen=True, slots=True)
class ListenerFailed(Event):
    """An application's listener raised, or was slow, or (`*`) its queue was full, or its process ended or said what cannot be understood;
    processing was not touched."""

    LEVEL = "warning"

    listener: str
    heard: str
    """The event's name. Not `event`: that is the key of a log line's own name."""
    error: str
    count: int


@dataclass(frozen=True, slots=True)
class JournalFailed(Event):
    """The journal could not be written (a full disk, …): processing goes on without it, and it is tried again after `seconds`."""

    LEVEL = "warning"

    error: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ListenerSwitchedOff(Event):
    """An application's listener raised, or was slow, at `failures` calls in a row, at last over the event `heard`: this process calls it no
    more. Its successor does."""

    LEVEL = "error"

    listener: str
    heard: str
    error: str
    failures: int


@dataclass(frozen=True, slots=True)
class ThreadDied(Event):
    """A thread of the runtime ended although the worker lives: the worker is replaced."""

    LEVEL = "error"

    thread: str
    error: str


@dataclass(frozen=True, slots=True)
class SwarmReloading(Event):
    """New code and settings are tried in a child; then the supervisor executes itself anew, and the workers are replaced one by one."""


@dataclass(frozen=True, slots=True)
class SwarmReloaded(Event):
    """All workers run the new code and settings; `seconds` since the supervisor executed itself anew."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ReloadRefused(Event):
    """The new code or settings do not load: the swarm goes on as it is."""

    LEVEL = "error"

    error: str


@dataclass(frozen=True, slots=True)
class SwarmScaled(Event):
    """From now on so many workers run; new ones join the groups, those with the highest numbers hand their partitions over."""

    before: int
    workers: int


@dataclass(frozen=True, slots=True)
class PartitionUnowned(Event):
    """The group is settled, but none of its members, of this swarm or not, has these partitions: nobody reads them. Asked for each
    `supervision.ownership_interval`, and said at the second time in a row; `seconds` since the first."""

    LEVEL = "error"

    group: str
    topic: str
    partitions: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class SeatForgone(Event):
    """The broker keeps this worker's seat, `instance`, for its predecessor, so it joins under a dynamic identity instead, for as long as
    its process lives (`supervision.refused_seat = "dynamic"`): the group is shared out anew, and again when it leaves."""

    LEVEL = "warning"

    group: str
    instance: str


@dataclass(frozen=True, slots=True)
class GroupRejoined(Event):
    """This member has left its group and joins again, so that partitions without an owner get one (`partition_unowned`)."""

    group: str


@dataclass(frozen=True, slots=True)
class PauseOrdered(Event):
    """`swarmctl pause`: no new work of this partition (None: of the whole topic) for this group (None: for all), whoever holds it."""

    topic: str
    partition: int | None
    group: str | None


@dataclass(frozen=True, slots=True)
class PauseLifted(Event):
    """`swarmctl resume` with a topic: work of it is taken again."""

    topic: str
    partition: int | None
    group: str | None


@dataclass(frozen=True, slots=True)
class DebugBegun(Event):
    """`swarmctl debug`: this worker is replaced by one whose clients have librdkafka's `debug` set to `flags`, for so many seconds; what
    they say goes to the file `path`."""

    worker: int
    flags: str
    seconds: float
    path: str


@dataclass(frozen=True, slots=True)
class DebugEnded(Event):
    """The debugging of a worker is over: it is replaced by an ordinary one."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class LogLevelSet(Event):
    """`swarmctl log-level`: this worker (None: all of them, and the supervisor) writes its log from this level on."""

    worker: int | None
    threshold: str


OF_SUPERVISOR: tuple[type[Event], ...] = (
    SwarmStarted,
    SwarmStopping,
    SwarmStopped,
    SwarmQuiet,
    SwarmResumed,
    PartitionStands,
    PartitionUnowned,
    PauseOrdered,
    PauseLifted,
    DebugBegun,
    DebugEnded,
    LogLevelSet,
    SwarmFailed,
    SwarmScaled,
    MessagesSuspected,
    MessageCondemned,
    SwarmReloading,
    SwarmReloaded,
    ReloadRefused,
    SupervisorWarning,
    SettingsWarning,
    WorkerStarted,
    WorkerReady,
    WorkerStopping,
    WorkerKilled,
    WorkerExited,
    WorkerBackoff,
    BacktraceDumped,
    ProcessBacktraceDumped,
    ObserverStarted,
    ObserverFailed,
)
"""What the supervisor says; the rest is said in workers."""

CATALOGUE: dict[str, type[Event]] = {cls.event_name(): cls for cls in Event.__subclasses__()}
"""All events by their log name."""
