"""The shared memory through which a worker shows itself. Knows a layout; knows nothing of Kafka, processes or policy.

One `Scoreboard` per worker index, a memfd made by the supervisor before the fork and kept over the worker's restarts, so that
counters go on counting. The worker writes, the supervisor and the observer read, nobody locks: a reader needs no cooperation
from a worker that is stuck, and a writer never waits. Each 8-byte word is written by one store (a `memoryview` item of native
type), which x86-64 and arm64 make visible whole; what takes several words is guarded by a sequence word that is odd while
they change. Instants are CLOCK_MONOTONIC seconds (`time.monotonic()`), the same clock in all processes of a machine; 0.0 means never.

The `Bulletin` is the way back: the supervisor's own snapshot as JSON, for the observer.
"""

from __future__ import annotations

import json
import mmap
import os
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

LAYOUT_VERSION: Final = 5
_MAGIC: Final = 0x6B73776172_0000 + LAYOUT_VERSION

STATES: Final = ("none", "starting", "running", "quiet", "stopping", "stopped")
"""Worker states as numbers in the `STATE` word. `backoff` is the supervisor's to say: no process is there to write it."""

ERROR_KINDS: Final = ("handler", "client", "commit", "dead_letter", "listener", "hook")
"""Values of the label `kind` of `swarm_errors_total`."""

PHASES: Final = ("idle", "ready", "running", "waiting", "closed")
"""A lane's phases (`swarm.lane`) as numbers."""

WAITS: Final = (
    "",
    "backoff",
    "pause",
    "rate",
    "not_before",
    "gathering",
    "held",
    "commit",
    "transaction",
    "dead_letter",
    "set_up",
)
"""What a waiting lane waits for: the next attempt, the end of a handler's pause, its share of `rate_limit=`, the age of `not_before=`,
a fuller batch (`max_wait=`), somebody's decision on a message that kills its process, a commit, a transaction, the dead letter topic, or
another try to make its instance."""

PAUSED, OUT_OF_RANGE, NO_START, CLOSING, SUCCEEDS, FULL, SEEKS, LEADERLESS, WITHHELD = (1 << bit for bit in range(9))
"""Bits of a lane's condition: an operator paused it; the group's offset is not in the log; where it begins is not known yet; it is being
taken away; the job of an assignment before still runs; it is not fetched (full, paused or quiet); it is being sought; no broker leads it."""

TROUBLE_KINDS: Final = (
    "handler",
    "client",
    "topic_missing",
    "out_of_range",
    "dead_letter",
    "held",
    "commit",
    "hook",
    "transaction",
    "revocation",
    "lost",
    "dead_lettered",
    "dropped",
    "listener",
)
"""Kinds of what went wrong, for `swarmctl why` (`swarm.troubles`)."""

DURATION_BOUNDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
"""Upper bounds (s) of the histograms of durations; one more bucket counts what is above."""
SIZE_BOUNDS: Final = (
    1.0,
    2.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    25000.0,
    50000.0,
)
"""Upper bounds (messages) of the histogram of batch sizes."""
HISTOGRAMS: Final = {
    "batch_duration_seconds": DURATION_BOUNDS,
    "batch_size": SIZE_BOUNDS,
    "commit_duration_seconds": DURATION_BOUNDS,
}

# -- layout, in words of eight bytes ---------------------------------------------------------------------------------
# Words 0 to 15: identity. 16 to 63: scalars. Then histograms, tables and text.

W_MAGIC, W_INDEX = 0, 1
# process-scoped: cleared when a new process takes the slot
(
    PID,
    STATE,
    STARTED_AT,
    READY_AT,
    LOOP_AT,
    FENCED,
    N_STRINGS,
    N_THREADS,
    N_GROUPS,
    N_ASSIGNED,
    ASSIGN_SEQ,
    PREPARED_AT,
    STANDS_SINCE,
    LOG_END,
    JOB_SLOTS,  # those that this process has used: most of the table never is
) = range(16, 31)
_PROCESS_SCALARS: Final = range(16, 32)
# index-scoped: they go on counting over restarts
(MESSAGES, BATCHES, ERRORS, RETRIES, DEAD_LETTERS, REBALANCES, STALE, COMMITS) = range(32, 40)
(SKIPPED, ABORTED) = range(48, 50)
N_TROUBLES: Final = 60  # entries that were ever written: to look at others would take memory for them
ERROR_BY_KIND: Final = 40  # one word for each of ERROR_KINDS

