"""`decide` under random histories: a small model of processes and a clock, and the promises that must hold in all of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from swarm.supervisor.policy import (
    BOOT_TRIES,
    MEMORY_SAMPLES,
    MOST_REBUILDS,
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
    WorkerView,
    decide,
    own_share,
    wake_gap,
)

LIMITS = Limits(
    report_timeout=30.0,
    poll_timeout=60.0,
    join_timeout=200.0,
    shutdown_timeout=20.0,
    memory_limit=100,
    memory_kill=200,
    standing_timeout=40.0,
)
JOB_LIMIT = 300.0
FAULTS = {
    "report_timeout",
    "poll_timeout",
    "consume_timeout",
    "partition_stands",
    "memory_kill",
    "join_stuck",
    "fenced",
}


@dataclass
class Process:
    """What the kernel knows of a process, and what was done to it."""

    pid: int
    view: WorkerView
    obeys_term: bool
    done: list[Action] = field(default_factory=list)
    planned: bool = False
    """It is being replaced, and nothing was wrong with it."""


@dataclass
class Slot:
    """One index over its processes."""

    index: int
    process: Process | None = None
    restart_at: float = 0.0
    failures: int = 0
    boot_failures: int = 0
    retired: bool = False
    settling: bool = False
    join_tried: bool = False


class Supervision(RuleBasedStateMachine):
    """The loop's part, written down once more in few words: carry out what is decided, fold in what happens."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.pids = 100
        self.stopping = self.at_once = self.ever_came_up = self.had_to_kill = False
        self.forgiven_at = 0.0
        self.finished: Finish | None = None
        self.policy = RestartPolicy()

    @initialize(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        self.slots = [Slot(index) for index in range(count)]
        self.decide()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def view(self) -> SwarmView:
        return SwarmView(
            tuple(
                slot.process.view
                if slot.process is not None
                else WorkerView(
                    slot.index,
                    restart_at=slot.restart_at,
                    retired=slot.retired,
                    settling=slot.settling,
                    boot_failures=slot.boot_failures,
                )
                for slot in self.slots
            ),
            self.stopping,
            self.at_once,
            self.ever_came_up,
            self.had_to_kill,
            self.forgiven_at,
        )

    def decide(self) -> None:
        """Ask until there is nothing left to do at this instant: at most TERM, backtrace and KILL one after the other."""
        for _ in range(4):
            actions = decide(self.view(), LIMITS, self.now)
            assert len({getattr(action, "index", -1) for action in actions}) == len(actions), f"two at once: {actions}"
            for action in actions:
                self.carry_out(action)
            if not actions or self.finished is not None:
                return
        raise AssertionError(f"the same facts ask for more and more: {actions}")

    def carry_out(self, action: Action) -> None:
        assert self.finished is None
        if isinstance(action, Finish):
            assert not self.alive(), "it left processes behind"
            assert action.code == (1 if not self.stopping else 2 if self.had_to_kill else 0)
            self.finished = action
            return
        slot = self.slots[action.index]
        if isinstance(action, Fork):
            assert slot.process is None, "two processes of one index"
            assert not self.stopping, "forked during the stop"
            assert self.now >= slot.restart_at, "forked before its backoff was over"
            assert not slot.retired, "forked although it was scaled away"
            self.pids += 1
            view = WorkerView(slot.index, self.pids, self.now, settling=slot.settling, join_tried=slot.join_tried)
            slot.process = Process(self.pids, view, obeys_term=True)
            return
        process = slot.process
        assert process is not None, f"an action on a dead process: {action}"
        assert process.pid == action.pid, f"an action on a dead process: {action}"
        view, before = process.view, list(process.done)
        process.done.append(action)
        if isinstance(action, Dump):
            assert view.dump == "none", "a second backtrace for one end"
            if action.reason == "join_stuck":
                assert not slot.join_tried, "replaced for its join although that had not helped"
                slot.join_tried = True
            reason = action.reason if action.reason == "memory_kill" else view.reason or action.reason
            process.view = replace(view, dump="pending", reason=reason)
        elif isinstance(action, Terminate):
            assert not any(isinstance(past, Terminate | Kill) for past in before), "terminated twice"
            if action.reason in FAULTS:
                assert view.dump == "done", "a fault without its backtrace"
            if action.reason in PLANNED and not self.stopping and not slot.retired:
                unsettled = [other.index for other in self.slots if other.settling and not other.retired]
                assert not unsettled, "replaced before the successor of the one before was running"
                leaving = [other.index for other in self.slots if other.retired and other.process is not None]
                assert not leaving, "replaced while somebody was leaving for good"
                process.planned = True
            process.view = replace(
                view, terminated_at=self.now, stop_deadline=self.now + LIMITS.shutdown_timeout, reason=action.reason
            )
        else:
            assert view.dump == "done", "killed without a backtrace"
            assert not any(isinstance(past, Kill) for past in before), "killed twice"
            if action.reason != "memory_kill":
                assert any(isinstance(past, Terminate) for past in before), "killed before it was asked to go"
                assert self.at_once or self.now >= max(view.terminated_at, self.forgiven_at) + LIMITS.shutdown_timeout
            self.had_to_kill = self.had_to_kill or self.stopping
            found = {past.reason for past in before if isinstance(past, Dump | Terminate)}
            if (
                view.memory > LIMITS.memory_kill
            ):  # while it drains for another reason: the kill itself says so, with its incident
                found.add("memory_kill")
            assert action.reason in found, "killed for a reason that nothing was said of before"
            process.view = replace(view, killed=True, reason=action.reason)

    def alive(self) -> list[Process]:
        return [slot.process for slot in self.slots if slot.process is not None]

    def reap(self, slot: Slot) -> None:
        assert slot.process is not None
        view, slot.process = slot.process.view, None
        planned = view.reason in PLANNED
        slot.settling = slot.settling or (planned and not slot.retired)
        if view.came_up:
            self.ever_came_up, slot.boot_failures = True, 0
        elif not planned:
            slot.boot_failures += 1
        if self.now - view.started_at >= self.policy.reset_after:
            slot.failures = 0
        slot.failures += not planned
        slot.restart_at = self.now + (0.0 if planned else self.policy.delay(slot.failures))

    def step(self, seconds: float) -> None:
        """Time passes, dumps get whole, processes go that were told to, healthy ones report."""
        self.now += seconds
        for slot in self.slots:
            process = slot.process
            if process is None:
                continue
            if process.view.killed or (process.view.terminated_at and process.obeys_term):
                self.reap(slot)
            elif process.view.dump == "pending":
                process.view = replace(process.view, dump="done")
        self.decide()

    # -- what happens ------------------------------------------------------------------------------------------------

    running = precondition(lambda self: self.finished is None)
    some = precondition(lambda self: self.finished is None and bool(self.alive()))
    which = st.integers(0, 3)

    def pick(self, which: int) -> Process:
        alive = self.alive()
        return alive[which % len(alive)]

    @running
    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 20.0, 31.0]), reporting=st.booleans())
    def time_passes(self, seconds: float, reporting: bool) -> None:
        for process in self.alive() if reporting else ():
            if process.view.came_up:
                poll_at = self.now + seconds if process.view.poll_at else 0.0
                process.view = replace(process.view, report_at=self.now + seconds, poll_at=poll_at)
        self.step(seconds)

    @some
    @rule(which=which)
    def comes_up(self, which: int) -> None:
        process = self.pick(which)
        process.view = replace(process.view, came_up=True, report_at=self.now, poll_at=self.now, settling=False)
        process.view = replace(process.view, join_tried=False, join_stuck_since=0.0)
        self.ever_came_up = True
        slot = next(slot for slot in self.slots if slot.process is process)
        slot.settling = slot.join_tried = False

    @running
    @rule()
    def somebody_asks_for_a_restart(self) -> None:
        for process in self.alive():
            process.view = replace(process.view, restart_due=not process.view.terminated_at)
        self.decide()

    @running
    @rule(count=st.integers(1, 4))
    def somebody_scales(self, count: int) -> None:
        """Down: those with the highest numbers; up: those that are still leaving come back after that."""
        for slot in self.slots:
            slot.retired = slot.index >= count
            if slot.process is not None:
                slot.process.view = replace(slot.process.view, retired=slot.retired)
        self.slots += [Slot(index) for index in range(len(self.slots), count)]
        self.decide()

    @some
    @rule(which=which)
    def dies(self, which: int) -> None:
        process = self.pick(which)
        self.reap(next(slot for slot in self.slots if slot.process is process))
        self.decide()

    @some
    @rule(which=which, obeys=st.booleans())
    def obeys(self, which: int, obeys: bool) -> None:
        self.pick(which).obeys_term = obeys

    @some
    @rule(which=which, busy=st.booleans())
    def begins_or_ends_a_job(self, which: int, busy: bool) -> None:
        process = self.pick(which)
        process.view = replace(process.view, jobs=((self.now, JOB_LIMIT),) if busy else ())

    @some
    @rule(which=which, stands=st.booleans())
    def a_partition_stands_or_moves(self, which: int, stands: bool) -> None:
        process = self.pick(which)
        process.view = replace(process.view, stands_since=self.now if stands else 0.0)

    @some
    @rule(which=which, memory=st.sampled_from([50, 150, 250]))
    def uses_memory(self, which: int, memory: int) -> None:
        process = self.pick(which)
        over = process.view.memory_over + 1 if memory > LIMITS.memory_limit else 0
        process.view = replace(process.view, memory=memory, memory_over=over)

    @some
    @rule(which=which)
    def cannot_join(self, which: int) -> None:
        process = self.pick(which)
        process.view = replace(process.view, join_stuck_since=process.view.join_stuck_since or self.now)

    @some
    @rule(which=which, rebuilds=st.sampled_from([1, MOST_REBUILDS]))
    def meets_fatal_errors(self, which: int, rebuilds: int) -> None:
        process = self.pick(which)
        process.view = replace(process.view, rebuilds=rebuilds)
        self.decide()

    @some
    @rule(which=which, messages=st.sampled_from([0, 50, 150]))
    def handles_messages(self, which: int, messages: int) -> None:
        process = self.pick(which)
        process.view = replace(process.view, messages=messages, message_limit=100)

    @some
    @rule(which=which, lifetime=st.sampled_from([0.0, 15.0, 100.0]))
    def has_a_lifetime(self, which: int, lifetime: float) -> None:
        process = self.pick(which)
        process.view = replace(process.view, lifetime=lifetime)

    @running
    @rule(seconds=st.floats(10.0, 10_000.0))
    def the_machine_stands_still(self, seconds: float) -> None:
        """Nothing ran meanwhile: whoever was in order before is not faulted, and whoever was draining is not killed."""
        before = decide(self.view(), LIMITS, self.now)
        self.now += seconds
        self.forgiven_at = self.now
        woken = decide(self.view(), LIMITS, self.now)
        fresh = [a for a in woken if a not in before and isinstance(a, Dump | Kill)]
        assert not fresh, "it blamed a process for the machine's standstill"
        self.decide()

    @running
    @rule()
    def stop(self) -> None:
        self.at_once = self.stopping
        self.stopping = True
        self.decide()

    @rule()
    def the_loop_comes_round(self) -> None:
        """A finished swarm stays finished; else asking again changes nothing that was not waiting to be done."""
        if self.finished is not None:
            assert decide(self.view(), LIMITS, self.now) == [self.finished]
        else:
            self.decide()

    # -- always ------------------------------------------------------------------------------------------------------

    @invariant()
    def one_planned_replacement_at_a_time(self) -> None:
        if hasattr(self, "slots"):
            assert sum(process.planned for process in self.alive()) <= 1

    def comes_to_rest(self) -> None:
        """Where nothing is wrong with any process any more, each index has one in the end, and nothing is done to it."""
        for _ in range(400):
            if self.finished is not None:
                return
            for slot in self.slots:
                process = slot.process
                if process is not None and process.view.reason is None and not process.view.terminated_at:
                    view = WorkerView(slot.index, process.pid, process.view.started_at, retired=slot.retired)
                    now: dict[str, Any] = {"came_up": True, "report_at": self.now + 1.0, "poll_at": self.now + 1.0}
                    process.view = replace(view, **now)
                    self.ever_came_up, slot.settling = True, False
                elif process is not None:
                    process.obeys_term = True
            self.step(1.0)
        assert [slot.process is not None for slot in self.slots] == [not slot.retired for slot in self.slots]
        assert not any(process.view.terminated_at for process in self.alive())
        assert decide(self.view(), LIMITS, self.now) == []

    def teardown(self) -> None:
        """From any state a stop comes to its end, whatever the processes do."""
        if not hasattr(self, "slots"):
            return
        if self.finished is None and not self.stopping:
            self.comes_to_rest()
        if self.finished is None:
            self.stopping = True
            self.decide()
        for _ in range(100):
            if self.finished is not None:
                return
            self.step(1.0)
        raise AssertionError(f"no end: {self.view()}")


