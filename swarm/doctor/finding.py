"""What a rule is and what it finds. Knows no rule, no fact and no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from swarm.doctor.facts import Facts

Severity = Literal["info", "warning", "error"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")
"""The gravest first."""

Need = Literal[
    "app", "daemon", "cluster", "broker config", "topic config", "members", "holders", "looks", "batches", "stop limit"
]
"""A part of the facts without which a rule has nothing to look at."""


@dataclass(frozen=True, slots=True)
class Found:
    """One case of a rule. `severity`: where it differs from the rule's own."""

    what: str
    cause: str
    fix: str
    evidence: str
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Unasked:
    """A rule, or a part of it, for which a fact was missing after all: why."""

    why: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One check. `id` is stable: programs may rely on it. `looks_for` completes "looks for …"."""

    id: str
    severity: Severity
    looks_for: str
    find: Callable[[Facts], Iterable[Found | Unasked]]
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What `doctor` says: what is wrong, why, how to mend it, and the values that show it with where they come from."""

    rule: str
    severity: Severity
    what: str
    cause: str
    fix: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings, the gravest first, and which rules found nothing, and which could not be asked, wholly or in a part (with the reason)."""

    findings: tuple[Finding, ...]
    passed: tuple[Rule, ...]
    skipped: tuple[tuple[Rule, str], ...] = field(default=())

    @property
    def healthy(self) -> bool:
        """Whether there is neither a warning nor an error."""
        return all(finding.severity == "info" for finding in self.findings)
