"""The answer of `swarmctl memory --json`: what the supervisor and the workers said, with the trend and the verdict. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from swarm.growth import Contents, judge, trend

MOST: Final = 500
"""Types that are compared by --growth."""
SHOWN: Final = 20


def judged(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The whole answer, in the contract's form."""
    limits = answer["limits"]
    return {
        "name": answer["name"],
        "limits": limits,
        "workers": [_judged(worker, limits["memory_limit"]) for worker in answer["workers"]],
    }


def _judged(worker: Mapping[str, Any], limit: int) -> dict[str, Any]:
    measured = worker["memory"]
    rss, uss = measured["rss"], measured["uss"]
    report = worker["report"] or {}
    result: dict[str, Any] = {name: worker[name] for name in ("index", "pid", "state", "health", "uptime")}
    result["memory"] = {**measured, "shared": rss - uss if rss is not None and uss is not None else None}
    result["unanswered"] = worker["unanswered"] or report.get("error")
    for name in (
        "allocator",
        "python",
        "malloc",
        "anonymous",
        "collector",
        "queues",
        "collected",
        "dump",
        "trace",
        "traced",
    ):
        if name in report:
            result[name] = report[name]
    survey = report.get("survey")
    if survey is not None:
        result["types"] = survey["types"]
        result["containers"] = survey["containers"]
        result["survey"] = {name: survey[name] for name in ("bytes", "objects", "share", "seconds")}
    way = trend([tuple(sample) for sample in worker["samples"]])
    result["trend"] = None
    if way is not None:
        result["trend"] = {
            "seconds": round(way.seconds, 1),
            "samples": way.samples,
            "grown": way.grown,
            "per_hour": round(way.per_hour),
            "per_message": round(way.per_message, 1) if way.per_message is not None else None,
            "rising": way.rising,
            "steady": way.steady,
        }
    if worker["pid"] is None:
        return result | {"verdict": None, "why": worker["unanswered"], "next": []}
    verdict = judge(way, contents(report), worker["index"], limit, rss or 0)
    return result | {"verdict": verdict.verdict, "why": verdict.why, "next": list(verdict.next)}


def contents(report: Mapping[str, Any]) -> Contents | None:
    """What a worker's report says in the terms of a verdict; None where there is none."""
    if "queues" not in report:
        return None
    queues = report["queues"]
    waiting = [client["bytes"] for client in queues["clients"] if client["bytes"] is not None]
    survey = report.get("survey")
    most = ""
    if survey is not None and survey["types"]:
        from swarm.display import count, size

        first = survey["types"][0]
        most = f"{first['type']} ({count(first['count'])}, {size(first['bytes'])})"
        held = [each for each in survey["containers"] if each["name"]]
        if held:
            largest = held[0]
            most += f"; the largest container is {largest['name']}, a {largest['type']} of {count(largest['length'])}"
    return Contents(
        sum(waiting) if waiting else None,
        queues["lanes"]["bytes"],
        unused(report),
        (report.get("malloc") or {}).get("top", 0),
        survey["bytes"] if survey is not None else None,
        most,
        report.get("traced"),
    )


def unused(report: Mapping[str, Any]) -> int | None:
    """Bytes that are in memory, held by the allocators and used by nobody; None: not known.

    What they call free may have gone back to the kernel in part, so it is no more than what is resident beyond what they call used.
    """
    python, malloc = report.get("python"), report.get("malloc")
    if malloc is None:
        return None
    used: int = malloc["used"] + (python["used"] if python else 0)
    free: int = malloc["free"] + (python["free"] if python else 0)
    resident: int = report["anonymous"]
    return max(0, min(free, resident - used))


def add_growth(answer: dict[str, Any], before: Mapping[str, Any], seconds: float) -> None:
    """Put the types that have grown since `before` into each worker of an answer, and leave the usual number of types."""
    for worker in answer["workers"]:
        [old] = [each for each in before["workers"] if each["index"] == worker["index"]] or [None]
        survey = ((old or {}).get("report") or {}).get("survey")
        if survey is None or "types" not in worker or old is None or old["pid"] != worker["pid"]:
            worker["growth"] = None
            worker["unanswered"] = worker["unanswered"] or "it was replaced, or did not answer, between the two looks"
        else:
            worker["growth"] = {"seconds": seconds, "types": grown(survey["types"], worker["types"])}
        if "types" in worker:
            del worker["types"][SHOWN:]


def grown(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By how much types have grown, those with the most bytes first."""
    old = {each["type"]: each for each in before}
    # Of a type that was not among the largest, no more is known than that it was smaller than all of them.
    floor = before[-1] if len(before) >= MOST else {"count": 0, "bytes": 0}
    rows = [
        {
            "type": each["type"],
            "count": each["count"] - old.get(each["type"], floor)["count"],
            "bytes": each["bytes"] - old.get(each["type"], floor)["bytes"],
        }
        for each in after
    ]
    return sorted((row for row in rows if row["bytes"] > 0), key=lambda row: -row["bytes"])[:SHOWN]


def failed(answer: Mapping[str, Any]) -> bool:
    """Whether a worker did not do what it was asked to."""
    return any(
        worker["unanswered"] or (worker.get("dump") or {}).get("error")
        for worker in answer["workers"]
        if worker["pid"] is not None or len(answer["workers"]) == 1
    )