Supervision.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_supervision = Supervision.TestCase


def up(index: int = 0, *, now: float = 1000.0, **more: Any) -> WorkerView:
    """A worker that is in order at `now`."""
    facts: dict[str, Any] = {
        "pid": 100 + index,
        "started_at": 10.0,
        "report_at": now,
        "poll_at": now,
        "came_up": True,
        **more,
    }
    return WorkerView(index, **facts)


def swarm(*workers: WorkerView, **more: Any) -> SwarmView:
    return SwarmView(workers, ever_came_up=True, **more)


def test_a_worker_that_was_scaled_away_is_no_hope_for_one_that_never_comes_up() -> None:
    """Its tries are over, and the other one will make none."""
    view = SwarmView((WorkerView(0, boot_failures=3), WorkerView(1, retired=True)))

    assert decide(view, LIMITS, 1000.0) == [Finish(1, "no worker came up in 3 tries each")]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"report_at": 969.0}, "report_timeout"),
        ({"poll_at": 939.0}, "poll_timeout"),
        ({"jobs": ((650.0, 0.5), (699.0, 300.0))}, "consume_timeout"),
        ({"jobs": ((990.0, 30.0), (699.0, 300.0))}, "consume_timeout"),
        ({"stands_since": 919.0}, "partition_stands"),
        ({"join_stuck_since": 799.0}, "join_stuck"),
        ({"rebuilds": MOST_REBUILDS}, "fenced"),
        ({"memory": 201}, "memory_kill"),
    ],
)
def test_each_fault_takes_the_backtrace_first(facts: dict[str, Any], reason: Reason) -> None:
    """A worker that is stuck or far too large is dumped, then ended, each under the fault's own name."""
    worker = up(**facts)

    first = decide(swarm(worker), LIMITS, 1000.0)
    found = replace(worker, reason=reason, dump="pending")
    meanwhile = decide(swarm(found), LIMITS, 1000.5)
    then = decide(swarm(replace(found, dump="done")), LIMITS, 1001.0)

    assert first == [Dump(0, 100, reason)]
    assert meanwhile == []
    assert then == [Kill(0, 100, reason) if reason == "memory_kill" else Terminate(0, 100, reason)]


