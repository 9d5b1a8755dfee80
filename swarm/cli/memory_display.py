"""The answer of `swarmctl memory` for people. Asks nobody; prints nothing. What is unknown is "-"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from swarm.display import UNKNOWN, count, duration, size
from swarm.wording import plural

_TYPES: Final = 12
_NAME: Final = 60


def plain(answer: Mapping[str, Any], *, detailed: bool) -> str:
    """All workers, a line each with what is to be said of them below; `detailed`: one worker with everything."""
    limit = answer["limits"]["memory_limit"]
    head = f"{answer['name']}  memory_limit {size(limit) if limit else 'off'}"
    table = _table(_HEAD, [_row(worker) for worker in answer["workers"]])
    lines = [head, "", *table]
    for worker in answer["workers"]:
        said = list(_remarks(worker))
        if detailed:
            said += _details(worker)
        lines += ["", *said] if said else []
    return "\n".join(lines)


_HEAD: Final = (
    "worker", "pid", "rss", "uss", "pss", "shared", "python", "malloc", "unused", "queued", "an hour", "a message", "verdict",
)  # fmt: skip


def _row(worker: Mapping[str, Any]) -> list[str]:
    from swarm.cli.memory_report import unused

    memory, trend = worker["memory"], worker["trend"] or {}
    python, malloc = worker.get("python") or {}, worker.get("malloc") or {}
    return [
        str(worker["index"]),
        UNKNOWN if worker["pid"] is None else str(worker["pid"]),
        *(size(memory[kind]) for kind in ("rss", "uss", "pss", "shared")),
        size(python.get("used")),
        size(malloc.get("used")),
        size(unused(worker)),
        size(queued(worker)),
        *(_rate(trend, name) for name in ("per_hour", "per_message")),
        worker["verdict"] or UNKNOWN,
    ]


def queued(worker: Mapping[str, Any]) -> int | None:
    """Bytes of messages that wait, in librdkafka and in the lanes; None where neither is known."""
    queues = worker.get("queues")
    if queues is None:
        return None
    return int(queues["lanes"]["bytes"] + sum(client["bytes"] or 0 for client in queues["clients"]))


def _rate(trend: Mapping[str, Any], name: str) -> str:
    """What it grows by; what is within the noise is no growth."""
    return "none" if trend and not trend["rising"] else _signed(trend.get(name))


def _signed(number: float | None) -> str:
    if number is None:
        return UNKNOWN
    return f"{'-' if number < 0 else '+'}{size(abs(round(number)))}"


def _remarks(worker: Mapping[str, Any]) -> Iterable[str]:
    who = f"worker {worker['index']}"
    if worker["unanswered"]:
        asked = (
            ""
            if worker["pid"] is None
            else ". What is not known needs its cooperation: swarmctl backtrace shows what it does"
        )
        yield f"{who}: {worker['unanswered']}{asked}."
    if worker["verdict"] not in (None, "flat"):
        yield f"{who}, {worker['verdict']}: {worker['why']}"
        yield from (f"  next: {step}" for step in worker["next"])
    if worker.get("collected"):
        yield f"{who}: {_collected(worker['collected'])}"
    dump = worker.get("dump")
    if dump and "error" in dump:
        yield f"{who}: {dump['path']} could not be written by the worker: {dump['error']}. It is a new file, on a path as the daemon sees it."
    elif dump:
        yield f"{who}: {_objects(dump['objects'])} {plural(dump['objects'], 'is', 'are')} in {dump['path']} ({size(dump['bytes'])}), a JSON object a line."


def _objects(number: int | None) -> str:
    return f"{count(number)} {plural(number, 'object')}"


def _messages(number: int | None) -> str:
    return f"{count(number)} {plural(number, 'message')}"


def _collected(found: Mapping[str, Any]) -> str:
    freed = found["rss_before"] - found["rss"]
    trimmed = "malloc_trim gave memory back" if found["trimmed"] else "malloc_trim had nothing to give back"
    return (
        f"{_objects(found['objects'])} {plural(found['objects'], 'was', 'were')} garbage, {trimmed}: {size(found['rss_before'])} before, {size(found['rss'])} now "
        f"({_signed(-freed)}), in {duration(found['seconds'])}."
    )


def _details(worker: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    if worker.get("collector"):
        lines += ["", *_allocators(worker), *_queues(worker["queues"]), _collector(worker["collector"])]
    growth = worker.get("growth")
    if growth:
        lines += ["", f"types that have grown within {duration(growth['seconds'])}:"]
        lines += _types(growth["types"], signed=True) or ["  none"]
    if worker.get("types") is not None and not growth:
        survey = worker["survey"]
        part = "" if survey["share"] >= 1 else f", extrapolated from {survey['share']:.0%} of them"
        lines += [
            "",
            (
                f"types, of {_objects(survey['objects'])} made since the fork and what they hold, "
                f"{size(survey['bytes'])} in all{part}:"
            ),
            *_types(worker["types"], signed=False),
        ]
    if worker.get("containers"):
        lines += ["", "largest containers:"]
        lines += [
            f"  {each['name'] or '(no name leads to it)'}: {each['type']} of {count(each['length'])}, {size(each['bytes'])} itself"
            for each in worker["containers"]
        ]
    trace = worker.get("trace") or {}
    if trace.get("on"):
        lines += ["", *_trace(trace)]
    return lines


def _allocators(worker: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, what in (("python", "Python's allocator"), ("malloc", str(worker["allocator"]))):
        found = worker.get(name)
        if found is None:
            lines.append(f"{what}: {UNKNOWN}")
            continue
        more = (
            f", {size(found['top'])} of it at the top"
            if name == "malloc"
            else f", {count(found['blocks'])} {plural(found['blocks'], 'block')}"
        )
        lines.append(f"{what}: {size(found['used'])} in use, {size(found['free'])} free{more}")
    return lines


def _queues(queues: Mapping[str, Any]) -> list[str]:
    lines = [
        f"librdkafka's queue, group {client['group']}: {_messages(client['messages'])}, {size(client['bytes'])}"
        + (f", {duration(client['age'])} ago" if client["age"] is not None else " (statistics.interval.ms)")
        for client in queues["clients"]
    ]
    lanes = queues["lanes"]
    return [*lines, f"lanes, in hand too: {_messages(lanes['messages'])}, {size(lanes['bytes'])}"]


def _collector(found: Mapping[str, Any]) -> str:
    state = "on" if found["enabled"] else "OFF"
    counts, thresholds, runs = ("/".join(map(str, found[name])) for name in ("counts", "thresholds", "collections"))
    return (
        f"collector: {state}, counts {counts} of {thresholds}, runs {runs}, {count(found['garbage'])} in gc.garbage, "
        f"{_objects(found['frozen'])} shared since the fork"
    )


def _types(types: Sequence[Mapping[str, Any]], *, signed: bool) -> list[str]:
    rows = [
        [
            _short(each["type"]),
            ("+" if signed else "") + count(each["count"]),
            _signed(each["bytes"]) if signed else size(each["bytes"]),
        ]
        for each in types[:_TYPES]
    ]
    return ["  " + line for line in _table(("type", "objects", "bytes"), rows)] if rows else []


def _trace(trace: Mapping[str, Any]) -> list[str]:
    lines = [
        (
            f"allocated since the tracing began, {duration(trace['seconds'])} ago, and still there: {size(trace['bytes'])} "
            f"(and {size(trace['own'])} for the tracing itself):"
        )
    ]
    for each in trace["lines"]:
        first, *callers = each["lines"]
        lines.append(f"  {size(each['bytes'])} in {count(each['count'])}  {first}")
        lines += [f"      called from {line}" for line in callers[:2]]
    return lines


def _short(name: str) -> str:
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    every = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in every) for column in range(len(head))]
    left = {"type", "verdict"}
    return [
        "  ".join(
            cell.ljust(width) if name in left else cell.rjust(width)
            for cell, width, name in zip(row, widths, head, strict=True)
        ).rstrip()
        for row in every
    ]
