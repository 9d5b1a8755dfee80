"""What can be known to be wrong before anything runs: the app, and the properties that librdkafka refuses. Tried in short-lived children."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from swarm.app import App
from swarm.config import Problem
from swarm.config.kafka import check_properties, redact
from swarm.errors import AppError
from swarm.loading import app_problems, load_app, refuse_threads
from swarm.selection import bound, chosen_groups

if TYPE_CHECKING:
    from swarm.config import Loaded

TRY_TIMEOUT: Final = 20.0
"""Seconds for a child that tries properties; making a client takes some 20 ms, and asks no broker."""
CENSUS_PATIENCE: Final = 10.0
"""Seconds for which a broker is asked who is in a group."""
LOAD_TIMEOUT: Final = 120.0
"""Seconds for a child that also imports the app."""


def check(loaded: Loaded) -> list[Problem]:
    """All problems of app and properties; nothing is started and nothing stays. Forks: call it in a process with one thread."""
    from swarm.supervisor.processes import in_child

    try:
        answer = in_child(lambda: check_here(loaded), LOAD_TIMEOUT)
    except (RuntimeError, TimeoutError) as error:
        return [_problem(loaded, "swarm.app", str(error), "Import it by hand to see why.")]
    return [Problem(**problem) for problem in answer]


def effective(loaded: Loaded) -> dict[str, dict[str, Any]]:
    """librdkafka properties per group as worker 0 would use them, secrets redacted."""
    from swarm.supervisor.processes import in_child

    result: dict[str, dict[str, Any]] = in_child(lambda: _effective_here(loaded, None), LOAD_TIMEOUT)
    return {group: dict(redact(properties)) for group, properties in result.items()}


def dead_letter_topics(loaded: Loaded) -> list[str]:
    """The dead letter topics of the app's subscriptions. Forks, as `check` does. Raises AppError where the app does not load."""
    from swarm.supervisor.processes import in_child

    try:
        answer = in_child(lambda: _dead_letter_topics_here(loaded), LOAD_TIMEOUT)
    except (RuntimeError, TimeoutError) as error:
        raise AppError(f"swarm.app: {error}. Import it by hand to see why, or name the topics with --topic.") from None
    if "error" in answer:
        raise AppError(answer["error"], answer["frames"])
    topics: list[str] = answer["topics"]
    return topics


def bound_partitions(loaded: Loaded) -> dict[str, dict[str, int]]:
    """Which worker has which partitions, where the app says so (`swarm.selection.bound`). Forks, as `check` does."""
    from swarm.supervisor.processes import in_child

    result: dict[str, dict[str, int]] = in_child(lambda: _bound_here(loaded), LOAD_TIMEOUT)
    return result


def _bound_here(loaded: Loaded) -> dict[str, dict[str, int]]:
    os.dup2(2, 1)  # what the app prints is not the answer
    assert loaded.settings.swarm.app is not None
    return bound(chosen_groups(load_app(loaded.settings.swarm.app, loaded.base_dir), loaded.settings.swarm))


def refuse_company(loaded: Loaded, isolate: str) -> None:
    """Raises AppError where a group that `start --isolate` would join has members already, or nobody can say whether it has. Forks."""
    from swarm.isolation import company
    from swarm.supervisor.processes import in_child

    try:
        members = in_child(lambda: _members_here(loaded), LOAD_TIMEOUT)
    except (RuntimeError, TimeoutError) as error:
        raise AppError(
            f"--isolate {isolate}: it could not be found out whether the group has members ({error}).\n"
            "Is the broker there, and does the app load? With --join nobody asks."
        ) from None
    refusal = company(members, isolate, "swarmctl stop")
    if refusal:
        raise AppError(refusal)


def _members_here(loaded: Loaded) -> dict[str, int]:
    from swarm.client import common_properties

    os.dup2(2, 1)  # what the app prints is not the command's answer
    assert loaded.settings.swarm.app is not None
    app = load_app(loaded.settings.swarm.app, loaded.base_dir)
    found = {}
    for group, plans in chosen_groups(app, loaded.settings.swarm).items():
        properties: dict[str, Any] = dict(loaded.settings.kafka)
        for plan in plans:
            properties.update(plan.kafka)
        found[group] = _patiently(partial(_members_of, common_properties(properties), group))
    return found


def subscriptions(loaded: Loaded) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """What the app reads: group -> {"topics": names, "patterns": regular expressions}; and its dead letter topics. Forks, as `check` does.

    Raises AppError where the app does not load.
    """
    from swarm.supervisor.processes import in_child

    try:
        answer = in_child(lambda: _subscriptions_here(loaded), LOAD_TIMEOUT)
    except (RuntimeError, TimeoutError) as error:
        raise AppError(f"swarm.app: {error}. Import it by hand to see why.") from None
    if "error" in answer:
        raise AppError(answer["error"], answer["frames"])
    return answer["groups"], answer["dead_letters"]


def _members_of(properties: dict[str, Any], group: str) -> int:
    from swarm.admin import take_census

    return take_census(properties, group).members


def _patiently(ask: Callable[[], int]) -> int:
    """Ask again for a while: a group that nobody has used yet gets its coordinator with the first question (NOT_COORDINATOR)."""
    from confluent_kafka import KafkaException

    deadline = time.monotonic() + CENSUS_PATIENCE
    while True:
        try:
            return ask()
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def refused_properties(loaded: Loaded, app: App | None) -> list[Problem]:
    """What librdkafka says to the properties of each group: unknown names, values out of range, combinations that clash.

    With `preload = false` (app None) the child loads the app, and says also what is wrong with it.
    """
    from swarm.supervisor.processes import in_child

    if app is None:
        return check(loaded)
    try:
        answer = in_child(lambda: [vars_of(problem) for problem in _try_clients(loaded, app)], TRY_TIMEOUT)
    except (RuntimeError, TimeoutError) as error:
        return [_problem(loaded, "kafka", str(error), "Run swarmctl check.")]
    return [Problem(**problem) for problem in answer]