def test_a_worker_in_order_is_left_alone() -> None:
    """Within every limit nothing is done, however slow its job or far behind its group is."""
    late: dict[str, Any] = {"stands_since": 921.0, "join_stuck_since": 801.0}
    jobs = ((701.0, 300.0), (950.0, 60.0))
    worker = up(report_at=971.0, poll_at=941.0, jobs=jobs, memory=100, rebuilds=4, **late)

    assert decide(swarm(worker), LIMITS, 1000.0) == []


def test_a_partition_that_stands_is_no_fault_where_nobody_looks_at_that() -> None:
    """`standing_timeout = 0` switches the rule off; and a machine that slept gives the partition its time again."""
    view = up(stands_since=100.0)

    assert decide(swarm(view), replace(LIMITS, standing_timeout=0.0), 1000.0) == []
    assert decide(swarm(view, forgiven_at=930.0), LIMITS, 1000.0) == []
    assert decide(swarm(view, forgiven_at=919.0), LIMITS, 1000.0) == [Dump(0, 100, "partition_stands")]


def test_a_job_that_was_overdue_before_the_machine_stood_still_ends_all_the_same() -> None:
    """A standstill gives every job its whole limit again, once: it never exempts one for good."""
    view = swarm(up(jobs=((100.0, 300.0),), now=5000.0), forgiven_at=5000.0)

    assert decide(view, LIMITS, 5000.0 + 300.0 - 1) != [Dump(0, 100, "consume_timeout")]
    alive = swarm(up(jobs=((100.0, 300.0),), now=5301.0), forgiven_at=5000.0)
    assert decide(alive, LIMITS, 5301.0) == [Dump(0, 100, "consume_timeout")]


