"""The application as facts: loaded in short-lived children, so that nothing of it stays in the command's process. Judges nothing."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from swarm.doctor.facts import LIBRDKAFKA_DEFAULTS, Application, Group, Handoff, Subscription, Value, Write

if TYPE_CHECKING:
    from swarm.app import App
    from swarm.config import Loaded, Settings
    from swarm.plan import Plan

TIMEOUT: Final = 120.0
"""Seconds for a child that imports the application."""
AGAIN_WITHIN: Final = 5.0
"""Seconds that an import may have taken for a second one to be worth it although no group's name holds a digit."""
_LONGEST: Final = 300
"""Characters of an error's text."""
_READ: Final = (*LIBRDKAFKA_DEFAULTS, "partition.assignment.strategy", "client.id")

Problems = tuple[tuple[str, str, str, str], ...]


def application(loaded: Loaded) -> tuple[Application | None, Problems]:
    """What the application declares (None where it does not load), and what `swarmctl check` says. Forks: one thread only."""
    from swarm.supervisor.processes import in_child

    try:
        answer = in_child(lambda: _described(loaded), TIMEOUT)
    except (RuntimeError, TimeoutError) as error:
        return None, (("swarm.app", loaded.sources.get("swarm.app", ""), str(error), "Import it by hand to see why."),)
    problems = tuple((p["where"], p["source"], p["what"], p["fix"]) for p in answer["problems"])
    about = answer["app"]
    if about is None:
        return None, problems
    groups = tuple(_group(each) for each in about["groups"])
    again: tuple[str, ...] = ()
    failed = ""
    if any(c.isdigit() for group in groups for c in group.name) or about["took"] < AGAIN_WITHIN:
        try:
            answer = in_child(lambda: _again(loaded), TIMEOUT)
            again, failed = tuple(answer["names"]), _in_short(answer["failed"])
        except (RuntimeError, TimeoutError) as error:
            failed = _in_short(str(error))
    return Application(about["name"], groups, again, failed, about["bytes"], about["listeners"]), problems


def producer_in_use(loaded: Loaded) -> dict[str, Value]:
    """What producers are made with, of what the rules read."""
    from swarm.client import producer_properties

    found = {}
    for name, value in producer_properties(loaded.settings.kafka).items():
        known = {"request.required.acks": "acks"}.get(name, name)  # librdkafka's alias
        if known in ("acks", "enable.idempotence"):
            found[known] = Value(_written(value), _source(name, loaded, ()))
    return found


# -- in the child ----------------------------------------------------------------------------------------------------


def _described(loaded: Loaded) -> dict[str, Any]:
    from swarm.loading import secrets_of
    from swarm.preflight import check_here

    os.dup2(2, 1)  # what the app prints is not the command's answer
    try:
        about, app = _about(loaded)
    except BaseException:
        about, app = None, None  # why, `check_here` says
    hide = secrets_of(loaded.settings, app)  # those of a subscription's kafka=, too
    problems = [{name: hide(text) for name, text in problem.items()} for problem in check_here(loaded)]
    return {"app": about, "problems": problems}


def _about(loaded: Loaded) -> tuple[dict[str, Any], App]:
    from swarm.loading import load_app

    assert loaded.settings.swarm.app is not None
    before, began = _resident(), time.monotonic()
    app = load_app(loaded.settings.swarm.app, loaded.base_dir)
    after, took = _resident(), time.monotonic() - began
    about = {
        "name": app.name,
        "bytes": max(0, after - before),
        "took": took,
        "listeners": len(app.listeners),
        "groups": _groups(loaded, app),
    }
    return about, app


def _groups(loaded: Loaded, app: App) -> list[dict[str, Any]]:
    from swarm.config import fetch_budget
    from swarm.membership import group_properties
    from swarm.selection import chosen_groups, placed

    settings = loaded.settings
    groups = chosen_groups(app, settings.swarm)
    members = [set(placed(groups, index)) for index in range(settings.swarm.workers)]
    room = fetch_budget(settings, len(groups))
    found = []
    for name, plans in groups.items():
        in_use = group_properties(settings, name, plans, 0, room)
        if "client.id" not in {**settings.kafka, **{k: v for plan in plans for k, v in plan.kafka.items()}}:
            del in_use["client.id"]
        found.append(
            {
                "name": name,
                "source": _name_source(loaded, app, plans),
                "members": sum(name in mine for mine in members),
                "properties": {
                    key: [_written(in_use[key]), _source(key, loaded, plans)] for key in _READ if key in in_use
                },
                "subscriptions": [_subscription(loaded, plan) for plan in plans],
            }
        )
    return found


