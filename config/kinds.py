"""The kinds of values that settings have: how each is read, and how it is said what is expected. Knows no setting.

Values from the environment and from options are text, so every kind also reads its text form ("4", "true").
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from swarm.config import units

NAME_CHARACTERS = "a-zA-Z0-9._-"
"""What Kafka allows in `group.instance.id`; safe in a path and in a process title, too."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`expected` completes "expected …"; `read` makes the value or raises ValueError; `fix` replaces the general advice."""

    expected: str
    read: Callable[[object], Any]
    fix: str = ""
    is_time: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Pydantic's hook: `read` runs before its own validation, which then only confirms the type."""
        return core_schema.no_info_before_validator_function(self._checked, handler(source))

    def _checked(self, value: object) -> Any:
        try:
            return self.read(value)
        except ValueError:
            raise PydanticCustomError("expected", "expected {expected}", {"expected": self.expected}) from None


def integer(low: int, high: int, *, auto: Callable[[], int] | None = None, fix: str = "") -> Kind:
    """An integer from low to high; with `auto`, also "auto", which is what `auto()` says (kept within the range)."""

    def read(value: object) -> int:
        if auto is not None and value == "auto":
            return min(max(auto(), low), high)
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"an integer from {low} to {high}" + (' or "auto"' if auto else ""), read, fix)


def number(low: float, high: float) -> Kind:
    """A plain number from low to high, without a unit."""

    def read(value: object) -> float:
        if isinstance(value, str) and not re.fullmatch(r"\s*[0-9.]{1,30}\s*", value):
            raise ValueError
        found = units.seconds(value)  # the same refusal of nan, inf and bool
        if not low <= found <= high:
            raise ValueError
        return found

    return Kind(f"a number from {low:g} to {high:g}", read)


def seconds(low: float, high: float, *, off: bool = False, fix: str = "") -> Kind:
    """A time (s) from low to high; with `off`, also 0."""

    def read(value: object) -> float:
        found = units.seconds(value)
        if not (low <= found <= high or (off and found == 0)):
            raise ValueError
        return found

    text = f"a time from {units.time_text(low)} to {units.time_text(high)}"
    ending = ", or 0 for off" if off else ""
    return Kind(f'{text}{ending} (seconds, or text such as "500ms" "5s" "10m" "1h")', read, fix, is_time=True)


def capacity(low: int, high: int) -> Kind:
    """A size (bytes) from low to high."""

    def read(value: object) -> int:
        found = units.size(value)
        if not low <= found <= high:
            raise ValueError
        return found

    return Kind(
        f'a size from {units.size_text(low)} to {units.size_text(high)} (bytes, or text such as "512MiB" "2GB")', read
    )


def size(low: int, high: int) -> Kind:
    """A size (bytes) from low to high, 0 for off, or "auto"."""

    def read(value: object) -> int | Literal["auto"]:
        if value == "auto":
            return "auto"
        found = units.size(value)
        if not (low <= found <= high or found == 0):
            raise ValueError
        return found

    text = f"{units.size_text(low)} to {units.size_text(high)}"
    return Kind(f'a size from {text} (bytes, or text such as "512MiB" "2GB"), "auto", or 0 for off', read)


def flag() -> Kind:
    """True or false; as text also yes/no, on/off, 1/0 in any case."""
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

    def read(value: object) -> bool:
        found = words.get(value.strip().lower()) if isinstance(value, str) else value
        if not isinstance(found, bool):
            raise ValueError
        return found

    return Kind("true or false", read)


def choice(*choices: str) -> Kind:
    """One of a few words, in any case."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value.strip().lower() not in choices:
            raise ValueError
        return value.strip().lower()

    return Kind(f"one of {', '.join(choices)}", read)


def text(expected: str, pattern: str, *, fix: str = "") -> Kind:
    """A text that matches the pattern as a whole."""
    compiled = re.compile(pattern)

    def read(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError
        return value

    return Kind(expected, read, fix)


def name(longest: int) -> Kind:
    """A name that is safe in paths, process titles and `group.instance.id`."""
    pattern = rf"(?!\.{{1,2}}$)[{NAME_CHARACTERS}]{{1,{longest}}}"
    return text(f"1 to {longest} letters, digits, '.', '_' and '-' (not \".\" or \"..\")", pattern)


def patterns() -> Kind:
    """A list of names or glob patterns, as a tuple; as text, with commas between them."""

    def read(value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) and each for each in value):
            raise ValueError
        return tuple(value)

    return Kind('a list of names or patterns with * and ? (["orders", "click*"], or text with commas)', read)


def directory() -> Kind:
    """A path; relative ones stay relative (the loader knows the base)."""

    def read(value: object) -> Path:
        if not isinstance(value, str | Path) or not str(value) or "\0" in str(value) or str(value).startswith("~"):
            raise ValueError
        return Path(value)

    return Kind('a path ("~" is not expanded)', read)
