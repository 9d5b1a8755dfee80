"""Which of an app's groups and topics this swarm consumes. Pure: knows plans and settings, no client and no daemon."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from swarm.isolation import isolated, place
from swarm.plan import Plan

if TYPE_CHECKING:
    from swarm.app import App
    from swarm.config.schema import SwarmSection

Groups = Mapping[str, Sequence[Plan]]
Problem = tuple[str, str, str]
"""(where, what, fix)."""


def chosen_groups(app: App, settings: SwarmSection) -> dict[str, list[Plan]]:
    """What remains of the app's groups (`group.id` -> plans); empty where nothing does."""
    return choose(app.groups(settings.group_id), settings)


def choose(groups: Groups, settings: SwarmSection) -> dict[str, list[Plan]]:
    """The groups, subscriptions and topics that are included (all, where nothing is said) and not excluded.

    A subscription with a pattern is chosen by that pattern as it was written.
    """
    result = {}
    for group, plans in groups.items():
        if _is_chosen(group, settings.include_groups, settings.exclude_groups):
            left = [plan for plan in (_narrowed(plan, settings) for plan in plans) if plan is not None]
            if left:
                result[group] = left
    return isolated(result, settings.isolate) if settings.isolate is not None else result


def placed(groups: Groups, index: int) -> dict[str, list[Plan]]:
    """What worker `index` consumes of it: where a group has nothing for it, it is no member (`workers=`)."""
    mine = {
        group: [plan for plan in plans if plan.workers is None or index in plan.workers]
        for group, plans in groups.items()
    }
    return {group: plans for group, plans in mine.items() if plans}


def missing_workers(groups: Groups, count: int) -> list[tuple[Plan, list[int]]]:
    """Subscriptions that are placed on workers which `count` workers are too few for, and those workers."""
    found = []
    for plan in (plan for plans in groups.values() for plan in plans):
        beyond = sorted(index for index in plan.workers or () if index >= count)
        if beyond:
            found.append((plan, beyond))
    return found


def bound(groups: Groups) -> dict[str, dict[str, int]]:
    """Of each group whose partitions are bound to workers (`partitions=`): TOPIC/PARTITION -> the worker's index."""
    found: dict[str, dict[str, int]] = {}
    for group, plans in groups.items():
        for plan in plans:
            for index in plan.partitions or ():
                places = found.setdefault(group, {})
                places.update({f"{topic}/{partition}": index for topic, partition in plan.assigned_to(index)})
    return found


def rebound(before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]) -> str | None:
    """Why one map of bound partitions cannot follow the other while workers are replaced one by one; None: it can.

    The old worker would still have what the new one begins: nothing but these maps keeps two from consuming one partition.
    """
    for group in sorted(before.keys() | after.keys()):
        if group not in before or group not in after:
            kind = "bound to workers" if group in after else "shared out by the group"
            return f"group {group}: its partitions would be {kind} from now on"
        for where, index in sorted(after[group].items()):
            now = before[group].get(where, index)
            if now != index:
                return f"group {group}: {where} is bound to worker {now}, and would be to worker {index}"
    return None


def selection_problems(groups: Groups, settings: SwarmSection) -> list[Problem]:
    """Names that match nothing, and a selection that leaves nothing."""
    plans = [plan for group in groups.values() for plan in group]
    topics = {name for plan in plans for name in _names(plan)}
    problems = [
        *_strays("include_groups", settings.include_groups, set(groups), "groups"),
        *_strays("exclude_groups", settings.exclude_groups, set(groups), "groups"),
    ]
    for key, wanted in (("include_topics", settings.include_topics), ("exclude_topics", settings.exclude_topics)):
        for where, what, listed in _strays(key, wanted, topics, "topics"):
            by = next((plan for plan in plans if plan.pattern and any(map(plan.matches, wanted))), None)
            alone = (
                f"A topic of the {by.label} is not chosen alone: name the pattern, or have it match less." if by else ""
            )
            problems.append((where, what, alone or listed))
    problems += _caught_by_patterns(groups, settings)
    if settings.isolate is not None and not any(plan.matches(place(settings.isolate)[0]) for plan in plans):
        what = f"nothing in the app consumes {place(settings.isolate)[0]!r}"
        problems.append(("swarm.isolate", what, f"Its topics are {_listed(topics)}."))
    if not problems and plans and not choose(groups, settings):
        keys = ("include_groups", "exclude_groups", "include_topics", "exclude_topics")
        used = [key for key in keys if getattr(settings, key)]
        what = f"nothing is left to consume of groups {_listed(groups)} with topics {_listed(topics)}"
        problems.append((f"swarm.{used[0]}", what, f"Include more or exclude less ({', '.join(used)})."))
    return problems


def _caught_by_patterns(groups: Groups, settings: SwarmSection) -> list[Problem]:
    """Topics that are left out, and that a pattern which is left in would consume all the same."""
    kept = [plan for plans in choose(groups, settings.model_copy(update={"isolate": None})).values() for plan in plans]
    left_out = {
        name
        for plans in groups.values()
        for plan in plans
        for name in plan.topics
        if not _is_chosen(name, settings.include_topics, settings.exclude_topics)
    }
    key = "exclude_topics" if settings.exclude_topics else "include_topics"
    return [
        (
            f"swarm.{key}",
            f"{name!r} is left out, and the {plan.label} matches it",
            "Leave out that pattern, too, or have it match less.",
        )
        for plan in kept
        if plan.pattern is not None
        for name in sorted(left_out)
        if plan.matches(name)
    ]


def _narrowed(plan: Plan, settings: SwarmSection) -> Plan | None:
    """The plan with the topics that are chosen; None without any."""
    names = [name for name in _names(plan) if _is_chosen(name, settings.include_topics, settings.exclude_topics)]
    if not names:
        return None
    return plan if plan.pattern is not None else dataclasses.replace(plan, topics=tuple(names))


def _names(plan: Plan) -> tuple[str, ...]:
    return plan.topics if plan.pattern is None else (plan.pattern,)


def _is_chosen(name: str, included: Sequence[str], excluded: Sequence[str]) -> bool:
    return (not included or _matches(name, included)) and not _matches(name, excluded)


def _matches(name: str, wanted: Iterable[str]) -> bool:
    return any(name == each or fnmatchcase(name, each) for each in wanted)


def _strays(key: str, wanted: Iterable[str], known: set[str], what: str) -> list[Problem]:
    strays = [each for each in wanted if not any(_matches(name, [each]) for name in known)]
    if not strays:
        return []
    return [(f"swarm.{key}", f"the app has no {what} {_listed(strays)}", f"It has {_listed(known)}.")]


def _listed(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
