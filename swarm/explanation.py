"""What `swarmctl why` found out, as text for one screen. Takes facts and findings, returns lines; knows no socket, process or clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from swarm import display
from swarm.aftermath import Aftermath
from swarm.circumstances import Failure, Job, Partition, Swarm, Worker
from swarm.stacks import Stack, ThreadProfile, source_line
from swarm.verdict import Finding, number, offsets, spell
from swarm.wording import counted

_LABEL: Final = 11
"""Columns of the words at the left."""
MOST: Final = 8
"""Lines of one kind."""
FRAMES: Final = 6


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything about one question. findings: the verdict first. about: the workers it is about. incidents: the newest first, with `age`."""

    findings: Sequence[Finding]
    swarm: Swarm | None = None
    about: Sequence[Worker] = ()
    only: tuple[str, int | None] | None = None
    """Topic and partition (None: all of it) that were asked for."""
    stacks: Mapping[int, Sequence[Stack]] = field(default_factory=dict)
    incidents: Sequence[Mapping[str, Any]] = ()
    profiles: Sequence[ThreadProfile] = ()
    samples: int = 0
    native: str = ""
    aftermath: Aftermath | None = None
    """Of a daemon that is gone."""
    packages: Sequence[str] = ()


def lines(answer: Answer) -> list[str]:
    """The verdict, then its evidence."""
    verdict, *others = answer.findings
    found = [_sentence(verdict.text)]
    if verdict.mend:
        found += _labelled("mend", [verdict.mend])
    if others:
        found += _labelled("also", [_sentence(each.text) for each in others[:MOST]])
        if len(others) > MOST:
            found.append(" " * _LABEL + f"… and {len(others) - MOST} more: --json lists them")
    for worker in answer.about:
        found += ["", *_worker(answer, worker)]
    if answer.profiles:
        found += ["", *profile_lines(answer.profiles, answer.samples)]
    if answer.native:
        found += ["", answer.native.rstrip()]
    if answer.aftermath is not None:
        told = answer.aftermath
        for label, texts in (("in hand", told.in_hand), ("done last", told.last), ("events", told.deeds)):
            found += _labelled(label, texts)
    for incident in answer.incidents:
        found += ["", *_incident(incident, answer.packages)]
    return found


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "…")) else ".")


def _labelled(label: str, texts: Iterable[str]) -> list[str]:
    return [f"{label if first else '':<{_LABEL}}{text}" for first, text in zip(_firsts(), texts, strict=False)]


def _firsts() -> Iterable[bool]:
    yield True
    while True:
        yield False


# -- a worker --------------------------------------------------------------------------------------------------------


def _worker(answer: Answer, worker: Worker) -> list[str]:
    swarm = answer.swarm
    assert swarm is not None
    state = display.condition(worker.state, worker.health)
    since = f"up {spell(worker.uptime)}" if worker.pid is not None else "no process"
    if worker.state_for is not None:
        lasts = f"for {spell(worker.state_for)}"
        state = f"{state} {lasts}" if state == worker.state else f"{state} ({worker.state} {lasts})"
    head = [f"{state}, {since}, pid {worker.pid}" if worker.pid is not None else state]
    head.append(f"restarts {worker.restarts}, messages {number(worker.messages)}")
    if worker.cpu_percent is not None:
        head.append(f"cpu {worker.cpu_percent:.0f}%")
    if worker.memory is not None:
        head.append(f"memory {display.size(worker.memory)}")
    found = _labelled(f"worker {worker.index}", [", ".join(head)])
    jobs = [job for job in worker.jobs if _wanted(answer, job.topic, job.partition)]
    found += _labelled("in hand", [_job(job) for job in sorted(jobs, key=lambda each: -each.age)[:MOST]])
    found += _threads(answer, worker, jobs)
    found += _labelled("limits", _limits(swarm, worker, jobs))
    partitions = [each for each in worker.partitions if _wanted(answer, each.topic, each.partition)]
    found += _labelled("partitions", _partitions(partitions))
    failures = [each for each in worker.failures_seen if not each.topic or _wanted(answer, each.topic, each.partition)]
    found += _labelled("failures", [_failure(each) for each in failures[:MOST]])
    if worker.last_exit is not None:
        last = worker.last_exit
        facts = {"reason": last.reason, "detail": last.detail, "code": last.code, "signal": last.signal}
        found += _labelled("last exit", [f"{spell(last.age)} ago: {display.exit_in_words(facts)}"])
    return found


