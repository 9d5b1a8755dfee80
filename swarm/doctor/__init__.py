"""`swarmctl doctor`: settings, application and the live cluster against every cause that the field knows.

`facts` says what is looked at; `gathering` looks, at the edge; the other modules hold the rules, pure functions from facts to what they
find, grouped by what they are about. `examine` asks them all.
"""

from __future__ import annotations

from typing import Final

from swarm.config import hidden
from swarm.doctor import durability, identity, progress, running, timing
from swarm.doctor.facts import Facts
from swarm.doctor.finding import SEVERITIES, Diagnosis, Finding, Found, Need, Rule, Unasked

RULES: Final = (*running.RULES, *identity.RULES, *timing.RULES, *progress.RULES, *durability.RULES)
"""All rules, in the order in which they are asked."""


def examine(facts: Facts) -> Diagnosis:
    """Ask every rule for which there are facts. Pure; what is secret in the settings is hidden in what is said."""
    findings: list[Finding] = []
    passed: list[Rule] = []
    skipped: list[tuple[Rule, str]] = []
    for rule in RULES:
        why = next((reason for need in rule.needs if (reason := _lacks(facts, need))), "")
        if why:
            skipped.append((rule, hidden(why, facts.settings.kafka)))
            continue
        answers = list(rule.find(facts))
        open_questions = [each.why for each in answers if isinstance(each, Unasked)]
        skipped += [(rule, hidden(why, facts.settings.kafka)) for why in open_questions]
        found = [
            Finding(
                rule.id,
                each.severity or rule.severity,
                *(hidden(text, facts.settings.kafka) for text in (each.what, each.cause, each.fix, each.evidence)),
            )
            for each in answers
            if isinstance(each, Found)
        ]
        findings += found
        if not answers:
            passed.append(rule)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Diagnosis(tuple(findings), tuple(passed), tuple(skipped))


def _lacks(facts: Facts, need: Need) -> str:
    """Why a part of the facts is not there; "" where it is."""
    match need:
        case "app":
            there = facts.app is not None
        case "daemon":
            there = facts.daemon is not None
        case "cluster":
            there = facts.cluster is not None
        case "broker config":
            there = facts.cluster is not None and bool(facts.cluster.config)
        case "topic config":
            there = facts.cluster is not None and any(topic.config for topic in facts.cluster.topics.values())
        case "members":
            there = facts.cluster is not None and bool(facts.cluster.groups)
        case "holders":
            there = facts.daemon is not None or facts.cluster is not None
            need = "cluster"
        case "looks":
            looks = facts.cluster.looks if facts.cluster is not None else ()
            there = len(looks) > 1 and bool(looks[-1].ends)
        case "batches":
            there = any(seen.count for seen in facts.batches)
        case "stop limit":
            there = facts.stop_limit is not None
    if there:
        return ""
    if facts.cluster is None and need in _OF_THE_CLUSTER:
        need = "cluster"
    noted = facts.cluster.missing if facts.cluster is not None and need in _OF_THE_CLUSTER else ()
    about = _OF_THE_CLUSTER.get(need)
    return next((note for note in noted if about and note.startswith(about)), facts.missing.get(need, _UNKNOWN[need]))


_OF_THE_CLUSTER: Final[dict[str, str]] = {
    "cluster": "",
    "broker config": "the brokers' configuration",
    "topic config": "topics' configuration",
    "members": "the group",
    "looks": "the ends",
}
"""How the survey's notes begin, where it could not ask for a part."""

_UNKNOWN: Final[dict[str, str]] = {
    "app": "the application does not load",
    "daemon": "no daemon runs here",
    "cluster": "the cluster was not asked",
    "broker config": "the brokers' configuration may not be read",
    "topic config": "the topics' configuration may not be read",
    "members": "the groups' members are not known",
    "looks": "there was one look only",
    "batches": "no batches were seen",
    "stop limit": "no unit and no manifest is known (--manifest F)",
}

__all__ = ["RULES", "Diagnosis", "Facts", "Finding", "Rule", "examine"]
