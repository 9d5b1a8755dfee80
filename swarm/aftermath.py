"""What a swarm that is gone did last, from its journal: for `swarmctl why` without a daemon. Pure: a history in, lines out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from swarm.exits import in_words
from swarm.journal_reader import Assignment, History, Run
from swarm.verdict import offsets, spell

DEEDS: Final = 6
"""Of the supervisor, that are told: the newest."""
RUNS: Final = 4


@dataclass(frozen=True, slots=True)
class Aftermath:
    """ended: how the last daemon ended, as a clause; empty where the journal does not say. in_hand: what nobody heard the end of; last: what
    was done last; deeds: what its supervisor did, the newest first."""

    ended: str = ""
    in_hand: list[str] = field(default_factory=list)
    last: list[str] = field(default_factory=list)
    deeds: list[str] = field(default_factory=list)


def tell(history: History, now: float) -> Aftermath:
    """Read a history at `now` (s since the epoch)."""
    deeds = sorted(history.deeds, key=lambda each: each[1].at, reverse=True)
    supervisors = sorted((each for each in history.processes if each.worker is None), key=lambda each: each.began_at)
    began = supervisors[-1].began_at if supervisors else 0.0
    stopped = next(
        (happened for _, happened in deeds if happened.what == "swarm_stopped" and happened.at >= began), None
    )
    ended = ""
    if stopped is not None:
        ended = f"it was stopped {spell(now - stopped.at)} ago, with exit code {stopped.data.get('code')}"
    elif supervisors:
        seen = max((each.seen_at for each in history.processes), default=began)
        ended = f"its journal ends {spell(now - seen)} ago without a stop"
    runs = [
        (assignment, run) for assignment in history.assignments() for run in assignment.runs if run.ended_at >= began
    ]
    in_hand = [each for each in runs if each[1].outcome == "in_hand"]
    done = sorted((each for each in runs if each[1].outcome != "in_hand"), key=lambda each: -each[1].ended_at)
    return Aftermath(
        ended,
        [_in_hand(*each, now) for each in sorted(in_hand, key=lambda each: -each[1].began_at)[:RUNS]],
        [_run(*each, now) for each in done[:RUNS]],
        [text for _, happened in deeds if (text := _deed(happened.what, happened.data, now - happened.at))][:DEEDS],
    )


def _place(assignment: Assignment, run: Run) -> str:
    return f"{assignment.topic}/{assignment.partition} {offsets(run.start, max(run.start, run.end - 1))}"


def _in_hand(assignment: Assignment, run: Run, now: float) -> str:
    who = f"worker {assignment.process.worker}"
    return f"{_place(assignment, run)}, attempt {run.attempt}, begun {spell(now - run.began_at)} ago by {who}: how it ended is not known"


def _run(assignment: Assignment, run: Run, now: float) -> str:
    error = f": {run.error}" if run.error else ""
    who = f"worker {assignment.process.worker}"
    return f"{spell(now - run.ended_at)} ago: {_place(assignment, run)} {run.outcome} by {who}{error}"


def _deed(what: str, data: dict[str, object], age: float) -> str:
    when = f"{spell(age)} ago: "
    match what:
        case "worker_exited":
            code, signal = data.get("code"), data.get("signal")
            words = str(data.get("detail") or "") or in_words(
                code if isinstance(code, int) else None, str(signal) if signal else None
            )
            return f"{when}worker {data.get('worker')} ended ({data.get('reason')}: {words})"
        case "worker_killed":
            return f"{when}worker {data.get('worker')} was killed ({data.get('reason')})"
        case "swarm_started" | "swarm_stopped" | "swarm_reloaded" | "swarm_scaled":
            return when + what.replace("_", " ")
        case _:
            return ""