_HIST_AT: Final = 64
_HIST_WORDS: Final = 32  # buckets (16), then the sum (float) and the count
MAX_GROUPS: Final = 64
_GROUP_AT: Final = _HIST_AT + _HIST_WORDS * len(HISTOGRAMS)
_GROUP_WORDS: Final = 9
MAX_THREADS: Final = 384
_THREAD_AT: Final = _GROUP_AT + MAX_GROUPS * _GROUP_WORDS
_THREAD_WORDS: Final = 8
MAX_JOBS: Final = 256
_JOB_AT: Final = _THREAD_AT + MAX_THREADS * _THREAD_WORDS
_JOB_WORDS: Final = 12
MAX_STRINGS: Final = 1024
_STRING_AT: Final = _JOB_AT + MAX_JOBS * _JOB_WORDS
_STRING_WORDS: Final = 32  # a topic's name has up to 249 characters
MAX_ASSIGNED: Final = 8192
_ASSIGNED_AT: Final = _STRING_AT + MAX_STRINGS * _STRING_WORDS
_ASSIGNED_WORDS: Final = 10
_TEXT_AT: Final = _ASSIGNED_AT + MAX_ASSIGNED * _ASSIGNED_WORDS
_TEXT_BYTES: Final = 4096
_LOG_AT: Final = _TEXT_AT * 8 + _TEXT_BYTES  # in bytes
LOG_BYTES: Final = 32 << 10
"""The ring of a process's last log lines: its 50 last where they have some 600 bytes, as JSON lines may."""
LOG_ENTRY: Final = 4096
"""Bytes kept of one entry, half of them from its end, where a traceback says most: none drives out all others."""
_CONDITION_AT: Final = (_LOG_AT + LOG_BYTES) // 8
_CONDITION_WORDS: Final = 8
MAX_TROUBLES: Final = 64
_TROUBLE_AT: Final = _CONDITION_AT + MAX_ASSIGNED * _CONDITION_WORDS
_TROUBLE_WORDS: Final = 128  # twelve numbers, then group and topic (32 words each) and the text
_TROUBLE_TEXT: Final = _TROUBLE_WORDS - 12 - 2 * _STRING_WORDS
SIZE: Final = -(-(_TROUBLE_AT + MAX_TROUBLES * _TROUBLE_WORDS) * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
"""Bytes of one scoreboard. Only pages that were written take memory: some 20 KiB for a usual worker, and 32 for what it logs."""


class Condition(NamedTuple):
    """How a lane is: its phase (of PHASES) and since when, what it waits for (of WAITS) and until when (0.0: not by the clock), bits
    (`PAUSED` …), the attempt that runs or comes next, messages that it has in store, the next offset of its frontier."""

    phase: str = "idle"
    since: float = 0.0
    waits_for: str = ""
    until: float = 0.0
    bits: int = 0
    attempt: int = 1
    buffered: int = 0
    frontier: int = -1001


UNKNOWN_CONDITION: Final = Condition()


class Trouble(NamedTuple):
    """Something that went wrong, once or several `times`, between `first_at` and `last_at`; the offsets and the attempt are those of the last
    time. `until`: when what failed is tried again, 0.0: that is not known. What does not apply is empty, or -1."""

    kind: str
    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    attempt: int
    first_at: float
    last_at: float
    times: int
    until: float
    text: str


@dataclass(frozen=True, slots=True)
class JobView:
    """A job that a processing thread is running."""

    started_at: float
    limit: float
    group: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    attempt: int
    thread: int


class GroupView(NamedTuple):
    """A worker's membership in one consumer group. `joined_at` is 0.0 until it has joined. `stuck_since`: when the broker first answered
        of all the time in which it has answered and the join has not come to an end, 0.0: there is no such time. `rebuilds`: how often
        of late its client was made anew after a fatal error. `contested`: how often of late another process had or took its seat. `error_at`:
    when librdkafka last reported an error of the client, 0.0: never. `giving_since`: since when it gives partitions back and the group has
    not answered, 0.0: it does not."""

    group: str
    poll_at: float
    joined_at: float
    partitions: int
    stuck_since: float = 0.0
    rebuilds: int = 0
    contested: int = 0
    error_at: float = 0.0
    giving_since: float = 0.0


@dataclass(frozen=True, slots=True)
class AssignedView:
    """One assigned partition. Offsets are next offsets; -1001 is unknown. `high_at` is when `high` was last seen to be fresh.

    paused: an operator paused it, and no job of it runs any more. stands_since: 0.0 where it does not (`swarm.standing`).
    """

    group: str
    topic: str
    partition: int
    position: int
    committed: int
    high: int
    high_at: float
    paused: bool = False
    stands_since: float = 0.0
    condition: Condition = UNKNOWN_CONDITION

    @property
    def lag(self) -> int | None:
        """High watermark minus committed offset, in messages; None while one of them is unknown."""
        if self.high < 0 or self.committed < 0:
            return None
        return max(0, self.high - self.committed)

    @property
    def waiting(self) -> int | None:
        """High watermark minus position: what no handler has been given yet; None while one of them is unknown."""
        if self.high < 0 or self.position < 0:
            return None
        return max(0, self.high - self.position)


@dataclass(frozen=True, slots=True)
class HistogramView:
    """Counts per bucket (not cumulative; the last one is above all bounds), sum and count."""

    bounds: Sequence[float]
    buckets: tuple[int, ...]
    sum: float
    count: int


class Scoreboard:
    """One worker's slot. `create` in the supervisor; the worker inherits it through the fork; `attach` for a file descriptor."""

    def __init__(self, fd: int, index: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._bytes = memoryview(self._map)
        self.ints = self._bytes[: SIZE // 8 * 8].cast("q")
        self.floats = self._bytes[: SIZE // 8 * 8].cast("d")
        self.index = index
        self._string_ids: dict[str, int] = {}
        self._job_slots = 0
        self._lock = threading.Lock()
        self._histogram_at = {name: _HIST_AT + i * _HIST_WORDS for i, name in enumerate(HISTOGRAMS)}

    @classmethod
    def create(cls, index: int) -> Scoreboard:
        """Make the memory of worker `index`. Supervisor only, before the fork; raises OSError where the kernel has none left."""
        fd = os.memfd_create(f"swarm-worker-{index}", os.MFD_CLOEXEC)
        os.ftruncate(fd, SIZE)
        board = cls(fd, index)
        board.ints[W_MAGIC] = _MAGIC
        board.ints[W_INDEX] = index
        return board

    @classmethod
    def attach(cls, fd: int) -> Scoreboard:
        """Open a scoreboard by its descriptor; raises ValueError if its layout is another version's."""
        board = cls(fd, 0)
        if board.ints[W_MAGIC] != _MAGIC:
            raise ValueError(f"descriptor {fd} holds no scoreboard of layout {LAYOUT_VERSION}")
        board.index = int(board.ints[W_INDEX])
        return board

    def close(self) -> None:
        """Unmap and close."""
        self.ints.release()
        self.floats.release()
        self._bytes.release()
        self._map.close()
        os.close(self.fd)

    # -- the writer: the worker; `clear` also the supervisor, while no process holds the slot ------------------------

    def clear(self) -> None:
        """Forget the former process; counters and histograms stay."""
        for word in _PROCESS_SCALARS:
            self.ints[word] = 0
        for at, count, words in (
            (_GROUP_AT, MAX_GROUPS, _GROUP_WORDS),
            (_JOB_AT, MAX_JOBS, _JOB_WORDS),
        ):
            for entry in range(count):
                for word in range(words):
                    self.ints[at + entry * words + word] = 0
        self._string_ids.clear()
        self._job_slots = 0
        self.set_error("")

    def set_state(self, state: str) -> None:
        """One of STATES."""
        self.ints[STATE] = STATES.index(state)

    def add(self, word: int, amount: int = 1) -> None:
        """Add to a counter. Locked: processing threads share the counters."""
        with self._lock:
            self.ints[word] += amount

    def count_error(self, kind: str) -> None:
        """Count one error of one of ERROR_KINDS."""
        self.add(ERROR_BY_KIND + ERROR_KINDS.index(kind))

    def observe(self, histogram: str, value: float) -> None:
        """Add one value to one of HISTOGRAMS."""
        with self._lock:
            self._observe(histogram, value)

    def _observe(self, histogram: str, value: float) -> None:
        at = self._histogram_at[histogram]
        self.ints[at + bisect_left(HISTOGRAMS[histogram], value)] += 1
        self.floats[at + 16] += value
        self.ints[at + 17] += 1

    def batch_done(self, messages: int, size: int, seconds: float) -> None:
        """A run succeeded: `messages` newly handled of a batch of `size`."""
        with self._lock:
            self.ints[MESSAGES] += messages
            self.ints[BATCHES] += 1
            self._observe("batch_duration_seconds", seconds)
            self._observe("batch_size", size)

    def string(self, text: str) -> int:
        """The number of a group's or topic's name in the table of strings."""
        known = self._string_ids.get(text)
        if known is not None:
            return known
        with self._lock:
            number = int(self.ints[N_STRINGS])
            if number >= MAX_STRINGS:
                return 0
            self._put_text(_STRING_AT + number * _STRING_WORDS, _STRING_WORDS * 8, text)
            self.ints[N_STRINGS] = number + 1
            self._string_ids[text] = number
            return number

    def add_group(self, group: str) -> int:
        """Register a consumer group; returns its slot for `polled` and `joined`."""
        name = self.string(group)
        with self._lock:
            slot = int(self.ints[N_GROUPS])
            self.ints[_GROUP_AT + slot * _GROUP_WORDS] = name
            self.ints[N_GROUPS] = slot + 1
            return slot

    def polled(self, slot: int, now: float) -> None:
        """The group's poller came round."""
        self.floats[_GROUP_AT + slot * _GROUP_WORDS + 1] = now

    def joined(self, slot: int, at: float, partitions: int) -> None:
        """The group was joined (`at` 0.0: no longer), and holds this many partitions."""
        self.floats[_GROUP_AT + slot * _GROUP_WORDS + 2] = at
        self.ints[_GROUP_AT + slot * _GROUP_WORDS + 3] = partitions

    def join_stuck(self, slot: int, since: float) -> None:
        """Since when the group's join has not come to an end though the broker answers; 0.0: nothing of the kind."""
        self.floats[_GROUP_AT + slot * _GROUP_WORDS + 4] = since

    def rebuilt(self, slot: int, count: int) -> None:
        """How often of late the group's client was made anew after a fatal error."""
        self.ints[_GROUP_AT + slot * _GROUP_WORDS + 5] = count

    def contested(self, slot: int, times: int) -> None:
        """How often of late another process had or took this member's seat; 0: nobody, as far as is known."""
        self.ints[_GROUP_AT + slot * _GROUP_WORDS + 6] = times

    def client_failed(self, slot: int, at: float) -> None:
        """The group's client has reported an error."""
        self.floats[_GROUP_AT + slot * _GROUP_WORDS + 7] = at

    def gives_back(self, slot: int, since: float) -> None:
        """Since when partitions are given back while the group waits for it; 0.0: it has answered with an assignment."""
        self.floats[_GROUP_AT + slot * _GROUP_WORDS + 8] = since

    def add_thread(self, name: str, ident: int | None = None) -> None:
        """Name a thread for backtraces; called by the thread itself unless `ident` is given. The last name of an ident wins: pthreads gives
        that of a thread that has ended to a new one."""
        own = threading.get_ident() if ident is None else ident
        with self._lock:
            known = int(self.ints[N_THREADS])
            slots = (slot for slot in range(known) if self.ints[_THREAD_AT + slot * _THREAD_WORDS] == own)
            slot = next(slots, known)
            if slot >= MAX_THREADS:
                return
            at = _THREAD_AT + slot * _THREAD_WORDS
            self.ints[at] = own
            self.ints[at + _THREAD_WORDS - 1] = threading.get_native_id() if ident is None else 0
            self._put_text(at + 1, (_THREAD_WORDS - 2) * 8, name)
            self.ints[N_THREADS] = max(known, slot + 1)

    def job_begin(self, slot: int, now: float, limit: float, job: tuple[int, int, int, int, int, int]) -> None:
        """A processing thread begins (group, topic, partition, first offset, last offset, attempt); names by `string`.

        `limit` is the job's time limit in seconds, 0.0: none.
        """
        at = _JOB_AT + slot * _JOB_WORDS
        self.floats[at + 1] = limit
        ints = self.ints
        at += 2
        for word in job:
            ints[at] = word
            at += 1
        ints[at] = threading.get_ident()
        if slot >= self._job_slots:
            with self._lock:
                self._job_slots = ints[JOB_SLOTS] = max(self._job_slots, slot + 1)
        self.floats[_JOB_AT + slot * _JOB_WORDS] = now  # last: a reader sees the job only when it is whole

    def job_end(self, slot: int) -> None:
        """The processing thread of this slot is idle."""
        self.floats[_JOB_AT + slot * _JOB_WORDS] = 0.0

    def set_assigned(
        self,
        entries: Sequence[tuple[int, int, int, int, int, int, float, bool, float]],
        conditions: Sequence[Condition] = (),
    ) -> None:
        """Write the whole table of assigned partitions: (group, topic, partition, position, committed, high, high_at, paused,
        stands_since), and how each of them is, in the same order."""
        with self._lock:
            self.ints[ASSIGN_SEQ] += 1
            for number, entry in enumerate(entries[:MAX_ASSIGNED]):
                at = _ASSIGNED_AT + number * _ASSIGNED_WORDS
                for word, value in enumerate(entry[:6]):
                    self.ints[at + word] = value
                self.floats[at + 6] = entry[6]
                self.ints[at + 7] = entry[7]
                self.floats[at + 8] = entry[8]
                condition = conditions[number] if number < len(conditions) else UNKNOWN_CONDITION
                self._set_condition(_CONDITION_AT + number * _CONDITION_WORDS, condition)
            self.ints[N_ASSIGNED] = min(len(entries), MAX_ASSIGNED)
            self.floats[STANDS_SINCE] = min((entry[8] for entry in entries if entry[8]), default=0.0)
            self.ints[ASSIGN_SEQ] += 1

    def _set_condition(self, at: int, condition: Condition) -> None:
        phase, since, waits_for, until, bits, attempt, buffered, frontier = condition
        ints, floats = self.ints, self.floats
        ints[at] = PHASES.index(phase)
        floats[at + 1] = since
        ints[at + 2] = WAITS.index(waits_for)
        floats[at + 3] = until
        ints[at + 4] = bits
        ints[at + 5] = attempt
        ints[at + 6] = buffered
        ints[at + 7] = frontier

    def set_trouble(self, slot: int, trouble: Trouble) -> None:
        """Write one of MAX_TROUBLES entries. They outlive the process: its successor finds them, too."""
        at = _TROUBLE_AT + slot * _TROUBLE_WORDS
        with self._lock:
            self.ints[N_TROUBLES] = max(slot + 1, self.ints[N_TROUBLES])
            self.ints[at] |= 1  # also where the last writer was killed in the middle
            for word, number in enumerate(
                (TROUBLE_KINDS.index(trouble.kind) + 1, *trouble[3:7], trouble.times), start=at + 1
            ):
                self.ints[word] = number
            for word, instant in enumerate((trouble.first_at, trouble.last_at, trouble.until), start=at + 7):
                self.floats[word] = instant
            self._put_text(at + 12, _STRING_WORDS * 8, trouble.group)
            self._put_text(at + 12 + _STRING_WORDS, _STRING_WORDS * 8, trouble.topic)
            self._put_text(at + 12 + 2 * _STRING_WORDS, _TROUBLE_TEXT * 8, trouble.text)
            self.ints[at] += 1

    def set_error(self, text: str) -> None:
        """The last error that ends a worker (boot, thread died), for its exit's explanation."""
        self._put_text(_TEXT_AT, _TEXT_BYTES, text)

    def keep_line(self, text: str) -> None:
        """Keep a log line where it can be read when the process is gone. By one thread at a time (`swarm.logs.Output`)."""
        data = text.encode("utf-8", "replace")
        if len(data) > LOG_ENTRY:
            data = data[: LOG_ENTRY // 2] + " … ".encode() + data[-LOG_ENTRY // 2 :]
        data += b"\n"
        end = int(self.ints[LOG_END])
        at = end % LOG_BYTES
        before = min(len(data), LOG_BYTES - at)
        self._bytes[_LOG_AT + at : _LOG_AT + at + before] = data[:before]
        self._bytes[_LOG_AT : _LOG_AT + len(data) - before] = data[before:]
        self.ints[LOG_END] = end + len(data)  # last: a reader sees whole lines only

    def _put_text(self, at: int, size: int, text: str) -> None:
        data = text.encode("utf-8", "replace")[: size - 2]
        start = at * 8
        self._bytes[start + 2 : start + 2 + len(data)] = data
        self._bytes[start : start + 2] = len(data).to_bytes(2, "little")

    # -- the readers -------------------------------------------------------------------------------------------------

    def _text(self, at: int, size: int) -> str:
        start = at * 8
        length = min(int.from_bytes(self._bytes[start : start + 2], "little"), size - 2)
        return bytes(self._bytes[start + 2 : start + 2 + length]).decode("utf-8", "replace")

    def _string(self, number: int) -> str:
        if not 0 <= number < MAX_STRINGS:
            return ""
        return self._text(_STRING_AT + number * _STRING_WORDS, _STRING_WORDS * 8)

    @property
    def state(self) -> str:
        """The worker's own word for its state."""
        return STATES[self.ints[STATE]]

    @property
    def report_at(self) -> float:
        """When the worker's loop last came round."""
        return self.floats[LOOP_AT]

    @property
    def error(self) -> str:
        """What `set_error` wrote last."""
        return self._text(_TEXT_AT, _TEXT_BYTES)

    def last_lines(self, most: int) -> list[str]:
        """The last log lines of the process that holds, or held, the slot; oldest first."""
        end = int(self.ints[LOG_END])
        ring = bytes(self._bytes[_LOG_AT : _LOG_AT + LOG_BYTES])
        if end <= LOG_BYTES:
            lines = ring[:end].split(b"\n")
        else:
            at = end % LOG_BYTES
            lines = (ring[at:] + ring[:at]).split(b"\n")[1:]  # the oldest was written over in part
        return [line.decode("utf-8", "replace") for line in lines[:-1][-most:]]

    @property
    def is_contested(self) -> bool:
        """Whether another process has or takes the seat of one of the worker's memberships."""
        slots = range(min(int(self.ints[N_GROUPS]), MAX_GROUPS))
        return any(self.ints[_GROUP_AT + slot * _GROUP_WORDS + 6] for slot in slots)

    def groups(self) -> list[GroupView]:
        """The worker's memberships."""
        result = []
        for slot in range(min(int(self.ints[N_GROUPS]), MAX_GROUPS)):
            at = _GROUP_AT + slot * _GROUP_WORDS
            result.append(
                GroupView(
                    self._string(self.ints[at]),
                    self.floats[at + 1],
                    self.floats[at + 2],
                    int(self.ints[at + 3]),
                    self.floats[at + 4],
                    int(self.ints[at + 5]),
                    int(self.ints[at + 6]),
                    self.floats[at + 7],
                    self.floats[at + 8],
                )
            )
        return result

    def jobs(self) -> list[JobView]:
        """The jobs in hand, also after the process has died."""
        return list(self._jobs())

    def _jobs(self) -> Iterator[JobView]:
        # Nearly all slots are empty, and most were never used: those in use are looked at in C (measured: 64 boards in 0.1 ms instead of 13).
        slots = min(max(0, int(self.ints[JOB_SLOTS])), MAX_JOBS)
        instants = self.floats[_JOB_AT : _JOB_AT + slots * _JOB_WORDS : _JOB_WORDS].tolist()
        if not any(instants):
            return
        for slot, started in enumerate(instants):
            if started <= 0.0:
                continue
            at = _JOB_AT + slot * _JOB_WORDS
            group, topic, partition, first, last, attempt, thread = (int(self.ints[at + 2 + i]) for i in range(7))
            limit = self.floats[at + 1]
            if self.floats[at] != started:
                continue  # it ended while we read: the next reading shows the next job
            yield JobView(
                started,
                limit,
                self._string(group),
                self._string(topic),
                partition,
                first,
                last,
                attempt,
                thread,
            )

    def assigned(self) -> list[AssignedView]:
        """The assigned partitions. Tries again while the worker rewrites the table; after ten tries takes what is there."""
        for _ in range(10):
            before = self.ints[ASSIGN_SEQ]
            views = []
            for number in range(min(int(self.ints[N_ASSIGNED]), MAX_ASSIGNED)):
                at = _ASSIGNED_AT + number * _ASSIGNED_WORDS
                group, topic, partition, position, committed, high = (int(self.ints[at + i]) for i in range(6))
                views.append(
                    AssignedView(
                        self._string(group),
                        self._string(topic),
                        partition,
                        position,
                        committed,
                        high,
                        self.floats[at + 6],
                        bool(self.ints[at + 7]),
                        self.floats[at + 8],
                        self._condition(_CONDITION_AT + number * _CONDITION_WORDS),
                    )
                )
            if before % 2 == 0 and self.ints[ASSIGN_SEQ] == before:
                break
        return views

    def _condition(self, at: int) -> Condition:
        ints, floats = self.ints, self.floats
        return Condition(
            PHASES[ints[at]],
            floats[at + 1],
            WAITS[ints[at + 2]],
            floats[at + 3],
            int(ints[at + 4]),
            int(ints[at + 5]),
            int(ints[at + 6]),
            int(ints[at + 7]),
        )

    def troubles(self) -> dict[int, Trouble]:
        """What went wrong of late, by entry, also in former processes of the index. One that is being written is left out."""
        found = {}
        for slot in range(min(int(self.ints[N_TROUBLES]), MAX_TROUBLES)):
            at = _TROUBLE_AT + slot * _TROUBLE_WORDS
            before, kind = self.ints[at], self.ints[at + 1]
            if before % 2 or not 1 <= kind <= len(TROUBLE_KINDS):
                continue
            partition, first, last, attempt = (int(self.ints[at + 2 + i]) for i in range(4))
            trouble = Trouble(
                TROUBLE_KINDS[kind - 1],
                self._text(at + 12, _STRING_WORDS * 8),
                self._text(at + 12 + _STRING_WORDS, _STRING_WORDS * 8),
                partition,
                first,
                last,
                attempt,
                self.floats[at + 7],
                self.floats[at + 8],
                int(self.ints[at + 6]),
                self.floats[at + 9],
                self._text(at + 12 + 2 * _STRING_WORDS, _TROUBLE_TEXT * 8),
            )
            if self.ints[at] == before:
                found[slot] = trouble
        return found

    def threads(self) -> dict[int, str]:
        """Thread ident -> name."""
        result = {}
        for slot in range(min(int(self.ints[N_THREADS]), MAX_THREADS)):
            at = _THREAD_AT + slot * _THREAD_WORDS
            result[int(self.ints[at])] = self._text(at + 1, (_THREAD_WORDS - 2) * 8)
        return result

    def native_threads(self) -> dict[str, int]:
        """Name -> the kernel's number of the thread (/proc/PID/task)."""
        found = {}
        for slot in range(min(int(self.ints[N_THREADS]), MAX_THREADS)):
            at = _THREAD_AT + slot * _THREAD_WORDS
            if native := int(self.ints[at + _THREAD_WORDS - 1]):
                found[self._text(at + 1, (_THREAD_WORDS - 2) * 8)] = native
        return found

    def histogram(self, name: str) -> HistogramView:
        """One of HISTOGRAMS."""
        at = self._histogram_at[name]
        bounds = HISTOGRAMS[name]
        return HistogramView(
            bounds,
            tuple(int(self.ints[at + i]) for i in range(len(bounds) + 1)),
            self.floats[at + 16],
            int(self.ints[at + 17]),
        )

    def errors_by_kind(self) -> dict[str, int]:
        """Errors counted per kind."""
        return {kind: int(self.ints[ERROR_BY_KIND + i]) for i, kind in enumerate(ERROR_KINDS)}


class Bulletin:
    """The supervisor's snapshot as JSON in shared memory; it writes, the observer reads. Neither waits."""

    SIZE: Final = 4 << 20

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, self.SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._bytes = memoryview(self._map)
        self._ints = self._bytes[:64].cast("q")
        self._floats = self._bytes[:64].cast("d")

    @classmethod
    def create(cls) -> Bulletin:
        """Make the memory; raises OSError where the kernel has none left."""
        fd = os.memfd_create("swarm-bulletin", os.MFD_CLOEXEC)
        os.ftruncate(fd, cls.SIZE)
        return cls(fd)

    def came_round(self, now: float) -> None:
        """The supervisor's loop came round."""
        self._floats[2] = now

    @property
    def loop_at(self) -> float:
        """When the supervisor's loop last came round."""
        return self._floats[2]

    def post(self, snapshot: dict[str, Any]) -> None:
        """Replace the snapshot."""
        data = json.dumps(snapshot, default=str).encode()[: self.SIZE - 64]
        self._ints[0] += 1
        self._bytes[64 : 64 + len(data)] = data
        self._ints[1] = len(data)
        self._ints[0] += 1

    def read(self) -> dict[str, Any]:
        """The latest whole snapshot; an empty one before the first."""
        for _ in range(100):
            before = self._ints[0]
            data = bytes(self._bytes[64 : 64 + self._ints[1]])
            if before % 2 == 0 and self._ints[0] == before:
                return json.loads(data) if data else {}
        return {}