def test_a_standstill_during_a_drain_gives_the_drain_its_time_again() -> None:
    """The worker could not drain while nothing ran, so its deadline does not count that time."""
    worker = up(terminated_at=1000.0, stop_deadline=1020.0, reason="requested", dump="done")

    assert decide(swarm(worker, stopping=True, forgiven_at=4000.0), LIMITS, 4019.0) == []
    assert decide(swarm(worker, stopping=True, forgiven_at=4000.0), LIMITS, 4020.0) == [Kill(0, 100, "requested")]


def test_a_process_is_killed_once() -> None:
    """Until the kernel has ended it nothing more is done to it: each kill is an incident and an event."""
    worker = up(terminated_at=900.0, stop_deadline=920.0, reason="requested", dump="done", memory=300, killed=True)

    assert decide(swarm(worker, stopping=True, at_once=True), LIMITS, 1000.0) == []


def test_the_soft_memory_limit_replaces_one_worker_after_three_samples() -> None:
    """A passing batch does not cost a worker, and two fat workers are not drained at once."""
    fat: dict[str, Any] = {"memory": 150, "memory_over": MEMORY_SAMPLES}

    assert decide(swarm(up(memory=150, memory_over=MEMORY_SAMPLES - 1)), LIMITS, 1000.0) == []
    assert decide(swarm(up(0, **fat), up(1, **fat)), LIMITS, 1000.0) == [Terminate(0, 100, "memory_limit")]


