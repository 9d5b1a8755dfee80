"""Finding and importing the application that a setting names. Runs application code: in a worker, a child, or the supervisor's preload."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.app import App
from swarm.errors import AppError, ConfigurationError, SwarmError
from swarm.handlers import is_async, wants_consumer
from swarm.plan import LONGEST_TRANSACTION, Plan, job_limit
from swarm.scoreboard import MAX_GROUPS
from swarm.selection import choose, missing_workers, selection_problems
from swarm.wording import counted, plural

if TYPE_CHECKING:
    from swarm.config import Settings


def load_app(spec: str, base_dir: Path) -> App:
    """Import `module:attribute`; `base_dir` becomes first on sys.path. Raises AppError with the application's own frames."""
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise AppError(f"swarm.app: expected module:attribute such as shop.app:app, got {spec!r}.")
    path = str(base_dir)
    if sys.path[:1] != [path]:
        sys.path.insert(0, path)
    try:
        module = importlib.import_module(module_name)
    except SwarmError as error:
        raise AppError(f"swarm.app: {spec} does not load: {error}") from error
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise AppError(
                f"swarm.app: there is no module {error.name!r} ({spec}).\n"
                f"Looked in {base_dir} first, then in the installed packages. Set app in swarm.toml, or --app, to MODULE:APP."
            ) from None
        raise AppError(f"swarm.app: {spec} does not import: {error}.", own_frames(error)) from error
    except BaseException as error:
        what = str(error).strip().splitlines()
        raise AppError(
            f"swarm.app: {spec} does not import: {type(error).__name__}{': ' + what[0] if what else ''}.",
            own_frames(error),
        ) from error
    target: object = module
    for part in attribute.split("."):
        target = getattr(target, part, None)
    if target is None:
        apps = [name for name, value in vars(module).items() if isinstance(value, App)]
        hint = f" It has: {', '.join(apps)}." if apps else ' It has no App at all: write app = App("name").'
        raise AppError(f"swarm.app: module {module_name} has no {attribute!r} ({spec}).{hint}")
    if not isinstance(target, App):
        raise AppError(f'swarm.app: {spec} is a {type(target).__name__}, not a swarm.App. Write app = App("name").')
    return target


def own_frames(error: BaseException) -> str:
    """The traceback from the application's first frame on: what is ours or importlib's says nothing to its author."""
    if isinstance(error, SyntaxError):
        return "".join(traceback.format_exception_only(error)).rstrip()
    trace = error.__traceback__
    while trace is not None:
        # By module and not by file: in a checkout the supervisor's files lie beside those of `swarm`.
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in ("swarm", "importlib"):
            break
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip() if trace is not None else ""


def app_problems(app: App, default_group: str | None, settings: Settings | None = None) -> list[tuple[str, str, str]]:
    """What cannot work in an app as declared, also with these settings: (where, what, fix). Pure."""
    problems = []
    if not app.plans:
        problems.append(
            (
                f"App({app.name!r})",
                "it has no subscription, so there is nothing to consume",
                'Declare one with @app.subscribe("topic") or @app.each("topic"), in a module that the app\'s module imports.',
            )
        )
    groups: Mapping[str, Sequence[Plan]] = app.groups(default_group)
    if settings is not None:
        problems.extend(selection_problems(groups, settings.swarm))
        groups = choose(groups, settings.swarm)
        problems.extend(_missing_traces(settings))
        count = settings.swarm.workers
        for plan, beyond in missing_workers(groups, count):
            which = f"{plural(len(beyond), 'worker')} {', '.join(map(str, beyond))}"
            what = f"workers: it is placed on {which}, and {plural(count, 'there is', 'there are')} {counted(count, 'worker')}, numbered from 0"
            problems.append(
                (plan.label, what, f"Set swarm.workers to {beyond[-1] + 1} or more, or place it elsewhere.")
            )
        for plan in (plan for plans in groups.values() for plan in plans if plan.is_direct):
            if not settings.swarm.preload:
                what = "partitions: with swarm.preload = false a reload that moves a partition could not be refused"
                problems.append((plan.label, what, "Set swarm.preload to true, or leave out partitions=."))
    if len(groups) > MAX_GROUPS:
        what = f"it has {len(groups)} consumer groups, and a worker shows at most {MAX_GROUPS}"
        problems.append((f"App({app.name!r})", what, "Divide it into several apps, each a daemon of its own."))
    for group, plans in app.groups(default_group).items():
        problems.extend(_group_problems(group, plans))
    for plan in app.plans:
        if callable(plan.handler) and not isinstance(plan.handler, type):
            try:
                takes_consumer = wants_consumer(plan.handler)
            except ConfigurationError as error:
                problems.append(
                    (
                        plan.label,
                        str(error),
                        "Write def handler(messages) or def handler(messages, consumer).",
                    )
                )
                continue
            if plan.exactly_once and not takes_consumer:
                problems.append(
                    (
                        plan.label,
                        'delivery="exactly_once" on a function that does not take its Consumer: it has no way to produce into the transaction',
                        "Give the function a second parameter, consumer, and produce with consumer.producer.produce(…).",
                    )
                )
            elif plan.offsets == "manual" and not takes_consumer:
                problems.append(
                    (
                        plan.label,
                        'offsets="manual" on a function that does not take its Consumer: nothing could ever be marked',
                        "Give the function a second parameter, consumer, and call consumer.mark_as_consumed(message).",
                    )
                )
        if plan.exactly_once:
            problems.extend(_transaction_problems(plan, settings))
    return problems