def vars_of(problem: Problem) -> dict[str, str]:
    """A Problem as JSON."""
    return {"where": problem.where, "source": problem.source, "what": problem.what, "fix": problem.fix}


def _problem(loaded: Loaded, where: str, what: str, fix: str) -> Problem:
    source = loaded.sources.get(where) or (str(loaded.path) if loaded.path else "settings")
    return Problem(where, source, what, fix)


def check_here(loaded: Loaded) -> list[dict[str, str]]:
    """What `check` finds, as JSON. It imports the app and makes clients: in a short-lived child only."""
    settings = loaded.settings
    assert settings.swarm.app is not None
    try:
        app = load_app(settings.swarm.app, loaded.base_dir)
        if settings.swarm.preload:
            refuse_threads()
    except BaseException as error:
        frames = getattr(error, "frames", "")
        text = str(error).removeprefix("swarm.app: ")
        return [vars_of(_problem(loaded, "swarm.app", f"{text}\n{frames}".strip(), ""))]
    problems = [
        Problem(where, loaded.sources.get(where, settings.swarm.app), what, fix)
        for where, what, fix in app_problems(app, settings.swarm.group_id, settings)
    ]
    problems += _try_clients(loaded, app)
    return [vars_of(problem) for problem in problems]


def _dead_letter_topics_here(loaded: Loaded) -> dict[str, Any]:
    os.dup2(2, 1)  # what the app prints is not the command's answer
    assert loaded.settings.swarm.app is not None
    try:
        app = load_app(loaded.settings.swarm.app, loaded.base_dir)
    except BaseException as error:
        return {"error": str(error), "frames": getattr(error, "frames", "")}
    return {"topics": sorted({plan.dead_letter.topic for plan in app.plans if plan.dead_letter is not None})}


def _subscriptions_here(loaded: Loaded) -> dict[str, Any]:
    os.dup2(2, 1)  # what the app prints is not the command's answer
    settings = loaded.settings.swarm
    assert settings.app is not None
    try:
        app = load_app(settings.app, loaded.base_dir)
    except BaseException as error:
        return {"error": str(error), "frames": getattr(error, "frames", "")}
    return {
        "groups": {
            group: {
                "topics": sorted({topic for plan in plans for topic in plan.topics}),
                "patterns": sorted({plan.pattern for plan in plans if plan.pattern is not None}),
            }
            for group, plans in app.groups(settings.group_id).items()
        },
        "dead_letters": sorted({plan.dead_letter.topic for plan in app.plans if plan.dead_letter is not None}),
    }


def _effective_here(loaded: Loaded, app: App | None) -> dict[str, dict[str, Any]]:
    from swarm.config import fetch_budget
    from swarm.membership import group_properties

    settings = loaded.settings
    if app is None:
        assert settings.swarm.app is not None
        app = load_app(settings.swarm.app, loaded.base_dir)
    groups = chosen_groups(app, settings.swarm)
    room = fetch_budget(settings, len(groups))
    return {group: group_properties(settings, group, plans, 0, room) for group, plans in groups.items()}


def _try_clients(loaded: Loaded, app: App) -> list[Problem]:
    from confluent_kafka import KafkaException

    from swarm.client import producer_properties, try_properties
    from swarm.plan import longest_job
    from swarm.producer import try_producer
    from swarm.transactions import transactional_properties

    settings = loaded.settings
    groups = chosen_groups(app, settings.swarm)
    problems: list[Problem] = []
    tries: list[tuple[str, Callable[[Mapping[str, Any]], None], Mapping[str, Any], str]] = []
    for group, plans in groups.items():
        for plan in plans:
            problems += check_properties(dict(plan.kafka), plan.label, settings.swarm.app or "")
        effective_there = _effective_here(loaded, app)[group]
        tries.append((f"group {group}", try_properties, effective_there, ", or in kafka= of the subscription"))
    user = dict(settings.kafka)
    plain = producer_properties(user)
    tries.append(("the producer", try_producer, plain, ""))
    all_plans = [plan for plans in groups.values() for plan in plans]
    if any(plan.exactly_once for plan in all_plans):
        limit = longest_job(all_plans, settings.supervision.consume_timeout)
        transactional = {**transactional_properties(user, plain, limit), "transactional.id": "check"}
        tries.append(("the transactional producer", try_producer, transactional, ""))
    seen: set[str] = set()
    for who, attempt, properties, or_there in tries:
        try:
            attempt(properties)
        except (KafkaException, TypeError, ValueError) as error:
            cause = error.args[0] if error.args else error
            text = (cause.str() if hasattr(cause, "str") else str(cause)).strip()
            if text not in seen:
                seen.add(text)
                named = [name for name in settings.kafka if f'"{name}"' in text or f"`{name}`" in text]
                problems.append(
                    _problem(
                        loaded,
                        f"kafka.{named[0]}" if named else "kafka",
                        f"{who}: librdkafka refuses these properties: {text}",
                        f"Mend it in [kafka] of the settings{or_there}; names are those of librdkafka's CONFIGURATION.md.",
                    )
                )
    return problems