def test_a_stuck_join_replaces_a_worker_once() -> None:
    """Where that did not help, doing it again does not; nor where the rule is off, or the machine had stood still."""
    stuck = up(join_stuck_since=799.0)

    assert decide(swarm(replace(stuck, join_tried=True)), LIMITS, 1000.0) == []
    assert decide(swarm(stuck), replace(LIMITS, join_timeout=0.0), 1000.0) == []
    assert decide(swarm(stuck, forgiven_at=900.0), LIMITS, 1000.0) == []


def test_workers_that_have_handled_their_share_are_recycled_one_at_a_time() -> None:
    """At the limit, not before it; 0 is no limit; a job in hand does not end for it, for it is a drain."""
    done: dict[str, Any] = {"messages": 100, "message_limit": 100, "jobs": ((999.0, 300.0),)}

    assert decide(swarm(up(messages=99, message_limit=100), up(1, messages=10**9)), LIMITS, 1000.0) == []
    assert decide(swarm(up(0, **done), up(1, **done)), LIMITS, 1000.0) == [Terminate(0, 100, "max_messages")]
    assert decide(swarm(up(0, **done), up(1, settling=True)), LIMITS, 1000.0) == []


def test_workers_that_are_old_enough_are_replaced_one_at_a_time() -> None:
    """Beyond the lifetime, not at it; 0 is no limit."""
    assert decide(swarm(up(started_at=900.0, lifetime=100.0), up(1, started_at=0.0)), LIMITS, 1000.0) == []
    old = [up(index, started_at=899.0, lifetime=100.0) for index in range(2)]
    assert decide(swarm(*old), LIMITS, 1000.0) == [Terminate(0, 100, "lifetime")]
    assert decide(swarm(old[0], up(1, settling=True)), LIMITS, 1000.0) == []