def _wanted(answer: Answer, topic: str, partition: int) -> bool:
    if answer.only is None:
        return True
    return topic == answer.only[0] and (answer.only[1] is None or partition in (-1, answer.only[1]))


def _job(job: Job) -> str:
    usual = f" (a batch takes {spell(job.usual)} on average)" if job.usual is not None else ""
    where = f"{job.topic}/{job.partition} {offsets(job.first_offset, job.last_offset)}"
    return f"{where}, attempt {job.attempt}, for {spell(job.age)}{usual}, in thread {job.thread or 'unknown'}"


def _threads(answer: Answer, worker: Worker, jobs: Sequence[Job]) -> list[str]:
    """The frames of the threads that run the jobs, the application's first."""
    stacks = answer.stacks.get(worker.index, ())
    found: list[str] = []
    for job in sorted(jobs, key=lambda each: -each.age)[:3]:
        stack = stack_of(job, stacks, answer.packages)
        if stack is not None:
            found += _labelled("thread", [f"{stack.name}, the innermost frame first", *frames(stack, answer.packages)])
    return found


def stack_of(job: Job, stacks: Sequence[Stack], packages: Sequence[str] = ()) -> Stack | None:
    """Where a job is to be seen: in its thread; an async handler's in the event loop's, where its thread only waits for that."""
    mine = next((each for each in stacks if each.name == job.thread), None)
    if mine is not None and not mine.own(packages):
        loop = next((each for each in stacks if each.name == "asyncio" and each.own(packages)), None)
        return loop or mine
    return mine


def frames(stack: Stack, packages: Sequence[str] = ()) -> list[str]:
    """The application's frames with their source, then what they have called in libraries."""
    own = stack.own(packages)
    shown = [
        f"  {frame.name} ({frame.short})   {source_line(frame.file, frame.line)}".rstrip() for frame in own[:FRAMES]
    ]
    if not own:
        shown = ["  (nothing of the application's; a coroutine that awaits something is on no thread's stack)"]
    at = stack.frames.index(own[0]) if own else min(3, len(stack.frames))
    inner = [frame for frame in stack.frames[:at] if own or frame.is_swarms][:3]
    if inner:
        shown.append("  inside: " + " < ".join(f"{frame.name} ({frame.short})" for frame in inner))
    return shown


def _limits(swarm: Swarm, worker: Worker, jobs: Sequence[Job]) -> list[str]:
    """Which limits apply, and when each would strike."""
    if worker.pid is None:
        return []
    limits = swarm.limits
    found = []
    for job in jobs:
        if job.limit is not None:
            found.append(_strikes("consume_timeout", job.limit, job.age, f"{job.topic}/{job.partition} runs"))
    if worker.report_age is not None:
        found.append(_strikes("report_timeout", limits.report_timeout, worker.report_age, "last report", ago=True))
    polls = [each for each in worker.members if each.poll_age is not None]
    if polls:
        latest = max(polls, key=lambda each: each.poll_age or 0.0)
        found.append(_strikes("poll_timeout", limits.poll_timeout, latest.poll_age or 0.0, "last poll", ago=True))
        found.append(
            _strikes("max.poll.interval.ms", latest.poll_interval, latest.poll_age or 0.0, "last poll", ago=True)
        )
    if limits.memory_limit and worker.memory is not None:
        kill = f", killed over {display.size(limits.memory_kill)}" if limits.memory_kill else ""
        share = 100 * worker.memory / limits.memory_limit
        found.append(f"memory_limit {display.size(limits.memory_limit)}: {share:.0f} % used{kill}")
    if worker.kill_in is not None:
        found.append(f"shutdown_timeout {spell(limits.shutdown_timeout)}: ends by force in {spell(worker.kill_in)}")
    return found


def _strikes(name: str, limit: float, age: float, what: str, *, ago: bool = False) -> str:
    since = f"{what} {spell(age)} ago" if ago else f"{what} for {spell(age)}"
    if age > limit:
        return f"{name} {spell(limit)}: {since}, it has struck"
    # What was just now is not about to strike.
    return f"{name} {spell(limit)}: {since}" + (f", strikes in {spell(limit - age)}" if age > 1.0 else "")


