"""An audit as text for people. Computes nothing."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence

from swarm.audit import Finding, Report
from swarm.wording import counted, plural

WIDTH = 120
MOST_NAMES = 8
"""Daemons, or groups, that are named."""


def plain(report: Report) -> str:
    """The whole answer."""
    looked = (
        f"{counted(report.messages, 'message')} of {counted(report.partitions, 'partition')}, "
        f"processed by {counted(report.processes, 'process', 'processes')}"
    )
    parts = [f"{_count(len(report.duplicates), 'duplicate')}, {_count(len(report.gaps), 'gap')} in {looked}"]
    if report.daemons:
        groups = f"; {plural(len(report.groups), 'group')} {_some(report.groups)}" if report.groups else ""
        others = "What other daemons have done is in their journals (--journal)."
        parts.append(f"Looked at: {_some(report.daemons)}{groups}. {others}")
    for title, findings in (("duplicate", report.duplicates), ("gap", report.gaps)):
        for finding in findings:
            parts.append(_finding(title, finding))
    if report.duplicates:
        causes = Counter(finding.cause for finding in report.duplicates)
        parts.append("Causes: " + ", ".join(f"{cause} {count}" for cause, count in causes.most_common()))
    if report.unexplained:
        parts.append(f"{report.unexplained} of them unexplained.")
    parts += [f"{part[0].upper()}{part[1:]}." for part in report.missing]
    parts += [f"Passed over: {trouble}" for trouble in report.troubles]
    return "\n".join(parts)


def _finding(title: str, finding: Finding) -> str:
    first, last = finding.first_offset, finding.last_offset
    offsets = f"{first}" if first == last else f"{first}..{last}"
    head = f"\n{title}: {finding.cause}  {finding.topic}/{finding.partition} {offsets}  group {finding.group}"
    body = textwrap.fill(
        finding.evidence, WIDTH, initial_indent="    ", subsequent_indent="    ", break_long_words=False
    )
    return f"{head}\n{body}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _count(number: int, noun: str) -> str:
    return counted(number, noun) if number else f"no {noun}s"
