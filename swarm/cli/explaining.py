"""Commands that say why something is as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarm.cli.options import dump, json_option, load, run_dirs, with_settings
from swarm.cli.root import cli
from swarm.errors import SwarmError

if TYPE_CHECKING:
    from swarm.circumstances import Swarm, Worker
    from swarm.explanation import Answer
    from swarm.stacks import Stack


def _subject(_: click.Context, __: click.Parameter, value: str | None) -> int | tuple[str, int | None] | None:
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return int(value)
    topic, slash, number = value.rpartition("/")
    if not slash:
        return value, None
    if topic and number.isascii() and number.isdigit():
        return topic, int(number)
    raise click.BadParameter(
        f"expected a worker's number, TOPIC or TOPIC/PARTITION, such as 1 or orders/3, got {value!r}."
    )


@cli.command(short_help="Say what it is doing and why it does not advance.")
@click.argument("subject", metavar="[WORKER | TOPIC[/PARTITION]]", required=False, callback=_subject)
@click.option("--group", metavar="G", help="Only of this consumer group, where several consume the topic.")
@click.option(
    "--profile",
    "seconds",
    type=click.FloatRange(0.2, 60),
    metavar="S",
    help="Watch the threads of WORKER for S seconds, and say in which places they were how often.",
)
@with_settings
@json_option
def why(
    subject: int | tuple[str, int | None] | None,
    group: str | None,
    seconds: float | None,
    config: Path | None,
    overrides: tuple[str, ...],
    *,
    as_json: bool,
) -> int:
    """Say in one sentence what the swarm, a worker (its number) or a partition is doing and why it does not advance, then the
    evidence: what is in hand, where its thread is, which limits apply and when they strike, what failed, lag and its trend.

    \b
      swarmctl why
      swarmctl why 1
      swarmctl why orders/3
      swarmctl why 1 --profile 5
      swarmctl why --json | jq -r .verdict

    It needs no worker's answer, so it works where one is stuck in C code, stopped by a signal, or dead. Where the client reports
    errors it tries to reach the brokers, by one TCP connection each. Without a running daemon it tells from STATE_DIR what
    happened last. --profile takes a backtrace each 0.1 s, and native frames too where py-spy is installed (the extra
    "profile"). Exit code 0 whatever the verdict is; 1 where nothing could be said.
    """
    from swarm import control, explanation

    if seconds is not None and not isinstance(subject, int):
        raise click.UsageError("--profile is about one worker: swarmctl why 1 --profile 5.")
    if group is not None and not isinstance(subject, tuple):
        raise click.UsageError("--group is for a topic: swarmctl why orders/3 --group G.")
    dirs = run_dirs(config, overrides)
    try:
        answer = explain(dirs, subject, group, seconds)
    except control.NotRunning as absent:
        answer = _afterwards(config, overrides, str(absent), subject if isinstance(subject, int) else None)
    if as_json:
        dump(to_json(answer))
    else:
        click.echo("\n".join(explanation.lines(answer)))
    return 0


def explain(
    dirs: list[Path], subject: int | tuple[str, int | None] | None, group: str | None, seconds: float | None
) -> Answer:
    """Ask, look, judge. subject: a worker's index, or a topic and a partition (None: all); None: the whole swarm. seconds: of a profile,
    None: none. Raises NotRunning and the other errors of `swarm.control`. Blocks for as long as backtraces take."""
    import time
    from dataclasses import replace

    from swarm import control, verdict
    from swarm.circumstances import Swarm
    from swarm.explanation import Answer, stack_of
    from swarm.reach import reach
    from swarm.stacks import profile, whereabouts
    from swarm.stalls import waits_at
    from swarm.supervisor import incidents

    swarm = Swarm.of(control.request(dirs, "why")["result"])
    packages = [swarm.app.partition(":")[0].partition(".")[0]]
    if isinstance(subject, int) and subject not in {worker.index for worker in swarm.workers}:
        raise SwarmError(f"there is no worker {subject}: they are numbered 0 to {len(swarm.workers) - 1}")
    about = _about(swarm, subject, group)
    stacks = {worker.index: _stacks(dirs, worker) for worker in about if _can_tell(worker)}
    holders = {worker.index: _holder(worker) for worker in about if _can_tell(worker) and verdict.silent(swarm, worker)}
    workers = tuple(
        replace(
            worker,
            jobs=tuple(
                replace(
                    job,
                    where=whereabouts(found, packages),
                    waits=waits_at(found, stacks[worker.index], packages),
                    holds=job.thread == holders.get(worker.index),
                )
                if (found := stack_of(job, stacks.get(worker.index, ()), packages)) is not None
                else job
                for job in worker.jobs
            ),
        )
        for worker in swarm.workers
    )
    brokers = tuple(reach(swarm.bootstrap)) if _is_doubtful(swarm) else ()
    swarm = replace(swarm, workers=workers, brokers=brokers)
    if isinstance(subject, int):
        findings = verdict.of_worker(swarm, subject)
    elif subject is None:
        findings = verdict.of_swarm(swarm)
    elif subject[1] is None:
        findings = verdict.of_topic(swarm, subject[0], group)
    else:
        findings = verdict.of_partition(swarm, subject[0], subject[1], group)
    shown = [worker for worker in swarm.workers if worker.index in {each.index for each in about}]
    now = time.time()
    # Those of a worker that has one: what became of its predecessor explains where it is.
    listed = [
        each for worker in shown if worker.last_exit for each in incidents.read(Path(swarm.state_dir), 1, worker.index)
    ]
    answer = Answer(
        findings,
        swarm,
        shown,
        subject if isinstance(subject, tuple) else None,
        stacks,
        [{**each, "age": incidents.age(each, now)} for each in listed],
        packages=packages,
    )
    if seconds is not None and isinstance(subject, int):
        from swarm import native

        pid = shown[0].pid
        found = control.request(dirs, "profile", worker=subject, seconds=seconds, patience=seconds + 30.0)["result"]
        more = native.profile(pid, seconds) if pid is not None and native.is_there() else ""
        profiles = profile(((text, count) for text, count in found["stacks"]), packages)
        answer = replace(answer, profiles=profiles, samples=found["samples"], native=more)
    return answer


def _about(swarm: Swarm, subject: int | tuple[str, int | None] | None, group: str | None) -> list[Worker]:
    """The workers that the question is about; of a whole swarm, those in which a batch has been running for long, or that are ill."""
    from swarm import verdict

    if isinstance(subject, int):
        return [worker for worker in swarm.workers if worker.index == subject]
    if subject is not None:
        topic, partition = subject
        return [
            worker
            for worker in swarm.workers
            if any(
                each.topic == topic and partition in (None, each.partition) and group in (None, each.group)
                for each in worker.partitions
            )
        ][:3]
    ill = [
        worker
        for worker in swarm.workers
        if any(each.level in ("error", "warning") for each in verdict.of_worker(swarm, worker.index))
    ]
    return ill[:3]


def _can_tell(worker: Worker) -> bool:
    """Whether a backtrace of it is to be had; a process that is stopped would answer when it goes on."""
    return worker.pid is not None and worker.process_state not in ("T", "t", "Z", "X", "")


def _holder(worker: Worker) -> str:
    """The thread with a job that seems to hold Python's lock; empty where that cannot be seen."""
    from swarm.holding import watch

    native = dict(worker.threads)
    suspects = {native[job.thread]: job.thread for job in worker.jobs if job.thread in native}
    assert worker.pid is not None
    return suspects.get(watch(worker.pid, suspects) or 0, "")