def _subscription(loaded: Loaded, plan: Plan) -> dict[str, Any]:
    from swarm.doctor.handoffs import handoffs
    from swarm.doctor.sharing import writes
    from swarm.plan import job_limit

    waits = plan.max_wait if plan.rate_limit is None and plan.not_before is None else 1e9
    try:
        found = writes(plan.handler, virtual=plan.virtual_partitions is not None)
    except Exception:  # best effort: code that cannot be read is no reason to say nothing of all else
        found = []
    try:
        # With these the application says itself what is done, or wants nothing to be done twice.
        marks_at_return = plan.offsets == "automatic" and plan.delivery != "at_most_once"
        let_go = handoffs(plan.handler) if marks_at_return else []
    except Exception:
        let_go = []
    return {
        "label": plan.label,
        "topics": plan.topics,
        "pattern": plan.pattern,
        "max_messages": plan.max_messages,
        "limit": job_limit(plan, loaded.settings.supervision.consume_timeout),
        "long_running": plan.long_running,
        "bound": plan.is_direct,
        "exactly_once": plan.exactly_once,
        "waits": waits,
        "dead_letter": plan.dead_letter.topic if plan.dead_letter is not None else None,
        "writes": [[each.kind, each.name, each.where, each.code] for each in found],
        "handoffs": [[each.kind, each.name, each.where, each.code, each.sure] for each in let_go],
    }


def _again(loaded: Loaded) -> dict[str, Any]:
    os.dup2(2, 1)
    return _groups_again(loaded)


def _groups_again(loaded: Loaded) -> dict[str, Any]:
    """The groups' names; or why the application, which did load a moment ago, does not like to be loaded a second time."""
    from swarm.loading import load_app
    from swarm.selection import chosen_groups

    assert loaded.settings.swarm.app is not None
    try:
        app = load_app(loaded.settings.swarm.app, loaded.base_dir)
        return {"names": list(chosen_groups(app, loaded.settings.swarm)), "failed": ""}
    except BaseException as error:
        return {"names": [], "failed": _without_secrets(f"{type(error).__name__}: {error}", loaded.settings)}


def _without_secrets(text: str, settings: Settings) -> str:
    """Also those of apps that came to be before their module failed: the error's frames hold them still."""
    from swarm.app import App
    from swarm.loading import secrets_of

    apps = [each for each in gc.get_objects() if issubclass(type(each), App)]
    for app in (each for each in apps if "plans" in vars(each)):  # not one whose name was refused
        text = secrets_of(settings, app)(text)
    return secrets_of(settings, None)(text)


def _name_source(loaded: Loaded, app: App, plans: Sequence[Plan]) -> str:
    own = next((plan for plan in plans if plan.group is not None), None)
    if own is not None:
        return f"group= of the {own.label}"
    if loaded.settings.swarm.group_id is not None:
        return f"swarm.group_id, {loaded.sources.get('swarm.group_id', 'default')}"
    return f"App({app.name!r})"


def _source(name: str, loaded: Loaded, plans: Iterable[Plan]) -> str:
    plan = next((plan for plan in plans if name in plan.kafka), None)
    if plan is not None:
        return f"kafka= of the {plan.label}"
    return loaded.sources.get(f"kafka.{name}", "default of kafka-swarm")


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


# -- back in the command ---------------------------------------------------------------------------------------------


def _in_short(text: str) -> str:
    """In one line, and not too long for a sentence."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _group(about: Mapping[str, Any]) -> Group:
    return Group(
        about["name"],
        about["source"],
        about["members"],
        tuple(
            Subscription(
                **{
                    **each,
                    "topics": tuple(each["topics"]),
                    "writes": tuple(Write(*write) for write in each["writes"]),
                    "handoffs": tuple(Handoff(*handoff) for handoff in each["handoffs"]),
                }
            )
            for each in about["subscriptions"]
        ),
        {name: Value(*value) for name, value in about["properties"].items()},
    )