def test_nobody_is_replaced_by_plan_while_another_leaves_for_good() -> None:
    """A reload that wants fewer workers: the surplus goes first, all of it, then the others are replaced one by one."""
    due = up(0, restart_due=True)
    surplus = up(2, retired=True)
    leaving = replace(surplus, terminated_at=1000.0, stop_deadline=1020.0, reason="requested")

    assert decide(swarm(due, surplus), LIMITS, 1000.0) == [Terminate(2, 102, "requested")]
    assert decide(swarm(due, leaving), LIMITS, 1000.0) == []
    assert decide(swarm(due, WorkerView(2, retired=True)), LIMITS, 1000.0) == [Terminate(0, 100, "requested")]


@pytest.mark.parametrize(
    ("report", "poll", "gap"), [(30.0, 60.0, 5.0), (3.0, 60.0, 2.4), (30.0, 2.0, 1.6), (0.5, 0.5, 1.0)]
)
def test_a_standstill_is_noticed_before_it_could_look_like_stuck_workers(
    report: float, poll: float, gap: float
) -> None:
    """With short timeouts a short one counts, too; but a loop that is a little late is no standstill."""
    assert wake_gap(replace(LIMITS, report_timeout=report, poll_timeout=poll)) == pytest.approx(gap)


def test_a_swarm_that_never_came_up_gives_up_after_three_tries_each() -> None:
    """A worker that has had its tries waits for the others', so that the end comes however long their boots take."""
    failed = WorkerView(0, boot_failures=BOOT_TRIES)
    trying = WorkerView(1, boot_failures=BOOT_TRIES - 1)
    booting = WorkerView(1, pid=7, started_at=995.0, boot_failures=BOOT_TRIES - 1)

    assert decide(SwarmView((failed, trying)), LIMITS, 1000.0) == [Fork(1)]
    assert decide(SwarmView((failed, booting)), LIMITS, 1000.0) == []
    [end] = decide(SwarmView((failed, replace(trying, boot_failures=BOOT_TRIES))), LIMITS, 1000.0)
    assert isinstance(end, Finish)
    assert end.code == 1


def test_a_swarm_in_which_one_worker_ever_came_up_goes_on_trying() -> None:
    """Giving up is for what cannot work at all, not for a worker that cannot come up today."""
    failed = WorkerView(0, boot_failures=50)

    assert decide(swarm(failed, failed), LIMITS, 1000.0) == [Fork(0), Fork(0)]


@given(
    initial=st.floats(0.0, 10.0),
    factor=st.floats(1.0, 100.0),
    maximum=st.floats(0.0, 1000.0),
    failures=st.integers(1, 10_000),
)
def test_restart_delays_are_the_contract_s(initial: float, factor: float, maximum: float, failures: int) -> None:
    """`initial` first, then max(initial, 0.5) * factor^k, never above `maximum`, never falling."""
    policy = RestartPolicy(initial, factor, maximum)

    delay = policy.delay(failures)

    if failures == 1:
        assert delay == min(initial, maximum)
    elif failures <= 10:
        assert delay == pytest.approx(min(max(initial, 0.5) * factor ** (failures - 1), maximum))
    assert 0.0 <= delay <= maximum
    assert policy.delay(failures + 1) >= delay


def test_the_default_delays() -> None:
    """At once, then 1, 2, 4, … 30 s."""
    policy = RestartPolicy()

    assert [policy.delay(n) for n in range(1, 9)] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@given(st.floats(0.001, 7 * 86400.0))
def test_a_worker_s_own_end_comes_before_the_supervisor_s_but_not_long_before(timeout: float) -> None:
    """At least nine tenths of the time are for the jobs, and all but a second of a long one."""
    own = own_share(timeout)

    assert 0.0 < own < timeout
    assert own >= max(0.9 * timeout, timeout - 1.0) - 1e-6
