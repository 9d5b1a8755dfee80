"""The supervisor's only loop: wait, fold what happened into facts, `decide`, carry out. One thread, and nothing in it can hang.

It owns no Kafka client and runs no code of the application after the first fork.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import random
import selectors
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm import __version__, events, exits, isolation, journal
from swarm.bus import Bus
from swarm.loading import load_app, secrets_of
from swarm.logs import Log
from swarm.scoreboard import Bulletin, Scoreboard
from swarm.selection import bound, chosen_groups, missing_workers
from swarm.supervisor import circumstances, incidents, memory, memory_answer
from swarm.supervisor.asking import Asking
from swarm.supervisor.backtraces import Asked, Backtrace, Backtraces, Dumped, labels, make_dump_file
from swarm.supervisor.census import Census, Found
from swarm.supervisor.control import Connection, ControlServer
from swarm.supervisor.deaths import explain, own_fault
from swarm.supervisor.debugging import Debugging, misfit
from swarm.supervisor.listening import ListenerProcess, wanted_by
from swarm.supervisor.memory import OomKills, oom_group
from swarm.supervisor.notify import Notifier
from swarm.supervisor.observed import Observed
from swarm.supervisor.observing import Observing
from swarm.supervisor.partitions import Partitions
from swarm.supervisor.pidfile import PidFile
from swarm.supervisor.policy import (
    PLANNED,
    Action,
    Dump,
    Finish,
    Fork,
    Kill,
    Limits,
    Reason,
    RestartPolicy,
    SwarmView,
    Terminate,
    decide,
    own_share,
    wake_gap,
)
from swarm.supervisor.processes import (
    Process,
    become_subreaper,
    block_signals,
    fork_helper,
    fork_observer,
    fork_worker,
    own_threads,
    reap,
    reap_strangers,
    send,
    unblock_signals,
)
from swarm.supervisor.record import Worker
from swarm.supervisor.signals import Signals
from swarm.supervisor.status import groups_of, snapshot, state_of
from swarm.supervisor.succession import Heritage, Rehearsal, fixed, succeed
from swarm.supervisor.trend import History
from swarm.supervisor.waiting import Answer, Waiting, is_up, under_way
from swarm.wording import counted, plural

if TYPE_CHECKING:
    from swarm.app import App
    from swarm.config import Loaded
    from swarm.plan import Plan

MOST_WORKERS = 256
EXTENSION = 20.0
"""Seconds by which systemd is asked to wait longer while workers drain, and what the goodbyes after the last one may take. Said again
long before they are over, for as long as the loop comes round: the workers have deadlines of their own."""
LONGEST_PROFILE = 60.0
"""Seconds of one profile."""
POST_EVERY = 3.0
"""Seconds after which the observer's bulletin is posted again though no worker has changed its state: ages and memory go on. With 64
workers a post is a third of what a pass at rest costs."""
SAME_SIGNAL = 0.2
"""Seconds within which a second TERM is the first one, heard twice: timeout(1) signals its child and then its whole group."""


class Supervisor:
    """One swarm."""

    def __init__(
        self,
        loaded: Loaded,
        app: App | None,
        groups: list[str],
        run_dir: Path,
        state_dir: Path,
        pid_file: PidFile,
        log: Log,
        make_worker_log: Callable[[int], Log],
        ready: Callable[[], None] | None,
        left: Heritage | None = None,
    ) -> None:
        from swarm.config import memory_budget

        settings = loaded.settings
        self.loaded = loaded
        self.app = app
        self.groups = groups
        self.run_dir = run_dir
        self.state_dir = state_dir
        self.name = settings.swarm.name
        self.log = log
        self.bus = Bus([(events.Event, log.event)])
        journal.of_supervisor(settings, state_dir, self.bus)
        self._make_worker_log = make_worker_log
        self._ready = ready
        self._pid_file = pid_file
        limit, kill = memory_budget(settings)
        supervision = settings.supervision
        self.limits = Limits(
            supervision.report_timeout,
            supervision.poll_timeout,
            supervision.join_timeout,
            settings.swarm.shutdown_timeout,
            limit,
            kill,
            supervision.max_lifetime,
            supervision.standing_timeout,
            settings.worker.max_messages,
        )
        backoff = supervision.restart_backoff
        self.restart_policy = RestartPolicy(backoff.initial, backoff.factor, backoff.maximum, backoff.reset_after)
        self.check_interval = supervision.check_interval
        self.started_at = time.time() if left is None else left.started_at
        self.began = time.monotonic() if left is None else left.began
        self.reload_error = "" if left is None else left.reload_error
        """Why the newest code or settings are not in use, though the old ones have gone."""
        if left is None:
            self.workers = [
                Worker(index, Scoreboard.create(index), make_dump_file(f"worker-{index}"))
                for index in range(settings.swarm.workers)
            ]
        else:
            self.workers = [Worker.inherit(facts) for facts in left.workers]
        self.bulletin = Bulletin.create()
        self._own_dump = make_dump_file("supervisor")
        self._selector = selectors.DefaultSelector()
        self._signals = Signals(self._own_dump)
        self._notifier = Notifier()
        self._watchdog_at = 0.0
        self._extended_at = 0.0
        control = run_dir / "control.sock"
        self._control = ControlServer(
            control, self._selector, self._request, left.control if left is not None else None
        )
        self._selector.register(self._signals.fd, selectors.EVENT_READ, lambda _: self._hear_signals())
        self.observed = Observed()
        self._listeners: ListenerProcess | None = None
        if app is not None and settings.instrumentation.listeners and wanted_by(app):
            dump = make_dump_file("listeners")
            self._listeners = ListenerProcess(
                app,
                lambda body: fork_helper(f"{self.name} [listeners]", body, dump, self._close_in_child()),
                self.bus.publish,
                self.observed,
                secrets_of(settings, app),
            )
            self.bus.add(events.Event, self._listeners.hear)
        self._observing = Observing(
            settings.observer.host, settings.observer.port, self._fork_observer, self._selector, self.bus
        )
        self._backtraces = Backtraces()
        self._stop_waiters: list[Connection] = []
        self._waiting = Waiting()
        self._asking = Asking()
        self.stopping = False
        self.at_once = False
        self.quiet = False
        self._quiet_said = False
        self._stopping_since = 0.0
        self._shutdown_timeout = settings.swarm.shutdown_timeout
        self._had_to_kill = False
        self._ever_came_up = False
        self._ready_said = False
        self._forgiven_at = 0.0
        self._last_pass = self._looked_at = 0.0
        self._said = ""
        self._posted_at = 0.0
        self._title = ""
        self._finish: Finish | None = None
        self._scaling = False
        self._wanted = sum(1 for worker in self.workers if not worker.retired)
        # New code may bear what killed the old.
        words = isolation.words(settings.swarm.isolate)
        self.partitions = Partitions(
            self.workers,
            self.bus,
            self._tell,
            left.suspects if left is not None and self.reload_error else (),
            left.pauses if left is not None else words,
        )
        kafka = settings.kafka

        def ask(tell: Callable[[Found], None]) -> None:
            from swarm.admin import tell_owners

            tell_owners(self._subscriptions, kafka, tell)

        self._census = Census(
            ask,
            lambda body, fd: fork_helper(f"{self.name} [owners]", body, fd, self._close_in_child(), brief=True),
            self._selector,
            lambda found: self.partitions.hear_census(found, time.monotonic()),
        )
        self.history = History()
        self.debugging = Debugging()
        self._oom_kills = OomKills()
        self.dies_together = oom_group()
        """Whether the kernel kills all of our cgroup where one of it runs out of memory."""
        self._rehearsal: Rehearsal | None = None
        self._rehearsal_until = 0.0
        self._reload_waiters: list[Connection] = []
        self._reloading_since = 0.0
        self._before_reload: dict[int, int] = {}
        if left is not None:
            self._inherit(left)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Supervise until the end; returns the exit code."""
        become_subreaper()
        gc.collect()
        gc.freeze()  # what was loaded before the forks is never collected: no page is copied for it
        if not self._reloading_since:
            self.bus.publish(events.SwarmStarted(self.name, __version__, len(self.workers), str(self.run_dir)))
        self._last_pass = time.monotonic()
        self._pass()
        while self._finish is None:
            for key, mask in self._selector.select(self._timeout()):
                key.data(mask)
            self._pass()
        return self._end(self._finish)

    def _timeout(self) -> float:
        now = time.monotonic()
        due = [now + self.check_interval, self._asking.due]
        if (look_in := self._backtraces.look_in) is not None:
            due.append(now + look_in)
        for worker in self.workers:
            if worker.process is None and not self.stopping and worker.restart_at > self._last_pass:
                due.append(worker.restart_at)  # whoever was due at the last pass and has no process, waits for others
            elif worker.terminated_at and worker.stop_deadline > now:
                due.append(worker.stop_deadline)
        if self._watchdog_at:
            due.append(self._watchdog_at)
        if self.stopping:
            due.append(self._extended_at + EXTENSION / 4)
        return max(0.0, min(due) - now)

    def _pass(self) -> None:
        now = time.monotonic()
        if now - self._last_pass > self.check_interval + wake_gap(self.limits):
            self._forgiven_at = now
            self._warn(
                f"the supervisor stood still for {now - self._last_pass:.1f} s, and so did the machine: timeouts begin anew"
            )
        self._last_pass = now
        self.bulletin.came_round(now)
        self._backtraces.collect(now)
        self.partitions.look()
        for worker in self.workers:
            self._inform(worker)
            if now - worker.sampled_at >= self.check_interval * 0.9:
                worker.sample(
                    now,
                    self.limits.memory_limit,
                    self.limits.memory_kill,
                    self.loaded.settings.supervision.memory_metric,
                )
        if now - self._looked_at >= self.check_interval * 0.9:
            self._looked_at = now
            self._oom_kills.look(now)
        if not self.stopping:
            self.partitions.ask_for_owners(self.loaded.settings.supervision.ownership_interval, now, self._census)
        self._census.keep(now)
        circumstances.look(self, now)
        for index in self.debugging.over(now):
            self._end_debug(index, "its time is over")
        if self._listeners is not None:
            self._listeners.collect()
        if self._rehearsal is not None:
            self._hear_rehearsal(now)
        for action in decide(self._view(now), self.limits, now):
            self._carry_out(action, now)
        if any(worker.retired and worker.process is None for worker in self.workers):
            self._forget_retired()
        self._observing.keep(now)
        self._announce(now)
        if self._reloading_since and self._replaced(self._before_reload) and self._settled():
            self.bus.publish(events.SwarmReloaded(now - self._reloading_since))
            self._reloading_since = 0.0
        if self._scaling and self._settled():
            self._scaling = False
        self._waiting.answer(now, lambda: under_way(self.workers))
        self._asking.collect(
            now,
            {worker.process.pid: worker.reported_at for worker in self.workers if worker.process is not None},
        )

    def _view(self, now: float) -> SwarmView:
        return SwarmView(
            tuple(worker.view(self.partitions.given_up) for worker in self.workers),
            self.stopping,
            self.at_once,
            self._ever_came_up,
            self._had_to_kill,
            self._forgiven_at,
        )

    # -- actions -----------------------------------------------------------------------------------------------------

    def _carry_out(self, action: Action, now: float) -> None:
        match action:
            case Fork(index):
                self._fork(self.workers[index], now)
            case Dump(index, _, reason):
                worker = self.workers[index]
                worker.reason = worker.reason or reason
                if reason == "memory_kill":
                    worker.reason = reason
                worker.join_tried = worker.join_tried or reason == "join_stuck"
                worker.dump = "pending"
                if reason == "partition_stands":
                    self.partitions.give_up_standing(worker, now)
                self._dump_for_fault(worker, now)
            case Terminate(index, _, reason):
                worker = self.workers[index]
                self._terminate(worker, reason, leave=worker.retired or (self.stopping and self._leaves), now=now)
            case Kill(index, pid, reason):
                worker = self.workers[index]
                worker.reason = reason
                self._kill(worker, pid, reason)
            case Finish():
                self._finish = action

    @property
    def _leaves(self) -> bool:
        return self.loaded.settings.supervision.on_stop == "leave"

    # -- another number of workers, other processes ------------------------------------------------------------------

    def scale(self, count: int) -> None:
        """Run `count` workers from now on: new ones are forked, those with the highest numbers leave their groups and end.

        Raises OSError where there are no descriptors or memory for so many, with everything as before.
        """
        from swarm.config import memory_budget

        before = self._wanted
        more: list[Worker] = []
        try:
            for index in range(len(self.workers), count):
                more.append(Worker(index, Scoreboard.create(index), make_dump_file(f"worker-{index}")))
        except OSError:
            for worker in more:
                worker.close()
            raise
        for worker in self.workers:
            worker.retired = worker.index >= count
        if more:
            self.workers += more
            self._observing.renew()  # it has to see the new scoreboards
        self._wanted = count
        limit, kill = memory_budget(self.loaded.settings, workers=count)
        self.limits = replace(self.limits, memory_limit=limit, memory_kill=kill)
        if count != before:
            self._scaling = True
            self.bus.publish(events.SwarmScaled(before, count))

    def _forget_retired(self) -> None:
        """Those with the highest numbers, once they have ended."""
        while self.workers and self.workers[-1].retired and self.workers[-1].process is None:
            if self._backtraces.reads(self.workers[-1].dump_fd):
                return  # somebody asked it for one: soon it is clear that none comes
            self.workers.pop().close()
            self._observing.renew()

    def restart(self, only: int | None) -> None:
        """Let the workers (or one of them) be replaced, one after the other, each when the one before is running again. One that waits
        for its next start does not wait any longer."""
        for worker in self.workers:
            if only not in (None, worker.index):
                continue
            if worker.process is None:
                worker.restart_at = 0.0
            elif not worker.terminated_at:
                worker.restart_due = True

    def _pids(self, only: int | None = None) -> dict[int, int]:
        """The processes that are about to be replaced, by index."""
        chosen = [worker for worker in self.workers if only in (None, worker.index) and not worker.retired]
        return {worker.index: worker.process.pid if worker.process is not None else 0 for worker in chosen}

    def _replaced(self, before: dict[int, int]) -> bool:
        """Whether each has a successor that is up, or was scaled away."""
        return all(
            worker.retired
            or (is_up(worker) and worker.process is not None and worker.process.pid != before[worker.index])
            for worker in self.workers
            if worker.index in before
        )

    def _settled(self) -> bool:
        """Whether there are as many workers as there should be, and all of them are up."""
        return len(self.workers) == self._wanted and all(is_up(worker) for worker in self.workers)

    def _wait_for_restart(self, only: int | None) -> Callable[[], Answer]:
        before = self._pids(only)
        return lambda: {"state": self.state} if self._replaced(before) else None

    def _wait_for_scale(self, count: int) -> Callable[[], Answer]:
        def done() -> Answer:
            if self._wanted != count:
                return f"somebody has set the number of workers to {self._wanted} meanwhile"
            return {"state": self.state, "workers": count} if self._settled() else None

        return done

    @property
    def under_way(self) -> str:
        """What a restart, a reload or a change of scale waits for; empty where there is none."""
        if self._rehearsal is not None:
            return "a reload: new code and settings are tried"
        changing = self._reloading_since or self._scaling
        if not self.stopping and (changing or any(worker.restart_due or worker.settling for worker in self.workers)):
            return under_way(self.workers)
        return ""

    # -- new code and settings ---------------------------------------------------------------------------------------

    def reload(self, connection: Connection | None, *, wait: bool = True) -> None:
        """Find out, in a child, whether the new code and settings load; then execute anew. One that is under way starts over: what it
        has looked at may be older, and a reload whose workers do not come up is mended by another one."""
        if self.stopping or self._ready is not None:  # whoever detached it waits for word from this program
            what = "the swarm is being stopped" if self.stopping else "the swarm is not up yet"
            if connection is not None:
                connection.refuse(what)
            else:
                self._warn(f"reload: {what}")
            return
        if self._rehearsal is not None:
            self._rehearsal.end()
            self._forget_rehearsal()
        try:
            known = bound(chosen_groups(self.app, self.loaded.settings.swarm)) if self.app is not None else None
            self._rehearsal = Rehearsal(fixed(self.loaded, self.run_dir), known)
        except OSError as error:
            self._refuse_reload(f"the program could not be started: {error.strerror}", connection)
            return
        self._rehearsal_until = time.monotonic() + self.loaded.settings.supervision.reload_timeout
        if connection is not None and wait:
            self._reload_waiters.append(connection)
        elif connection is not None:
            connection.answer({"state": self.state})
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self.bus.publish(events.SwarmReloading())
        self._selector.register(
            self._rehearsal.process.pidfd, selectors.EVENT_READ, lambda _: None
        )  # the pass reaps it

    def _hear_rehearsal(self, now: float) -> None:
        rehearsal = self._rehearsal
        assert rehearsal is not None
        rehearsal.forget()
        exit_ = reap(rehearsal.process)
        late = exit_ is None and (now > self._rehearsal_until or self.stopping)
        if exit_ is None and not late:
            return
        if late:
            rehearsal.end()
        verdict = rehearsal.verdict()
        self._forget_rehearsal()
        if self.stopping:
            self._refuse_reload("the swarm is being stopped")
        elif exit_ is None:
            limit = self.loaded.settings.supervision.reload_timeout
            self._refuse_reload(
                f"the new code and settings did not load within {limit:g} s (supervision.reload_timeout)"
            )
        elif exit_.code == 0:
            self._succeed()
        else:
            self._refuse_reload(verdict or exits.in_words(exit_.code, exit_.signal))

    def _forget_rehearsal(self) -> None:
        assert self._rehearsal is not None
        self._selector.unregister(self._rehearsal.process.pidfd)
        self._rehearsal.close()
        self._rehearsal = None

    def _refuse_reload(self, why: str, connection: Connection | None = None) -> None:
        if not self.stopping:
            self.reload_error = why
            self.bus.publish(events.ReloadRefused(why))
            self._notifier.send("READY=1")
        waiters, self._reload_waiters = self._reload_waiters, []
        for waiting in [*waiters, *([connection] if connection is not None else [])]:
            waiting.refuse(why)

    def _succeed(self) -> None:
        """Execute this program anew, in place. Returns only where that failed."""
        block_signals()  # from here on they wait for the successor
        self._signals.hear_again()
        self._reload_waiters += self._waiting.take_for_reload(
            "a reload has begun meanwhile, which replaces all workers"
        )
        self._notifier.excuse(2 * self.loaded.settings.supervision.reload_timeout)
        if self._listeners is not None:
            self._listeners.close()
        self._census.close()
        waiters = [connection.socket.fileno() for connection in self._reload_waiters if connection.open]
        left = Heritage(
            settings=self.loaded.settings.model_dump(mode="json", exclude_none=True),
            base_dir=str(self.loaded.base_dir),
            path=str(self.loaded.path) if self.loaded.path is not None else None,
            groups=self.groups,
            run_dir=str(self.run_dir),
            state_dir=str(self.state_dir),
            started_at=self.started_at,
            began=self.began,
            quiet=self.quiet,
            ever_came_up=self._ever_came_up,
            suspects=self.partitions.suspects.facts(),
            pauses=self.partitions.pauses.facts(),
            pid_file=self._pid_file.fd,
            control=self._control.listening,
            waiters=waiters,
            workers=[worker.bequeath() for worker in self.workers],
            observer=self._observing.bequeath(),
        )
        try:
            succeed(left)
        except OSError as error:
            unblock_signals()
            self._notifier.excuse(None)
            self._refuse_reload(f"the program could not be executed: {error.strerror}")

    def _inherit(self, left: Heritage) -> None:
        """Go on where the predecessor stopped: same pid, same workers, which are replaced one by one."""
        now = time.monotonic()
        self._reloading_since = now
        self.quiet = left.quiet
        self._ever_came_up = left.ever_came_up
        self._ready_said = True
        self._reload_waiters = [self._control.adopt(fd) for fd in left.waiters]
        if left.observer is not None:
            self._observing.adopt(left.observer)
        for worker, facts in zip(self.workers, left.workers, strict=True):
            worker.told_quiet = self.quiet
            worker.told_pauses = -1 if self.partitions.pauses else 0  # perhaps the last word had not gone through
            worker.told_suspects = (
                self.partitions.suspects.version
            )  # the old code goes on with what it knows of its killers
            if worker.process is not None:
                self._watch(worker)
            elif facts["pid"] is not None:
                self._warn(
                    f"worker {worker.index}, pid {facts['pid']}, was reaped by the application's code: how it ended is not known"
                )
        unblock_signals()
        self._notifier.excuse(None)
        self._notifier.send("READY=1")
        if self.reload_error:
            self.bus.publish(events.ReloadRefused(self.reload_error))
            for connection in self._reload_waiters:
                connection.refuse(self.reload_error)
            self._reload_waiters = []
            self._reloading_since = 0.0
            return
        self._before_reload = self._pids()
        try:
            self.scale(self.loaded.settings.swarm.workers)
        except OSError as error:
            self._warn(
                f"{plural(self._wanted, 'there is', 'there are')} still {counted(self._wanted, 'worker')}, no more: {error.strerror}"
            )
        self.restart(None)
        for worker in self.workers:
            worker.failures = 0  # those of the old code
        for connection in self._reload_waiters:
            self._waiting.add(connection, self._reloaded, now, for_reload=True)
        self._reload_waiters = []

    def _reloaded(self) -> Answer:
        return None if self._reloading_since else {"state": self.state}

    def _watch(self, worker: Worker) -> None:
        process = worker.process
        assert process is not None
        self._selector.register(process.pidfd, selectors.EVENT_READ, lambda _: self._reap(worker))
        if process.channel is not None:
            self._selector.register(process.channel, selectors.EVENT_READ, lambda _: self._hear_worker(worker))

    def _close_in_child(self) -> list[int]:
        fds = [self._selector.fileno(), *self._signals.fds, *self._control.fds, self._pid_file.fd, *self._notifier.fds]
        processes = [worker.process for worker in self.workers]
        if self._rehearsal is not None:
            processes.append(self._rehearsal.process)
        if self._listeners is not None:
            fds += self._listeners.fds
        for process in [*processes, self._observing.process, self._census.process]:
            if process is not None:
                fds.append(process.pidfd)
                if process.channel is not None:
                    fds.append(process.channel.fileno())
        return fds

    def _fork_observer(self, dump_fd: int) -> Process:
        boards = [worker.board for worker in self.workers]
        return fork_observer(
            self.loaded, boards, self.bulletin, dump_fd, self._close_in_child(), self.run_dir / "metrics"
        )

    def _fork(self, worker: Worker, now: float) -> None:
        if own_threads() != 1:
            # Cannot happen by our own code; a hook of the app's could have done it. A fork would copy a held lock.
            self._finish = Finish(exits.NOT_BOOTED, "the supervisor has more than one thread: it cannot fork safely")
            return
        worker.board.clear()
        worker.dump_from = os.fstat(worker.dump_fd).st_size
        try:
            process = fork_worker(
                worker.index,
                self.loaded,
                self.app,
                worker.board,
                lambda: self._make_worker_log(worker.index),
                worker.dump_fd,
                self._close_in_child(),
                self.partitions.suspects.facts(),
                self.partitions.pauses.facts(),
                self.state_dir,
                self.debugging.born(worker.index, now),
            )
        except OSError as error:
            worker.failures += 1
            worker.restart_at = now + max(1.0, self.restart_policy.delay(worker.failures))
            self._warn(f"worker {worker.index} could not be forked: {error.strerror}; trying again")
            return
        lifetime, messages = self.limits.max_lifetime, self.limits.max_messages
        worker.begin(process, now, lifetime * random.uniform(0.9, 1.1), math.ceil(messages * random.uniform(0.9, 1.1)))
        worker.told_suspects = self.partitions.suspects.version
        worker.told_pauses = self.partitions.pauses.version
        self._watch(worker)
        self._inform(worker)
        self.bus.publish(events.WorkerStarted(worker.index, process.pid, worker.restarts))

    def _inform(self, worker: Worker) -> None:
        """Let a worker know what it has to know and does not yet. What does not go through (it has not read for long) is said again."""
        if worker.process is None:
            return
        if worker.told_quiet != self.quiet and self._tell(worker, {"command": "quiet" if self.quiet else "resume"}):
            worker.told_quiet = self.quiet
        level = self.debugging.level_of(worker.index)
        if worker.told_level != level and self._tell(worker, {"command": "log_level", "level": level}):
            worker.told_level = level
        version = self.partitions.suspects.version
        if worker.told_suspects != version and self._tell(
            worker, {"command": "suspects", "suspects": self.partitions.suspects.facts()}
        ):
            worker.told_suspects = version
        version = self.partitions.pauses.version
        if worker.told_pauses != version and self._tell(
            worker, {"command": "pauses", "pauses": self.partitions.pauses.facts()}
        ):
            worker.told_pauses = version

    def _tell(self, worker: Worker, command: dict[str, Any]) -> bool:
        if worker.process is None or worker.process.channel is None:
            return False
        try:
            worker.process.channel.send(json.dumps(command).encode())
        except OSError:
            return False
        return True

    def _terminate(self, worker: Worker, reason: Reason, *, leave: bool, now: float) -> None:
        assert worker.process is not None
        worker.reason = reason
        worker.terminated_at = now
        worker.stop_deadline = now + self._shutdown_timeout
        worker.dump_from = os.fstat(worker.dump_fd).st_size
        self._tell(worker, {"command": "seat", "leave": leave})  # first: it is heard before the signal
        self._tell_share(worker, self._shutdown_timeout)
        self.bus.publish(events.WorkerStopping(worker.index, worker.process.pid, reason))
        send(worker.process, signal.SIGTERM)

    def _tell_share(self, worker: Worker, timeout: float) -> None:
        # One that is stuck is not asked to judge by itself when it is over: it says what holds it up, and is killed.
        then = "exit" if worker.reason in PLANNED else "wait"
        self._tell(worker, {"command": "drain", "within": own_share(timeout), "then": then})

    def _kill(self, worker: Worker, pid: int, reason: Reason) -> None:
        assert worker.process is not None
        if not send(worker.process, signal.SIGKILL):
            return
        if self.stopping:
            self._had_to_kill = True
        worker.killed = True
        path = self._write_incident(worker, pid, reason, "killed")
        self.bus.publish(events.WorkerKilled(worker.index, pid, reason, path))

    def _write_incident(self, worker: Worker, pid: int, reason: str, action: str) -> str:
        now = time.monotonic()
        path = incidents.write(
            self.state_dir,
            {
                "worker": worker.index,
                "pid": pid,
                "reason": reason,
                "action": action,
                "uptime": now - worker.started_at,
                "jobs": [
                    {
                        "group": job.group,
                        "topic": job.topic,
                        "partition": job.partition,
                        "first_offset": job.first_offset,
                        "last_offset": job.last_offset,
                        "attempt": job.attempt,
                        "age": now - job.started_at,
                        "limit": job.limit or None,
                    }
                    for job in worker.board.jobs()
                ],
                "memory": worker.memory,
                "error": worker.board.error,
                "log": self._last_lines(worker),
                "backtrace": worker.backtrace,
            },
        )
        if not path:
            self._warn(f"the incident of worker {worker.index} could not be written to {self.state_dir}")
        return path

    def _last_lines(self, worker: Worker) -> list[str]:
        from swarm.config import hidden

        own = [plan.kafka for plan in self.app.plans] if self.app is not None else []
        lines = worker.board.last_lines(incidents.LOG_LINES)
        for properties in (self.loaded.settings.kafka, *own):
            lines = [hidden(line, properties) for line in lines]
        return lines

    # -- exits -------------------------------------------------------------------------------------------------------

    def _reap(self, worker: Worker) -> None:
        process = worker.process
        if process is None:
            return
        used = memory.cpu_seconds(process.pid)  # as long as it is not reaped, also of a process that is dead
        exit_ = reap(process)
        if exit_ is None:
            return
        worker.cpu_before += used or 0.0
        now = time.monotonic()
        self._selector.unregister(process.pidfd)
        if process.channel is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(process.channel)
        worker.process = None
        process.close()
        worker.exited_once = True
        graceful = exit_.code == exits.SMOOTH and worker.board.state == "stopped"
        out_of_memory = exit_.signal == "SIGKILL" and self._oom_kills.explains(now)
        reason, detail = explain(worker, exit_, out_of_memory=out_of_memory)
        if out_of_memory or own_fault(worker, exit_, reason):
            self.partitions.suspect(worker)
        if not graceful:
            self.partitions.died(worker)
        if exit_.signal in exits.OWN_FAULTS:
            worker.backtrace = self._left_backtrace(worker, process.pid, now)
            self._write_incident(worker, process.pid, reason, f"died of {exit_.signal}")
        if exit_.code == exits.HELD_UP and worker.terminated_at:
            self._had_to_kill = self._had_to_kill or self.stopping
            worker.backtrace = self._left_backtrace(worker, process.pid, now)
            self.bus.publish(events.BacktraceDumped(worker.index, process.pid, worker.backtrace))
            path = self._write_incident(worker, process.pid, reason, "ended itself")
            self.bus.publish(events.WorkerKilled(worker.index, process.pid, reason, path, "itself"))
        if worker.came_up:
            self._ever_came_up = True
            worker.boot_failures = 0
        elif reason not in PLANNED:
            worker.boot_failures += 1
        worker.settling = worker.settling or (reason in PLANNED and not worker.retired)
        worker.restart_due = False
        if now - worker.started_at >= self.restart_policy.reset_after:
            worker.failures = 0
        delay = 0.0
        if reason not in PLANNED:
            worker.failures += 1
            delay = self.restart_policy.delay(worker.failures)
        worker.restart_at = now + delay
        worker.restarts_by_reason[reason] = worker.restarts_by_reason.get(reason, 0) + 1
        worker.last_exit = {
            "code": exit_.code,
            "signal": exit_.signal,
            "reason": reason,
            "detail": detail,
            "at": time.time(),
        }
        self.bus.publish(
            events.WorkerExited(worker.index, process.pid, exit_.code, exit_.signal, reason, detail, graceful)
        )
        if delay and not self.stopping and not worker.retired:
            self.bus.publish(events.WorkerBackoff(worker.index, delay, worker.failures))
        self._reap_strangers()  # it may have stood before them in the kernel's queue

    def _left_backtrace(self, worker: Worker, pid: int, now: float) -> str:
        """What a process wrote about its threads before it died."""
        return Backtrace(pid, worker.dump_fd, now, lambda _: None, lambda: labels(worker.board)).whole(worker.dump_from)

    # -- backtraces --------------------------------------------------------------------------------------------------

    def _asked(self, worker: Worker, process: Process) -> Asked:
        def tell() -> bool:  # not its successor
            return worker.process is process and self._tell(worker, {"command": "dump"})

        return Asked("worker", worker.index, process, worker.dump_fd, partial(labels, worker.board), tell)

    def _dump_for_fault(self, worker: Worker, now: float) -> None:
        assert worker.process is not None
        pid = worker.process.pid

        def done(text: str) -> None:
            if worker.process is None or worker.process.pid != pid:
                return  # it has ended meanwhile
            worker.backtrace = text
            worker.dump = "done"
            self.bus.publish(events.BacktraceDumped(worker.index, pid, text))
            if worker.reason is not None and not worker.terminated_at:  # else it is about to be killed
                self._write_incident(worker, pid, worker.reason, "being replaced")

        self._backtraces.ask(self._asked(worker, worker.process), done)

    def _dump_all(self, only: int | None, then: Callable[[list[Dumped]], None], own: str | None) -> None:
        """Backtraces of every process (or of one worker); `own` is this process's, taken already."""
        asked: list[Asked] = [
            self._asked(worker, worker.process)
            for worker in self.workers
            if worker.process is not None and only in (None, worker.index)
        ]
        if self._observing.process is not None and only is None:
            asked.append(Asked("observer", None, self._observing.process, self._observing.dump_fd, dict, None))
        mine: list[Dumped] = []
        if own is not None:
            mine = [{"process": "supervisor", "worker": None, "pid": os.getpid(), "text": own}]
        self._backtraces.ask_all(asked, lambda found: then(found + mine))

    def _profile(self, request: dict[str, Any], connection: Connection) -> None:
        """`swarmctl why WORKER --profile S`: what its threads are seen doing, and how often."""
        index, seconds = request.get("worker"), request.get("seconds")
        if type(index) is not int or not 0 <= index < len(self.workers):
            connection.refuse(f"there is no worker {index!r}: they are numbered 0 to {len(self.workers) - 1}")
            return
        if not isinstance(seconds, (int, float)) or not 0 < seconds <= LONGEST_PROFILE:
            connection.refuse(f"profile: expected up to {LONGEST_PROFILE:g} seconds, got {seconds!r}")
            return
        worker = self.workers[index]
        if worker.process is None:
            connection.refuse(f"worker {index} has no process at the moment")
            return

        def done(counted: Counter[str], asked: int) -> None:
            connection.answer({"samples": asked, "stacks": list(counted.items())})

        self._backtraces.sample(self._asked(worker, worker.process), seconds, done)

    def _publish_backtraces(self, found: list[Dumped]) -> None:
        for item in found:
            if item["process"] == "worker":
                self.bus.publish(events.BacktraceDumped(item["worker"], item["pid"], item["text"]))
            else:
                self.bus.publish(events.ProcessBacktraceDumped(item["process"], item["pid"], item["text"]))

    # -- signals, workers' messages, requests ------------------------------------------------------------------------

    def _hear_signals(self) -> None:
        for meaning in self._signals.read():
            match meaning:
                case "stop":
                    if self.stopping and time.monotonic() - self._stopping_since > SAME_SIGNAL:
                        self.at_once = True
                    self.stop("signal")
                case "stop_at_once":
                    self.at_once = True
                    self.stop("SIGQUIT")
                case "reload":
                    self.reload(None)
                case "quiet":
                    self.set_quiet(True)
                case "resume":
                    if self.quiet and not self.stopping:
                        self.set_quiet(False)
                case "backtrace":
                    self._dump_all(None, self._publish_backtraces, self._backtraces.own(self._own_dump))
                case "child":
                    self._reap_strangers()

    def _reap_strangers(self) -> None:
        ours = [worker.process.pid for worker in self.workers if worker.process is not None]
        if self._observing.process is not None:
            ours.append(self._observing.process.pid)
        if self._listeners is not None:
            ours += self._listeners.pids
        if self._census.process is not None:
            ours.append(self._census.process.pid)
        if self._rehearsal is not None:
            ours.append(self._rehearsal.process.pid)
        reap_strangers(ours)

    def stop(self, reason: str, timeout: float | None = None) -> None:
        """Begin the stop of the whole swarm."""
        if timeout is not None:
            self._shutdown_timeout = timeout
            for worker in self.workers:
                if worker.terminated_at:
                    worker.stop_deadline = min(worker.stop_deadline, time.monotonic() + timeout)
                    self._tell_share(worker, max(0.0, worker.stop_deadline - time.monotonic()))
        if self.stopping:
            return
        self.stopping = True
        self._observing.retire()
        self._census.close()
        self._waiting.refuse("the swarm is being stopped meanwhile")
        self._stopping_since = time.monotonic()
        self._notifier.send("STOPPING=1", "STATUS=stopping")
        self.bus.publish(events.SwarmStopping(reason))

    def set_quiet(self, on: bool) -> None:
        """Let all workers take no new jobs, or take them again."""
        if self.quiet == on or self.stopping:
            return
        self.quiet = on
        for worker in self.workers:
            self._inform(worker)
        if not on:
            self._quiet_said = False
            self.bus.publish(events.SwarmResumed())

    def _pause_partitions(self, request: dict[str, Any], connection: Connection, *, paused: bool) -> None:
        """Pause or resume partitions, whoever holds them."""
        try:
            held = self.partitions.say(request, groups_of(self), self._consumes, paused=paused)
        except ValueError as error:
            connection.refuse(str(error))
            return
        for worker in self.workers:
            self._inform(worker)
        connection.answer({"state": self.state, "held": held, "paused": self.partitions.pauses.facts()})

    def _subscriptions(self) -> dict[str, list[Plan]]:
        """By group. Imports the app where that is not loaded: in a child only, then."""
        settings = self.loaded.settings.swarm
        app = self.app
        if app is None:
            assert settings.app is not None
            app = load_app(settings.app, self.loaded.base_dir)
        return chosen_groups(app, settings)

    def _consumes(self, group: str | None, topic: str) -> bool:
        """Whether a subscription of the app, as far as it is known, means this topic."""
        if self.app is None:
            return True
        chosen = self._subscriptions()
        return any(plan.matches(topic) for name, plans in chosen.items() if group in (None, name) for plan in plans)

    def _hear_worker(self, worker: Worker) -> None:
        process = worker.process
        if process is None or process.channel is None:
            return
        try:
            while data := process.channel.recv(1 << 20):  # more than the kernel lets through in one piece
                message = json.loads(data)
                if "observed" in message:
                    self.observed.heard(worker.index, message["observed"])
                elif "answer" in message:
                    self._asking.hear(worker.index, process.pid, message)
                # else a state: it is in the scoreboard; that something changed is all that wakes us
        except BlockingIOError:
            return
        except OSError:
            pass
        self._selector.unregister(process.channel)

    def _request(self, request: dict[str, Any], connection: Connection) -> None:
        match request["command"]:
            case "status":
                connection.answer(self.status(full=True))
            case "why":
                connection.answer(circumstances.circumstances(self))
            case "profile":
                self._profile(request, connection)
            case "stop":
                timeout = request.get("timeout")
                if timeout is not None and not (isinstance(timeout, (int, float)) and 0 <= timeout < 1e9):
                    connection.refuse(f"stop: timeout: expected seconds of 0 or more, got {timeout!r}")
                    return
                self.stop("swarmctl stop", timeout)
                if request.get("wait", True):
                    self._stop_waiters.append(connection)
                else:
                    connection.answer({"state": "stopping"})
            case "backtrace":
                only = request.get("worker")
                if only is not None and not (isinstance(only, int) and 0 <= only < len(self.workers)):
                    connection.refuse(f"there is no worker {only!r}: they are numbered 0 to {len(self.workers) - 1}")
                    return
                if only is not None and self.workers[only].process is None:
                    connection.refuse(f"worker {only} has no process at the moment")
                    return
                own = self._backtraces.own(self._own_dump) if only is None else None
                self._dump_all(only, lambda found: connection.answer({"processes": found}), own)
            case "debug" | "log_level" as command:
                wrong = misfit(request, len(self.workers))
                if wrong or (self.stopping and command == "debug" and request.get("flags")):
                    connection.refuse(wrong or "the swarm is being stopped")
                elif command == "debug":
                    self._debug(request, connection)
                else:
                    self._set_log_level(request, connection)
            case "memory":
                memory_answer.answer(self, self._asking, self._tell, request, connection)
            case "quiet" | "resume" as command:
                self.set_quiet(command == "quiet")
                connection.answer({"state": self.state})
            case "restart" | "scale" | "pause_partitions" | "resume_partitions" if self.stopping:
                connection.refuse("the swarm is being stopped")
            case "pause_partitions" | "resume_partitions" as command:
                self._pause_partitions(request, connection, paused=command == "pause_partitions")
            case "restart":
                only = request.get("worker")
                if only is not None and not (isinstance(only, int) and 0 <= only < len(self.workers)):
                    connection.refuse(f"there is no worker {only!r}: they are numbered 0 to {len(self.workers) - 1}")
                    return
                done = self._wait_for_restart(only)
                self.restart(only)
                self._wait_or_answer(request, connection, done)
            case "scale":
                count = request.get("workers")
                if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_WORKERS:
                    connection.refuse(f"scale: expected 1 to {MOST_WORKERS} workers, got {count!r}")
                    return
                chosen = chosen_groups(self.app, self.loaded.settings.swarm) if self.app is not None else {}
                for plan, beyond in missing_workers(chosen, count):
                    connection.refuse(
                        f"scale: {plan.label} is placed on worker {beyond[-1]}, so {counted(beyond[-1] + 1, 'worker')} {plural(beyond[-1] + 1, 'is', 'are')} the fewest"
                    )
                    return
                try:
                    self.scale(count)
                except OSError as error:
                    connection.refuse(
                        f"scale: there is no room for {counted(count, 'worker')}: {error.strerror} (ulimit -n?)"
                    )
                    return
                self._wait_or_answer(request, connection, self._wait_for_scale(count))
            case "reload":
                self.reload(connection, wait=bool(request.get("wait", True)))
            case other:
                connection.refuse(f"unknown command {other!r}")

    def _debug(self, request: dict[str, Any], connection: Connection) -> None:
        """`swarmctl debug`: replace a worker by one whose clients tell more, or back; without flags: what is under way."""
        index, flags = request.get("worker"), request.get("flags")
        if index is not None and flags is not None:
            wait = self._wait_for_restart(index)
            debug = self.debugging.order(index, flags, float(request["seconds"]), self.state_dir)
            self.bus.publish(events.DebugBegun(index, flags, float(request["seconds"]), debug.path))
            self.restart(index)
        elif index is not None and request.get("off"):
            wait = self._wait_for_restart(index)
            if not self._end_debug(index, "swarmctl debug --off"):
                connection.refuse(f"worker {index} is not being debugged")
                return
        else:
            connection.answer({"debugged": self.debugging.facts(time.monotonic())})
            return

        def done() -> Answer:
            answer = wait()
            return {"debugged": self.debugging.facts(time.monotonic())} if isinstance(answer, dict) else answer

        self._wait_or_answer(request, connection, done)

    def _end_debug(self, index: int, why: str) -> bool:
        was = self.debugging.end(index)
        if index < len(self.workers) and (was or why != "swarmctl debug --off"):
            self.bus.publish(events.DebugEnded(index, why))
            self.restart(index)
        return was

    def _set_log_level(self, request: dict[str, Any], connection: Connection) -> None:
        """`swarmctl log-level`: of one worker, or of all and the supervisor, until the daemon's end or a reload."""
        only, level = request.get("worker"), request["level"]
        self.debugging.set_level(only, level)
        if only is None:
            self.log.set_level(level)
        for worker in self.workers:
            self._inform(worker)
        self.bus.publish(events.LogLevelSet(only, level))
        connection.answer({"state": self.state, "level": level})

    def _wait_or_answer(self, request: dict[str, Any], connection: Connection, done: Callable[[], Answer]) -> None:
        if request.get("wait", True):
            self._waiting.add(connection, done, time.monotonic())
        else:
            connection.answer({"state": self.state})

    # -- what is seen from outside -----------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """starting, running, quiet or stopping."""
        if self.stopping:
            return "stopping"
        states = [worker.board.state for worker in self.workers if worker.process is not None]
        if self.quiet and states and all(state == "quiet" for state in states):
            return "quiet"
        if not self._ready_said or not any(state in ("running", "quiet") for state in states):
            return "starting"
        return "running"

    def status(self, *, full: bool) -> dict[str, Any]:
        """The contract's status; `full` adds assignments and exact memory."""
        return snapshot(self, full=full)

    def _announce(self, now: float) -> None:
        changed = False
        for worker in self.workers:
            changed |= worker.notice(state_of(self, worker), now)
            if worker.process is None:
                continue
            if worker.came_up:
                self._ever_came_up = True
            if worker.join_tried and worker.board.state == "running":
                worker.join_tried = False
            if worker.settling and is_up(worker):
                worker.settling = False
            if not worker.ready_said and worker.board.state == "running":
                worker.ready_said = True
                self.bus.publish(events.WorkerReady(worker.index, worker.process.pid, now - worker.started_at))
                self.partitions.came_up(now)
        if not self._ready_said and all(worker.exited_once or worker.came_up for worker in self.workers):
            self._ready_said = True
            self._notifier.send("READY=1")
        if self._ready is not None and self._ready_said and self._ever_came_up:
            self._ready()
            self._ready = None
        state = self.state
        if state == "quiet" and not self._quiet_said:
            self._quiet_said = True
            self.bus.publish(events.SwarmQuiet())
        title = f"swarm: {self.name} [supervisor] {state}"
        if title != self._title:
            self._title = title
            import setproctitle

            setproctitle.setproctitle(title)
        running = sum(1 for worker in self.workers if worker.process is not None and worker.board.state == "running")
        restarts = sum(max(0, worker.restarts) for worker in self.workers)
        said = f"{state}: {running} of {counted(len(self.workers), 'worker')} running, {counted(restarts, 'restart')}"
        if said != self._said:
            self._said, changed = said, True
            self._notifier.send(f"STATUS={said}")
        if self.stopping and now >= self._extended_at + EXTENSION / 4:
            self._notifier.extend(EXTENSION)
            self._extended_at = now
        if self._notifier.watchdog is not None and now >= self._watchdog_at:
            self._notifier.send("WATCHDOG=1")
            self._watchdog_at = now + self._notifier.watchdog / 2
        if changed or now - self._posted_at >= POST_EVERY:
            self._posted_at = now
            self.bulletin.post(self.status(full=False))

    def _warn(self, what: str) -> None:
        self.bus.publish(events.SupervisorWarning(what))

    # -- the end -----------------------------------------------------------------------------------------------------

    def _end(self, finish: Finish) -> int:
        if finish.code == exits.NOT_BOOTED:
            errors = [str(worker.last_exit["detail"]) for worker in self.workers if worker.last_exit]
            self.bus.publish(events.SwarmFailed(": ".join([finish.reason, *errors[:1]])))
            if errors:
                print(f"swarmctl: {finish.reason}. The last error: {errors[0]}", file=sys.stderr)
        self._observing.end()
        seconds = time.monotonic() - self._stopping_since if self._stopping_since else 0.0
        self.bus.publish(events.SwarmStopped(finish.code, seconds))
        if self._listeners is not None:
            self._listeners.close()
        self._waiting.refuse("the swarm has ended meanwhile")
        for connection in self._stop_waiters:
            connection.answer({"code": finish.code, "seconds": seconds})
        self._control.close()
        self._pid_file.remove()
        self._signals.ignore()
        return finish.code
