"""Dead letters as `swarmctl dlq` shows them: for people and as JSON. Asks nobody; prints nothing."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence
from typing import Any, Final

from swarm.letters import Letter, Outgoing
from swarm.replay import Outcome
from swarm.wording import counted

_LONGEST: Final = 60
"""Characters of a key or an error in a line for people."""


class Counts:
    """How many letters there are, by dead letter topic, source topic and type of error."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], dict[str, Any]] = {}

    def add(self, letter: Letter, *, sent_back: bool) -> None:
        """One more."""
        row = self._rows.setdefault(
            (letter.topic, letter.source_topic, letter.error_type),
            {"letters": 0, "sent_back": 0, "first": None, "last": None, "example": ""},
        )
        row["letters"] += 1
        row["sent_back"] += sent_back
        row["example"] = letter.error
        if letter.timestamp is not None:
            row["first"] = min(row["first"] or letter.timestamp, letter.timestamp)
            row["last"] = max(row["last"] or letter.timestamp, letter.timestamp)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """As JSON; times in ms since the epoch, of the original messages."""
        return [
            {"topic": topic, "source_topic": source, "error_type": kind, **row}
            for (topic, source, kind), row in sorted(self._rows.items())
        ]

    def table(self) -> str:
        """For people."""
        head = ("dead letters in", "of", "error", "letters", "sent back", "oldest", "newest", "for example")
        body = [
            (
                row["topic"],
                row["source_topic"],
                row["error_type"],
                f"{row['letters']:,}",
                f"{row['sent_back']:,}",
                _moment(row["first"]),
                _moment(row["last"]),
                _short(row["example"]),
            )
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
        numbers = {3, 4}
        return "\n".join(
            "  ".join(
                cell.rjust(width) if column in numbers else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in (head, *body)
        )


def letter_json(letter: Letter, *, sent_back: bool) -> dict[str, Any]:
    """One letter. Bytes are text where they are UTF-8, else "base64:…"."""
    return {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "source": {
            "topic": letter.source_topic,
            "partition": letter.source_partition,
            "offset": letter.source_offset,
            "group": letter.group,
        },
        "attempts": letter.attempts,
        "error": letter.error,
        "timestamp": letter.timestamp,
        "replayed": letter.replayed,
        "sent_back": sent_back,
        "key": _text(letter.key),
        "value": _text(letter.value),
        "headers": [[name, _text(value)] for name, value in letter.headers],
    }


def outcome_json(outcome: Outcome, sent: Sequence[tuple[Letter, Outgoing]] | None) -> dict[str, Any]:
    """What a replay did to one topic; with `sent`, what a dry run would send."""
    answer: dict[str, Any] = {
        "topic": outcome.topic,
        "sent": outcome.count,
        "targets": dict(outcome.sent),
        "not_selected": outcome.other,
        "left": [{"partition": p, "offset": o, "reason": why} for p, o, why in outcome.left],
        "complete": outcome.complete,
    }
    if sent is not None:
        answer["letters"] = [
            letter_json(letter, sent_back=False) | {"to": {"topic": message.topic, "partition": message.partition}}
            for letter, message in sent
        ]
    return answer


def line(letter: Letter, message: Outgoing) -> str:
    """A letter and where it goes, for people."""
    source = "?" if letter.source_partition is None else letter.source_partition
    offset = "?" if letter.source_offset is None else letter.source_offset
    where = f"{message.topic}/{message.partition}" if message.partition >= 0 else f"{message.topic} by its key"
    key = "" if letter.key is None else f"  key {_short(_text(letter.key) or '')}"
    again = f"  sent back {counted(letter.replayed, 'time')}" if letter.replayed else ""
    return f"{letter.source_topic}/{source}@{offset} -> {where}{key}  {_short(letter.error)}{again}"


def summary(outcome: Outcome, *, dry_run: bool) -> str:
    """What a replay did to one topic, for people."""
    targets = ", ".join(f"{topic} {count:,}" for topic, count in sorted(outcome.sent.items()))
    done = "would be sent back" if dry_run else "sent back"
    parts = [f"{outcome.topic}: {counted(outcome.count, 'letter')} {done}" + (f" ({targets})" if targets else "")]
    if outcome.other:
        parts.append(f"{outcome.other:,} not selected")
    if outcome.left:
        parts.append(f"{len(outcome.left):,} left")
    if not outcome.complete:
        parts.append("more are selected: --limit")
    return "; ".join(parts)


def left_lines(outcome: Outcome, most: int = 10) -> list[str]:
    """What was left and why."""
    lines = [f"left: {outcome.topic}/{partition}@{offset}: {why}" for partition, offset, why in outcome.left[:most]]
    if len(outcome.left) > most:
        lines.append(f"left: … and {len(outcome.left) - most:,} more (--json lists all)")
    return lines


def _moment(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "-"
    try:
        moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return "-"
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _short(text: str) -> str:
    flat = " ".join(text.split())
    printable = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in flat)
    return printable if len(printable) <= _LONGEST else printable[: _LONGEST - 1] + "…"


def _text(data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode()
