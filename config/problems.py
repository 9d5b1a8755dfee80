"""A user's mistake in the settings as a value, and how it is said. Knows no setting.

Exception
└─ SettingsError    everything that is wrong with the settings, all at once
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

LONGEST_VALUE: Final = 60
"""Characters of a wrong value that a message repeats: enough to recognise it, little enough to keep the message to a line."""
LONGEST_LINE: Final = 240
"""Characters of a problem's line where several problems share the few lines of a message."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: `where` ("swarm.workers"), `source` (file, variable or option), `what` is wrong, and the `fix`."""

    where: str
    source: str
    what: str
    fix: str

    def __str__(self) -> str:
        """One line that ends with a full stop."""
        return f"{self.summary} {_plain(self.fix)}".rstrip()

    @property
    def summary(self) -> str:
        """The line without the fix."""
        return _plain(f"{self.where}: {self.what} ({self.source}).")


class SettingsError(Exception):
    """Everything that is wrong with the settings. `problems` holds at least one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def render(self, max_lines: int = 6) -> str:
        """For a terminal, in at most `max_lines` lines (2 or more): with its fix below each if they fit, else a line each."""
        if 2 * len(self.problems) <= max_lines:
            return "\n".join(f"{p.summary}\n  {_plain(p.fix)}" if p.fix else p.summary for p in self.problems)
        lines = [_trimmed(str(problem), LONGEST_LINE) for problem in self.problems]
        if len(lines) > max_lines:
            left = len(lines) - (max_lines - 1)
            lines[max_lines - 1 :] = [f"… and {left} more: swarmctl check --json"]
        return "\n".join(lines)


def shown(value: object) -> str:
    """A value as a message repeats it: one line, as it would stand in TOML, shortened."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a table"
        case list():
            return "a list"
        case bool() | str():
            text = json.dumps(value, ensure_ascii=False)
        case _:
            text = str(value) if not callable(value) else "a callable"
    return _trimmed(text, LONGEST_VALUE)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`Did you mean x?` where a known name is close, else empty."""
    close = get_close_matches(name, sorted(known), n=1)
    return f"Did you mean {close[0]}?" if close else ""


def _plain(text: str) -> str:
    """A name or path with a line feed in it must not break a message into more lines."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _trimmed(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
