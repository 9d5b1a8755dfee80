"""A diagnosis as text for people and as JSON. Asks nobody; prints nothing."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable
from typing import Any, Final

from swarm.config import Problem
from swarm.doctor import RULES
from swarm.doctor.finding import SEVERITIES, Diagnosis, Finding
from swarm.wording import counted

WIDTH: Final = 100
_LABEL: Final = 10


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """What `--json` prints; beside the contract's findings also which rules passed, and which could not be asked and why."""
    return {
        "findings": [dataclasses.asdict(finding) for finding in diagnosis.findings],
        "passed": [rule.id for rule in diagnosis.passed],
        "not_checked": [{"rule": rule.id, "why": why} for rule, why in diagnosis.skipped],
    }


def text(diagnosis: Diagnosis, *, verbose: bool) -> str:
    """For people: the findings, the gravest first, and one line that sums them up. verbose: also what was in order."""
    parts = [_finding(finding) for finding in diagnosis.findings]
    if verbose:
        lines = [f"ok        {rule.id}: {_plain(rule.looks_for)}" for rule in diagnosis.passed]
        lines += [f"skipped   {rule.id}: {why}" for rule, why in diagnosis.skipped]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, _summary(diagnosis)])


def of_problems(problems: Iterable[Problem]) -> Diagnosis:
    """Settings that do not hold: nothing else can be looked at."""
    rule = next(rule for rule in RULES if rule.id == "check_fails")
    found = tuple(
        Finding(
            rule.id,
            rule.severity,
            f"{each.where}: {each.what}",
            "The settings do not hold, so nothing starts, and nothing else was looked at.",
            each.fix or "swarmctl check shows all of it.",
            f"{each.where} ({each.source})",
        )
        for each in problems
    )
    return Diagnosis(found, (), tuple((other, "the settings do not hold") for other in RULES if other is not rule))


def _finding(finding: Finding) -> str:
    lines = [f"{finding.severity:<{_LABEL}}{_plain(finding.what)}"]
    for label, said in (("cause", finding.cause), ("fix", finding.fix), ("evidence", finding.evidence)):
        lines += textwrap.wrap(
            _plain(said),
            WIDTH,
            initial_indent=f"  {label + ':':<{_LABEL}}",
            subsequent_indent=" " * (_LABEL + 2),
            break_on_hyphens=False,
        )
    return "\n".join([*lines, f"  {'rule:':<{_LABEL}}{finding.rule}"])


def _summary(diagnosis: Diagnosis) -> str:
    reasons = dict.fromkeys(_plain(why) for _, why in diagnosis.skipped)
    skipped = f" {len(diagnosis.skipped)} could not be made: {'; '.join(reasons)}." if reasons else ""
    counts = [
        counted(count, severity, "info" if severity == "info" else "")
        for severity in SEVERITIES
        if (count := sum(finding.severity == severity for finding in diagnosis.findings))
    ]
    if diagnosis.healthy:
        remarks = f" Remarks: {counts[0]}." if counts else ""
        return f"everything is in order ({counted(len(diagnosis.passed), 'check')}).{remarks}{skipped}"
    return f"{', '.join(counts)}; {counted(len(diagnosis.passed), 'check')} found nothing.{skipped}"


def _plain(said: str) -> str:
    """One line; what a name or an error holds must not draw on the terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(said.split())).replace("`", "")