def _transaction_problems(plan: Plan, settings: Settings | None) -> list[tuple[str, str, str]]:
    problems = []
    if is_async(plan.handler):
        problems.append(
            (
                plan.label,
                'delivery="exactly_once" on an async handler: a transaction belongs to one thread, and its commit would block the event loop',
                "Write a plain def handler, or use at_least_once.",
            )
        )
    if settings is None:
        return problems
    kafka = {**settings.kafka, **plan.kafka}
    if str(kafka.get("isolation.level", "read_committed")) != "read_committed":
        problems.append(
            (
                plan.label,
                'isolation.level=read_uncommitted beside delivery="exactly_once": it would handle messages of transactions that never happened',
                "Leave isolation.level out.",
            )
        )
    limit = job_limit(plan, settings.supervision.consume_timeout)
    given = settings.kafka.get("transaction.timeout.ms")
    # What is no number at all is librdkafka's to say (swarm.preflight), as is what a transactional producer refuses.
    if given is not None and limit and str(given).isdecimal() and int(given) < limit * 1000:
        problems.append(
            (
                plan.label,
                f"transaction.timeout.ms={given} is shorter than a job may run ({limit:g} s, consume_timeout): the broker would abort it in between",
                f"Set transaction.timeout.ms to {int(limit * 1000)} or more, leave it out, or lower consume_timeout.",
            )
        )
    elif given is None and limit > LONGEST_TRANSACTION:
        problems.append(
            (
                plan.label,
                f"a job may run for {limit:g} s (consume_timeout), and brokers allow transactions of {LONGEST_TRANSACTION:g} s",
                "Lower consume_timeout; or set transaction.timeout.ms, and transaction.max.timeout.ms of the brokers, above it.",
            )
        )
    return problems


def secrets_of(settings: Settings, app: App | None) -> Callable[[str], str]:
    """A function that takes the secrets of the settings, and of the app's `kafka=`, out of a text."""
    from swarm.config import hider

    return hider([settings.kafka, *(plan.kafka for plan in (app.plans if app is not None else ()))])


def _missing_traces(settings: Settings) -> Iterator[tuple[str, str, str]]:
    wanted = settings.instrumentation.traces
    needed = {"otlp": "opentelemetry.exporter.otlp.proto.http", "app": "opentelemetry.trace"}.get(wanted)
    try:
        if needed is None or importlib.util.find_spec(needed) is not None:
            return
    except ModuleNotFoundError:  # one of its parents
        pass
    yield (
        "instrumentation.traces",
        f"is {wanted!r}, and {needed} is not installed",
        'pip install "kafka-swarm[opentelemetry]"',
    )


def _group_problems(group: str, plans: list[Plan]) -> list[tuple[str, str, str]]:
    problems = []
    seen: dict[str, Plan] = {}
    for plan in plans:
        for topic in plan.topics:
            if topic in seen:
                problems.append(
                    (
                        plan.label,
                        f"topic {topic} is subscribed twice in group {group} (also by the {seen[topic].label})",
                        "Keep one of them, or give one a group= of its own: then each group gets every message.",
                    )
                )
            seen[topic] = plan
    direct = [plan for plan in plans if plan.is_direct]
    if direct and len(direct) < len(plans):
        other = next(plan for plan in plans if not plan.is_direct)
        problems.append(
            (
                direct[0].label,
                f"partitions: its partitions are bound to workers, while group {group} shares out those of the {other.label}",
                "A group cannot do both (the broker takes commits of its members only). Give one of the two a group= of its own.",
            )
        )
    for name, values in (
        ("kafka", [dict(plan.kafka) for plan in plans if plan.kafka]),
        ("delivery", [p.delivery for p in plans]),
    ):
        if any(value != values[0] for value in values):
            problems.append(
                (
                    f"group {group}",
                    f"its subscriptions differ in {name}=, but a group has one client per worker",
                    f"Give them the same {name}=, or one of them a group= of its own.",
                )
            )
    return problems


def foreign_threads() -> list[str]:
    """Threads of this process besides the main one: Python's by name, native ones by the kernel's name."""
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    main = os.getpid()  # threading.main_thread().native_id is the parent's after a fork
    names = []
    for task in os.listdir("/proc/self/task"):
        if int(task) == main:
            continue
        name = known.get(int(task))
        if name is None:
            try:
                name = Path(f"/proc/self/task/{task}/comm").read_text().strip() + " (native)"
            except OSError:
                continue  # it ended while we looked
        names.append(name)
    return sorted(names)


def refuse_threads() -> None:
    """Raise AppError if the app started threads or Kafka clients while it was loaded: neither survives the fork."""
    names = foreign_threads()
    if not names:
        return
    native = [name for name in names if name.startswith("rdk")]
    guess = " Those named rdk: are a Kafka client's." if native else ""
    raise AppError(
        f"swarm.app: loading the app started {counted(len(names), 'thread')}: {', '.join(names[:8])}.{guess}\n"
        "A thread or a Kafka client does not survive the fork of the workers.\n"
        "Create it in a function under @app.after_fork, or set preload = false so that each worker loads the app itself."
    )