def _partitions(partitions: Sequence[Partition]) -> list[str]:
    """The laggards first."""
    shown = sorted(partitions, key=lambda each: (-(each.lag or 0), each.topic, each.partition))
    found = [_partition(each) for each in shown[:MOST]]
    if len(shown) > MOST:
        found.append(f"… and {len(shown) - MOST} more")
    return found


def _partition(each: Partition) -> str:
    lag = display.count(each.lag)
    if each.lag_trend is not None and abs(each.lag_trend) >= 0.5:
        lag += f" ({'+' if each.lag_trend > 0 else '-'}{number(abs(each.lag_trend))}/s)"
    phase = each.phase
    if each.waits_for and each.until_in:
        phase += f" ({each.waits_for}, {spell(each.until_in)} more)"
    words = [
        word
        for word, is_so in (
            ("paused by an operator", each.paused),
            ("offset out of range", each.out_of_range),
            ("start unknown", each.no_start),
            ("without a leader", each.leaderless),
            ("behind an open transaction", each.withheld),
            ("being handed over", each.closing),
            ("waits for an earlier job", each.succeeds),
        )
        if is_so
    ]
    facts = [f"{each.name}", f"lag {lag}", f"committed {display.count(each.committed)}", phase]
    if each.attempt > 1:
        facts.append(f"attempt {each.attempt}")
    if each.buffered:
        facts.append(f"{number(each.buffered)} in store")
    if each.rate:
        facts.append(f"{number(each.rate)} messages/s")
    elif each.lag and each.still_for:
        facts.append(f"still for {spell(each.still_for)}")
    return ", ".join([*facts, *words])


def _failure(each: Failure) -> str:
    where = (
        f"{each.topic}/{each.partition} "
        if each.topic and each.partition >= 0
        else f"{each.topic} "
        if each.topic
        else ""
    )
    span = f"{offsets(each.first_offset, each.last_offset)} " if each.first_offset >= 0 else ""
    attempt = f"attempt {each.attempt} " if each.attempt and each.kind == "handler" else ""
    times = f", {each.count} times in {spell(each.first_age)}" if each.count > 1 else ""
    again = f", again in {spell(each.again_in)}" if each.again_in else ""
    return f"{spell(each.age)} ago, {each.kind}: {where}{span}{attempt}{each.text.partition(chr(10))[0]}{times}{again}"


# -- more than a look ------------------------------------------------------------------------------------------------


def profile_lines(profiles: Sequence[ThreadProfile], samples: int) -> list[str]:
    """Shares of what each thread was seen doing; threads that only waited for work are named together."""
    found = [f"profile, {counted(samples, 'sample')}:"]
    idle = []
    for thread in profiles:
        shares = [share for share in thread.shares if not share.idle]
        if not shares:
            idle.append(thread.name)
            continue
        waited = sum(share.samples for share in thread.shares if share.idle)
        if waited:
            shares = [*shares]
        found.append(f"  {thread.name}")
        found += [
            f"    {100 * share.samples / thread.samples:3.0f} %  {' > '.join(share.path)}" for share in shares[:MOST]
        ]
        if waited:
            found.append(f"    {100 * waited / thread.samples:3.0f} %  waiting for work")
    if idle:
        found.append(f"  only waiting: {', '.join(idle)}")
    return found


def _incident(facts: Mapping[str, Any], packages: Sequence[str]) -> list[str]:
    from swarm.stacks import read

    age = facts.get("age")
    head = f"{spell(age)} ago: worker {facts.get('worker')}, {facts.get('reason')} ({facts.get('action')})"
    found = _labelled("incident", [head, str(facts.get("path", ""))])
    for job in facts.get("jobs") or ():
        span = offsets(job["first_offset"], job["last_offset"])
        found += _labelled(
            "",
            [f"in hand: {job['topic']}/{job['partition']} {span}, attempt {job['attempt']}, for {spell(job['age'])}"],
        )
    if facts.get("error"):
        found += _labelled("", [f"error: {str(facts['error']).partition(chr(10))[0]}"])
    stacks = [stack for stack in read(str(facts.get("backtrace") or "")) if stack.own(packages)]
    for stack in stacks[:3]:
        found += _labelled("", [f"{stack.name}:", *frames(stack, packages)])
    if not stacks and str(facts.get("backtrace") or "").startswith("("):
        found += _labelled("", [str(facts["backtrace"])])
    return found
