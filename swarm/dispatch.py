"""Which lane runs next. Holds the worker's one lock; knows no Kafka, runs no handler, reads no clock but for waiting.

Lanes stand in a queue while they have work and nothing prevents it; a lane that waits (backoff, `max_wait`) stands in a heap of
instants. Processing threads take lanes from both. First come, first served: no partition can starve another.

Threads are called one after the other: at most one is on its way, and it calls the next when it has found something and there
is more. Called all at once, they would only fight for the interpreter's lock, where handlers are short; where a handler waits or
computes outside of that lock, the next thread is there some 50 µs later.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from swarm.lane import Lane
from swarm.plan import Plan
from swarm.virtual import Division, Slice

_LONGEST_WAIT: Final = 3600.0
"""Seconds; a pause may be for ever (an offset out of range), but a condition takes no infinite timeout."""


_LOOK_AGAIN: Final = 0.1
"""Seconds in which a lane that waits to be alone notices that it shall not run at all."""


class Dispatcher:
    """The queue between pollers and processing threads of one worker."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.lock = threading.Lock()
        self._work = threading.Condition(self.lock)
        self.rested = threading.Condition(self.lock)
        """Notified whenever a lane comes to rest."""
        self.room = threading.Condition(self.lock)
        """Notified when a lane that was full has come down to `wanted_at`. Not at each rest: a thread that is called takes the
        interpreter's lock from the handlers, for nothing where the lane is nearly as full as before."""
        self._clock = clock
        self._ready: deque[Lane] = deque()
        self._divided: deque[Division] = deque()
        """Batches in slices, of which some wait for a thread."""
        self._timers: list[tuple[float, int, Lane]] = []
        self._numbers = itertools.count()
        self._threads = 0
        self._groups: frozenset[str] = frozenset()
        self._serving: dict[int, str] = {}
        """The group whose work each busy thread has in hand."""
        self._sharing: dict[int, Plan] = {}
        """The subscription for which a thread has a transaction that its other lanes may share."""
        self._idle = 0
        """Threads that wait in `next`."""
        self._coming = False
        """A thread is on its way to look for work."""
        self.quiet = False
        self.stopping = False
        self.running = 0
        self._alone = False
        """One lane runs, and nothing may begin beside it."""
        self._want_alone = 0
        self._ended = False

    @property
    def backlog(self) -> int:
        """Lanes that are ready; read under the lock or as a hint."""
        return len(self._ready)

    def share(self, threads: int, groups: Iterable[str]) -> None:
        """So many threads will ask for work, of these groups: none of them gets all threads while another has none."""
        self._threads, self._groups = threads, frozenset(groups)

    def _serve(self, lane: Lane) -> bool:
        """Whether this thread may take work of a lane's group, noted if so: the group's first thread always, a further one only if
        that leaves one for each group that has none. Else the blocked handlers of one group would hold up all others."""
        if len(self._groups) < 2:
            return True
        served, group = set(self._serving.values()), lane.group.name
        if group in served and self._threads - len(self._serving) <= len(self._groups - served):
            return False
        self._serving[threading.get_ident()] = group
        return True

    def offer(self, lane: Lane, now: float) -> None:
        """Queue a lane that is idle and has work. Under the lock. A lane that is running or queued is left as it is."""
        if lane.phase not in ("idle", "waiting") or not lane.has_work:
            return
        if lane.predecessor is not None and lane.predecessor.phase != "closed":
            return  # offered again when that job ends
        if lane.hook_due and (lane.closing or lane.phase == "idle" or lane.due_at <= now):
            self._make_ready(lane, now)  # else its instance could not be made, and waits for the next try
            return
        if self.quiet or self.stopping or lane.closing or lane.paused:
            return
        if lane.phase == "waiting" and lane.due_at > now:
            if not self._fills_early(lane):
                return
        elif lane.held_until > now:
            self._wait(lane, lane.held_until, "pause")
            return
        elif self._waits_for_more(lane):
            self._wait(lane, now + lane.plan.max_wait, "gathering")
            return
        self._make_ready(lane, now)

    def delay(self, lane: Lane, until: float, waits_for: str = "backoff") -> None:
        """Let a lane wait until an instant, for one of `scoreboard.WAITS`. Under the lock. One that is running begins to wait when it is
        done.

        Not before: while its thread is still on the way out, another one would run it a second time.
        """
        if lane.phase == "running":
            lane.delayed_until = until
            lane.waits_for = waits_for
        else:
            self._wait(lane, until, waits_for)

    def _fills_early(self, lane: Lane) -> bool:
        """A lane that waits only for its batch to fill goes as soon as it is full."""
        return lane.gathering and lane.buffered >= lane.plan.max_messages

    def _waits_for_more(self, lane: Lane) -> bool:
        if lane.plan.max_wait <= 0 or lane.gathering or lane.again or lane.aside or not lane.chunks:
            return False
        if lane.buffered >= lane.plan.max_messages:
            return False
        lane.gathering = True
        return True

    def _wait(self, lane: Lane, until: float, waits_for: str) -> None:
        lane.phase = "waiting"
        lane.phase_at = self._clock()
        lane.due_at = until
        lane.waits_for = waits_for
        heapq.heappush(self._timers, (until, next(self._numbers), lane))
        self._call()

    def _make_ready(self, lane: Lane, now: float) -> None:
        lane.phase = "ready"
        lane.phase_at = now
        lane.gathering = False
        self._ready.append(lane)
        self._call()

    def _call(self) -> None:
        """Let a thread come and look, unless one is on its way. Under the lock."""
        if self._idle and not self._coming:
            self._coming = True
            self._work.notify()

    def _take(self, lane: Lane) -> Lane:
        """The calling thread goes off with a lane: somebody else shall look after what is left. Under the lock."""
        lane.phase = "running"
        self.running += 1
        if lane.may_share:
            self._sharing[threading.get_ident()] = lane.plan
        if self._ready or self._timers:
            self._call()
        return lane

    def take_another(self, lane: Lane) -> Lane | None:
        """A ready lane whose run may share the transaction of this one's, now in phase running; None: there is none now. The thread of
        `lane`."""
        with self.lock:
            if self._alone or self._want_alone or self.quiet or self.stopping or not lane.may_share:
                return None
            for other in self._ready:
                fresh = other.again or other.chunks
                if other.plan is lane.plan and other.phase == "ready" and fresh and other.may_share:
                    self._ready.remove(other)
                    other.phase = "running"
                    self.running += 1
                    return other
            return None

    def next(self) -> Lane | Slice | None:
        """The next lane to work on, now in phase running, or a slice of another thread's batch; blocks. None: the thread shall end.

        Called by processing threads. Slices go first: a batch that was begun ends sooner, and holds its partition until it does.
        """
        with self.lock:
            self._coming = False
            thread = threading.get_ident()
            waited_for = [self._serving.pop(thread, None), self._sharing.pop(thread, None)]
            if any(waited_for) and (self._ready or self._divided):
                self._call()  # for what had to wait for its group's turn, or to share
            while True:
                if self._ended:
                    return None
                now = self._clock()
                while self._timers and self._timers[0][0] <= now:
                    due, _, lane = heapq.heappop(self._timers)
                    if lane.phase == "waiting" and lane.due_at == due:
                        if self.quiet or self.stopping or lane.closing or lane.paused:
                            lane.phase = "idle"  # offered again at the resume
                        else:
                            self._make_ready(lane, now)
                for division in list(self._divided):
                    if not division.waiting:
                        self._divided.remove(division)
                    elif self._serve(division.waiting[0].lane):
                        part = self.next_slice(division)
                        if division.waiting or self._ready or self._timers:
                            self._call()
                        return part
                passed: list[Lane] = []
                while self._ready:
                    lane = self._ready.popleft()
                    if lane.phase != "ready":
                        continue
                    if (self._alone or self._want_alone) and not (lane.closing and lane.hook_due):
                        passed.append(lane)  # only who leaves goes on: a rebalance waits for it
                        continue
                    if not lane.hook_due and (self.quiet or self.stopping or lane.closing or lane.paused):
                        lane.phase = "idle"
                        self.rested.notify_all()
                        continue
                    if lane.may_share and any(lane.plan is plan for plan in self._sharing.values()):
                        passed.append(lane)  # that thread will take it
                        continue
                    if not self._serve(lane):
                        passed.append(lane)
                        continue
                    self._ready.extendleft(reversed(passed))
                    return self._take(lane)
                self._ready.extendleft(reversed(passed))
                self._idle += 1
                try:
                    self._work.wait(min(self._timers[0][0] - now, _LONGEST_WAIT) if self._timers else None)
                finally:
                    self._idle -= 1
                self._coming = False  # whoever was called, one that looks is there

    def begin_alone(self, lane: Lane, patience: float) -> bool:
        """Wait until nothing else runs in this worker, and let nothing begin until `end_alone`. Blocks; the thread of `lane`.

        False: others did not end within `patience` seconds (long-running jobs), or the lane shall not run at all any more, for it is
        taken, or the worker is quiet or stopping; then nothing is held back.
        """
        deadline = self._clock() + patience
        with self.lock:
            self._want_alone += 1
            try:
                while True:
                    left = deadline - self._clock()
                    if left <= 0 or lane.closing or lane.paused or self.quiet or self.stopping:
                        return False
                    if not self._alone and self.running <= self._want_alone:
                        break
                    self.rested.wait(min(left, _LOOK_AGAIN))
                self._alone = True
                return True
            finally:
                self._want_alone -= 1
                self._work.notify_all()

    def end_alone(self) -> None:
        """Others may run again."""
        with self.lock:
            self._alone = False
            self._work.notify_all()
            self.rested.notify_all()

    def divide(self, division: Division, *, brief: bool = False) -> None:
        """Invite idle threads to help with a batch in slices. Under the lock; its owner works on it too, so it ends in any case.

        brief: slices of this lane have been short, so that its owner will be through before anybody else has come: nobody is called,
        unless it lasts after all (`call_helpers`).
        """
        self._divided.append(division)
        if not brief:
            self._call()

    def call_helpers(self) -> None:
        """Call a thread for slices that wait, if there are any. The poller in each pass: a slice that was expected to be short and
        is not must not hold up the others."""
        if self._divided:
            with self.lock:
                if any(division.waiting for division in self._divided):
                    self._call()

    def next_slice(self, division: Division) -> Slice | None:
        """A slice that nobody works on yet. Under the lock."""
        if not division.waiting:
            return None
        division.running += 1
        return division.waiting.popleft()

    def slice_done(self, division: Division) -> None:
        """A slice has ended. Under the lock."""
        division.running -= 1
        if not division.running and not division.waiting:
            self.rested.notify_all()

    def await_slices(self, division: Division) -> None:
        """Wait for the slices that other threads run. Under the lock, which it lets go meanwhile; the owner's thread."""
        while division.running or division.waiting:
            self.rested.wait()

    def done(self, lane: Lane) -> None:
        """A lane's job has ended and was settled. Under the lock, by its processing thread, which offers the lane again and then asks
        for the next: nobody else has to be called for what it can do itself."""
        self._coming = True
        self.running -= 1
        if lane.phase == "running":
            lane.phase = "idle"
            lane.phase_at = self._clock()
            if lane.delayed_until is not None:
                until, lane.delayed_until = lane.delayed_until, None
                self._wait(lane, until, lane.waits_for)
        self.rested.notify_all()
        if lane.buffered <= lane.wanted_at:
            self.room.notify_all()

    def wake(self) -> None:
        """Let a thread look again. Under the lock."""
        self._work.notify_all()

    def end(self) -> None:
        """Let all processing threads end as soon as they are idle."""
        with self.lock:
            self._ended = True
            self._work.notify_all()