def _stacks(dirs: list[Path], worker: Worker) -> Sequence[Stack]:
    from swarm import control
    from swarm.stacks import read

    try:
        found = control.request(dirs, "backtrace", worker=worker.index, patience=10.0)["result"]
    except control.Refused:  # it has ended meanwhile
        return []
    return read(str(found["processes"][0]["text"])) if found["processes"] else []


def _is_doubtful(swarm: Swarm) -> bool:
    """Whether the brokers may be away: only then somebody knocks at their doors."""
    from swarm.verdict import RECENT

    return any(
        (member.error_age is not None and member.error_age < RECENT)
        or (member.joined_for is None and worker.state == "starting" and (worker.uptime or 0.0) > 1.0)
        for worker in swarm.workers
        for member in worker.members
    )


def _afterwards(config: Path | None, overrides: Iterable[str], absent: str, worker: int | None) -> Answer:
    """No daemon runs: what is left behind tells what happened last."""
    import time

    from swarm import aftermath, journal_reader
    from swarm.config import find_state_dir
    from swarm.explanation import Answer
    from swarm.supervisor import incidents
    from swarm.verdict import Finding, spell

    settings = load(config, overrides, require_app=False, require_kafka=False).settings
    found = find_state_dir(settings)
    now = time.time()
    listed = [{**each, "age": incidents.age(each, now)} for each in incidents.read(found, 3, worker)] if found else []
    remains = [path for path in run_dirs(config, overrides) if (path / "swarm.pid").exists()]
    told = aftermath.tell(journal_reader.read([found]), now) if found else aftermath.Aftermath()
    text = f"{absent}; {told.ended}" if told.ended else absent
    mend = "swarmctl start"
    if remains:
        text += f"; {remains[0] / 'swarm.pid'} is left, so it did not end by itself: it was killed, or the machine went down"
        mend = "Look for its end in the kernel's log and the service manager's; then swarmctl start."
    if listed:
        last = listed[0]
        text += f"; the last incident was {spell(last['age'])} ago: worker {last.get('worker')}, {last.get('reason')} ({last.get('action')})"
    else:
        text += f"; there is no incident in {found}" if found else ""
    return Answer([Finding("not_running", "error", "swarm", text, mend)], incidents=listed, aftermath=told)


def to_json(answer: Answer) -> dict[str, Any]:
    """For `--json`."""
    from dataclasses import asdict

    from swarm.stacks import as_json

    verdict = answer.findings[0]
    return {
        "verdict": verdict.text,
        "rule": verdict.rule,
        "level": verdict.level,
        "findings": [asdict(each) for each in answer.findings],
        "facts": asdict(answer.swarm) if answer.swarm is not None else None,
        "threads": [
            {
                "worker": index,
                "thread": stack.name,
                "frames": [
                    {"file": f.file, "line": f.line, "name": f.name, "own": f.is_own(answer.packages)}
                    for f in stack.frames
                ],
            }
            for index, stacks in answer.stacks.items()
            for stack in stacks
        ],
        "incidents": list(answer.incidents),
        "profile": as_json(answer.profiles),
        "aftermath": asdict(answer.aftermath) if answer.aftermath is not None else None,
    }
