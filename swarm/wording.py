"""Numbers of things in sentences: `1 place`, `2 places`. Pure."""

from __future__ import annotations


def counted(number: int, noun: str, many: str = "") -> str:
    """So many of what `noun` names: `1 place`, `0 places`, `1,234 places`. many: its plural, where that is not an s more."""
    return f"{number:,} {plural(number, noun, many)}"


def plural(number: int | None, noun: str, many: str = "") -> str:
    """The noun, for so many; None: nobody knows how many."""
    return noun if number == 1 else many or f"{noun}s"
