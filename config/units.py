"""Times and sizes as people write them: "500ms", "10m", "512MiB". Pure; knows no setting and no range."""

from __future__ import annotations

import math
import re
from typing import Final

TIMES: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
"""Seconds in each unit of time. Lower case only: "10M" might be meant as months."""
SIZES: Final = {
    **{unit: 1000**power for power, unit in enumerate(("b", "kb", "mb", "gb", "tb"))},
    **{unit: 1024**power for power, unit in enumerate(("kib", "mib", "gib", "tib"), start=1)},
    **{unit: 1024**power for power, unit in enumerate(("ki", "mi", "gi", "ti"), start=1)},
}
"""Bytes in each unit of size, any case. No "K", "M", "G": 1024 to systemd and Docker, 1000 to Kubernetes."""

_NUMBER: Final = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{0,30})?)\s*([A-Za-z]*)\s*", re.ASCII)


def seconds(value: object) -> float:
    """Seconds from a number or a text ("500ms" "5s" "10m" "1h" "2d", or a bare number); ValueError for anything else.

    Finite and 0 or more. A bool is not a number here.
    """
    if isinstance(value, str):
        number, unit = _split(value)
        if unit not in TIMES and unit:
            raise ValueError(f"unknown unit of time: {unit}")
        # ms by division: 500 / 1000 is the nearest float to 0.5 s, 500 * 0.001 need not be for every number
        return _finite(number / 1000 if unit == "ms" else number * TIMES[unit or "s"])
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a time")
    return _finite(value)


def size(value: object) -> int:
    """Bytes from an integer or a text ("512MiB" "2GB", any case, or bare bytes); ValueError for anything else.

    0 or more; a fraction ("1.5GiB") is rounded down to a whole byte. A bool is not a number here.
    """
    if isinstance(value, str):
        number, unit = _split(value)
        if unit and unit.lower() not in SIZES:
            raise ValueError(f"unknown unit of size: {unit}")
        return int(number * SIZES[unit.lower() or "b"])  # no float in between unless a fraction was written
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("not a size")
    return value


def time_text(value: float) -> str:
    """A time for people, in the largest unit that keeps it whole: 604800.0 -> "7d", 0.5 -> "500ms", 0.0 -> "0"."""
    if value == 0:
        return "0"
    for unit in ("d", "h", "m", "s"):
        if value >= TIMES[unit] and value % TIMES[unit] == 0:
            return f"{value / TIMES[unit]:.0f}{unit}"
    return f"{_decimal(value)}s" if value > 1 else f"{_decimal(value * 1000)}ms"


def _decimal(value: float) -> str:
    """Three decimals at most, without an exponent: what `seconds` reads."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def size_text(value: int) -> str:
    """A size for people: 1048576 -> "1MiB"; bytes where no unit keeps it whole."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def _split(text: str) -> tuple[int | float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError("not a number with a unit")
    number = match[1]
    return (float(number) if "." in number else int(number)), match[2]


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("too large") from None
    if not math.isfinite(number) or number < 0:
        raise ValueError("not a finite number of 0 or more")
    return number
