"""Rules about the processes: the application as it loads and runs, memory, versions, and what the daemon says by itself. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from swarm.allocator import ARENAS, chosen_arenas
from swarm.doctor.facts import Facts, Write, listed
from swarm.doctor.finding import SEVERITIES, Found, Rule
from swarm.doctor.versions import defects_of
from swarm.wording import counted

MANY_ARENAS: Final = 4
"""Arenas of glibc from which on a worker may hold much more than it uses; ours are two."""
LARGE_IMPORT: Final = 16 << 20
"""Bytes that an import takes from which on sharing them is worth looking at."""
_MIB: Final = 1 << 20


def _check_fails(facts: Facts) -> Iterator[Found]:
    for where, source, what, fix in facts.problems:
        yield Found(
            f"{where}: {what.splitlines()[0] if what else 'does not work'}",
            "swarmctl start would refuse it, or its workers would not come up.",
            fix or "swarmctl check shows all of it.",
            f"{where} ({source})",
        )


# -- what the daemon says --------------------------------------------------------------------------------------------


def _told(rule: str) -> Callable[[Facts], Iterable[Found]]:
    def find(facts: Facts) -> Iterator[Found]:
        for each in facts.daemon.findings if facts.daemon is not None else ():
            if each.get("rule") == rule:
                yield _found(each)

    return find


def _told_otherwise(facts: Facts) -> Iterator[Found]:
    known = {rule.id for rule in RULES}
    for each in facts.daemon.findings if facts.daemon is not None else ():
        if each.get("rule") not in known:
            yield _found(each)


def _found(each: Mapping[str, Any]) -> Found:
    what, cause, fix, evidence = (str(each.get(name, "")) for name in ("what", "cause", "fix", "evidence"))
    severity = each.get("severity")
    return Found(what, cause, fix, evidence, severity if severity in SEVERITIES else None)


def _reload_refused(facts: Facts) -> Iterator[Found]:
    if facts.daemon is not None and facts.daemon.reload_error:
        yield Found(
            "the newest code or settings are not in use",
            "The last reload was refused; the workers run what was loaded before.",
            "Mend it (swarmctl check), then swarmctl reload.",
            facts.daemon.reload_error,
        )


def _listeners(facts: Facts) -> Iterator[Found]:
    told = list(_told("listener_fails")(facts))
    yield from told
    failing = [w for w in facts.daemon.workers if w.listener_errors] if facts.daemon is not None else []
    if failing and not told:
        yield Found(
            "listeners of the application raise, or are too slow",
            "What they would have said or counted is missing; processing goes on as if they were not there.",
            "See listener_failed in the log: it names the listener, the event and the error.",
            listed(f"{worker.label}: {counted(worker.listener_errors, 'time')}" for worker in failing),
        )


# -- messages that a handler lets go of ------------------------------------------------------------------------------


def _feeds_threads(facts: Facts) -> Iterator[Found]:
    seen = [each["what"] for each in (facts.daemon.findings if facts.daemon is not None else ()) if _is_left(each)]
    for each in (each for group in facts.groups for each in group.subscriptions):
        if not each.handoffs or any(each.label in what for what in seen):  # the daemon has seen it happen
            continue
        sure = any(handoff.sure for handoff in each.handoffs)
        found = [handoff for handoff in each.handoffs if handoff.sure or not sure]
        yield Found(
            f"the handler of the {each.label} hands messages to {listed(handoff.name for handoff in found)} and does not wait "
            "for them",
            "Messages are marked as consumed when it returns. What has not been done by then is lost in a crash, and in each planned "
            "replacement, which waits for handlers and knows of nothing else."
            + ("" if sure else " That is as it should be where it is no work, but a copy or a statistic."),
            f"{_wait_for({handoff.kind for handoff in found})} before it returns, or process in the handler: worker.concurrency, "
            'concurrency_key= and async def run things side by side. Or use offsets="manual" and mark what is done.',
            listed((f"{handoff.where}: {handoff.code}" for handoff in found), 4),
            None if sure else "info",
        )


def _is_left(each: Mapping[str, Any]) -> bool:
    return each.get("rule") == "handler_leaves_threads"


def _wait_for(kinds: set[str]) -> str:
    return " and ".join(
        what
        for kind, what in (
            ("queue", "Join the queue"),
            ("pool", "Wait for the futures (concurrent.futures.wait, result())"),
            ("loop", "Wait for the tasks (await asyncio.gather, or result() of what run_coroutine_threadsafe answers)"),
        )
        if kind in kinds
    ).replace(" and W", " and w")


# -- state that threads share ----------------------------------------------------------------------------------------


def _writes(facts: Facts, *kinds: str) -> Iterator[tuple[str, list[Write]]]:
    for group in facts.groups:
        for each in group.subscriptions:
            found = [write for write in each.writes if write.kind in kinds]
            if found:
                yield each.label, found


def _shared_state(facts: Facts) -> Iterator[Found]:
    threads = facts.settings.worker.concurrency
    if threads < 2:
        return
    lost = "Two threads read the same value and write their own: updates are lost, now and then, under load."
    for kinds, cause, severity in (
        (("global", "class"), lost, None),
        (
            ("container",),
            "Single operations of Python's containers are safe; what is done in several steps is not.",
            "info",
        ),
    ):
        found = list(_writes(facts, *kinds))
        if found:
            names = listed(dict.fromkeys(write.name for _, writes in found for write in writes))
            places = dict.fromkeys(f"{write.where}: {write.code}" for _, writes in found for write in writes)
            yield Found(
                f"handlers change state that the processing threads of a worker share: {names}",
                cause,
                "Keep it in the Consumer instance (one per partition), guard it with a lock, or set worker.concurrency = 1.",
                f"{listed(places, 4)}; {facts.said('worker.concurrency')}",
                "info" if severity else None,
            )


def _instance_shared(facts: Facts) -> Iterator[Found]:
    for label, writes in _writes(facts, "instance") if facts.settings.worker.concurrency > 1 else ():
        yield Found(
            f"several threads change the instance of the {label}",
            "With virtual partitions one instance runs several slices of a batch at once: updates of its attributes are lost.",
            "Keep such state in local variables, guard it with a lock, or leave out virtual_partitions= (concurrency_key=).",
            listed((f"{write.where}: {write.code}" for write in writes), 4),
        )


# -- memory and versions ---------------------------------------------------------------------------------------------


def _allocator(facts: Facts) -> Iterator[Found]:
    machine = facts.machine
    chosen = chosen_arenas(machine.environment)
    name = "GLIBC_TUNABLES" if "arena_max" in machine.environment.get("GLIBC_TUNABLES", "") else "MALLOC_ARENA_MAX"
    preloaded = machine.environment.get("LD_PRELOAD", "")
    wanted = next((each for each in ("jemalloc", "tcmalloc", "mimalloc") if each in preloaded), None)
    if wanted is not None and machine.allocator != wanted:
        yield Found(
            f"{wanted} is wanted and not in use",
            "The dynamic linker passes over a library of LD_PRELOAD that it cannot load, with a line on stderr and nothing else.",
            f"Install {wanted}, or mend its path in LD_PRELOAD.",
            f"LD_PRELOAD = {preloaded} ({machine.whose}); allocator in use: {machine.allocator}",
        )
    elif chosen is not None and machine.allocator == "glibc" and chosen > MANY_ARENAS:
        yield Found(
            f"glibc may use {chosen} arenas in each worker",
            "Each arena keeps what its threads have freed: a worker with a dozen threads holds memory that nobody uses, and looks "
            "as if it leaked.",
            f"Remove {name}: a worker uses {ARENAS} by itself.",
            f"{name} = {machine.environment.get(name, '')} ({machine.whose})",
        )


def _preload(facts: Facts) -> Iterator[Found]:
    swarm, size = facts.settings.swarm, facts.app.import_bytes if facts.app is not None else None
    if size is None or swarm.workers < 2:
        return
    if not swarm.preload and size >= LARGE_IMPORT:
        yield Found(
            f"each of {swarm.workers} workers imports the application by itself",
            f"Importing it takes some {size / _MIB:.0f} MiB, which workers could share.",
            "Set swarm.preload = true. What the application starts at import (threads, clients) then belongs into @app.after_fork.",
            f"{facts.said('swarm.preload')}; {facts.said('swarm.workers')}; measured by importing it",
        )
        return
    for worker in facts.daemon.workers if facts.daemon is not None and swarm.preload else ():
        rss, uss = worker.memory.get("rss"), worker.memory.get("uss")
        if rss is not None and uss is not None and size >= LARGE_IMPORT and rss - uss < size / 4:
            yield Found(
                "preloading shares little memory",
                f"Importing the application takes some {size / _MIB:.0f} MiB, and {worker.label} shares {(rss - uss) / _MIB:.0f} "
                "MiB of all it has: the handlers write to what was imported, or replace it.",
                "Keep large tables out of Python objects (arrays, mmap), or do without preload: it gains nothing here.",
                f"rss {rss / _MIB:.0f} MiB, uss {uss / _MIB:.0f} MiB ({worker.label}); {facts.said('swarm.preload')}",
            )
            return


def _versions(facts: Facts) -> Iterator[Found]:
    machine = facts.machine
    for package, version in (
        ("librdkafka", machine.librdkafka),
        ("confluent-kafka", machine.confluent_kafka),
        ("python", machine.python),
    ):
        for defect in defects_of(package, version):
            until = ".".join(map(str, defect.fixed))
            known = "has a known defect" if defect.known else "is older than what kafka-swarm was made for"
            yield Found(
                f"{package} {version} {known}",
                f"Before {until} {defect.what}." if defect.known else defect.what,
                f"Install {package} {until} or later.",
                f"{package} {version} is installed; {defect.source}",
                defect.severity,
            )


RULES: Final = (
    Rule(
        "check_fails",
        "error",
        "what `swarmctl check` finds: settings, app, properties that librdkafka refuses",
        _check_fails,
    ),
    Rule(
        "seat_contested",
        "error",
        "a `group.instance.id` (and so the transactional ids) that another process uses: two daemons of one name and host",
        _told("seat_contested"),
        ("daemon",),
    ),
    Rule("crash_loop", "error", "a worker that dies again and again", _told("crash_loop"), ("daemon",)),
    Rule(
        "oom_group",
        "warning",
        "a cgroup in which the kernel kills the whole swarm where one worker runs out of memory",
        _told("oom_group"),
        ("daemon",),
    ),
    Rule(
        "reload_refused", "warning", "a reload that was refused: old code or settings run", _reload_refused, ("daemon",)
    ),
    Rule(
        "handler_leaves_threads",
        "warning",
        "handlers that start threads and return: their messages are marked before they are processed",
        _told("handler_leaves_threads"),
        ("daemon",),
    ),
    Rule(
        "handler_feeds_threads",
        "warning",
        "handlers that hand messages to a queue, pool or event loop that was there before, and return without waiting, as their "
        "source says (info: where they do something with them, too)",
        _feeds_threads,
        ("app",),
    ),
    Rule("listener_fails", "warning", "listeners of the app that raise or are too slow", _listeners, ("daemon",)),
    Rule("daemon_says", "warning", "whatever else `status` of the daemon finds", _told_otherwise, ("daemon",)),
    Rule(
        "shared_state",
        "warning",
        "handlers that change modules' variables, or containers of their class, with several processing threads (info: where "
        "single steps are safe)",
        _shared_state,
        ("app",),
    ),
    Rule(
        "instance_in_two_threads",
        "warning",
        "handlers with virtual partitions that change their instance, which several threads run",
        _instance_shared,
        ("app",),
    ),
    Rule(
        "allocator",
        "warning",
        "more than four arenas of glibc (`MALLOC_ARENA_MAX`), or an allocator in `LD_PRELOAD` that is not in use",
        _allocator,
    ),
    Rule(
        "preload",
        "info",
        "large applications that workers do not share: `preload = false`, or shared pages lost",
        _preload,
        ("app",),
    ),
    Rule(
        "old_versions",
        "warning",
        "versions of librdkafka, confluent-kafka and Python with known defects, or too old",
        _versions,
    ),
)
