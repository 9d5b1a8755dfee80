"""What `lag`, `topics` and `peek` have found, for people. Asks nobody; prints nothing. What is unknown is "-"."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from swarm.display import UNKNOWN, count, duration, size
from swarm.wording import counted, plural

_LONGEST: Final = 2000
"""Characters of a value; --json has all of it."""
_SHORT: Final = 80


def lag(answer: Mapping[str, Any]) -> str:
    """A table of partitions, and a line for each group."""
    rows = [
        [
            row["group"],
            f"{row['topic']}/{row['partition']}",
            count(row["committed"]),
            count(row["end"]),
            count(row["lag"]),
            duration(row["seconds"]),
            row["holder"] or "nobody",
            row["note"] or "",
        ]
        for row in answer["partitions"]
    ]
    lines = _table(("group", "partition", "committed", "end", "lag", "behind", "held by", ""), rows, {2, 3, 4, 5})
    said = []
    for group in answer["groups"]:
        known = count(group["lag"]) + ("+" if group["unknown"] and group["lag"] is not None else "")
        text = f"{group['group']} ({group['state']}): lag {known}, behind {duration(group['seconds'])}"
        if group["withheld"]:
            text += f", {count(group['withheld'])} more withheld by open transactions"
        if group["state"] == "dead":
            text += ": Kafka knows no such group, or has forgotten it"
        if group["unheld"]:
            text += f", {group['unheld']} of {counted(group['partitions'], 'partition')} held by nobody"
        if group["missing_topics"]:
            text += f"; there is no topic {', '.join(group['missing_topics'])}"
        said.append(text)
    return "\n".join([*(lines if rows else []), *([""] if rows else []), *said])


def topics(answer: Mapping[str, Any], now: float) -> str:
    """A table of topics. `now`: seconds since the epoch."""
    rows = []
    for row in answer["topics"]:
        replicas = f"{row['in_sync']}/{row['replicas']}" if row["replicas"] is not None else UNKNOWN
        read_by = [*row["read_by"], *(["(dead letters)"] if row["dead_letters"] else [])]
        rows.append(
            [
                row["topic"],
                str(row["partitions"]),
                replicas,
                count(row["messages"]),
                _retention(row),
                duration(max(0.0, now - row["newest"] / 1000)) if row["newest"] is not None else UNKNOWN,
                row["timestamps"] or UNKNOWN,
                ", ".join(read_by) or "nobody",
            ]
        )
    head = ("topic", "partitions", "in sync", "messages", "retention", "newest", "timestamps", "read by")
    lines = _table(head, rows, {1, 2, 3}) if rows else []
    for row in answer["topics"]:
        if row["under_replicated"]:
            lines.append(
                f"{row['topic']}: {row['under_replicated']} of {counted(row['partitions'], 'partition')} "
                f"{plural(row['under_replicated'], 'has', 'have')} replicas that are not in sync."
            )
        if row["leaderless"]:
            lines.append(
                f"{row['topic']}: {counted(row['leaderless'], 'partition')} {plural(row['leaderless'], 'has', 'have')} no leader: "
                "nobody reads or writes there."
            )
    lines += [f"there is no topic {name}." for name in answer["missing_topics"]]
    return "\n".join(lines) or "no topics"


def _retention(row: Mapping[str, Any]) -> str:
    if row["cleanup"] is None:
        return UNKNOWN
    parts = []
    if "compact" in row["cleanup"]:
        parts.append("compacted")
    if "delete" in row["cleanup"]:
        milliseconds, limit = row["retention_ms"], row["retention_bytes"]
        parts.append("for ever" if milliseconds in (None, -1) else _days(milliseconds / 1000))
        if limit not in (None, -1):
            parts.append(size(limit))
    return ", ".join(parts)


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds >= 2 * 86400 and seconds % 86400 == 0 else duration(seconds)


def messages(found: Sequence[Mapping[str, Any]]) -> str:
    """Each message: a line about it, and its value."""
    return "\n".join(line for message in found for line in _message(message))


def _message(message: Mapping[str, Any]) -> list[str]:
    head = f"{message['topic']}/{message['partition']}@{message['offset']}  {_moment(message['timestamp'])}"
    if message["key"] is not None:
        head += f"  key {_short(message['key'], _SHORT)}"
    lines = [f"{head}  {size(message['size'])}, {message['value_as']}"]
    lines += [f"  {_short(name, _SHORT)}: {_short(str(value), _SHORT)}" for name, value in message["headers"]]
    if message["error"] is not None:
        lines.append(f"  the app's deserializer failed: {_short(message['error'], 4 * _SHORT)}")
    value = message["value"]
    text = value if isinstance(value, str) else "(no value)" if value is None else json.dumps(value, ensure_ascii=False)
    return [*lines, f"  {_short(text, _LONGEST)}"]


def _moment(milliseconds: int | None) -> str:
    if milliseconds is None:
        return UNKNOWN
    try:
        found = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return UNKNOWN
    return f"{found:%Y-%m-%d %H:%M:%S}.{found.microsecond // 1000:03d}Z"


def _short(text: str, most: int) -> str:
    """In one line, and nothing that a terminal would obey."""
    flat = " ".join(text.split())
    printable = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in flat)
    return printable if len(printable) <= most else printable[: most - 1] + "…"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> list[str]:
    every = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in every) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in every
    ]
