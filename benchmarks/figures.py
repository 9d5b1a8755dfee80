"""What is made of single runs: medians and ranges. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of runs that belong together, as many as there are of both."""
    return [a / b for a, b in zip(ours, theirs, strict=False)]


def of_same_runs(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> list[float]:
    """How many times as fast ours was, in each run in which both came to an end."""
    measure = {each["run"]: each["messages"] / each["seconds"] for each in theirs}
    return [each["messages"] / each["seconds"] / measure[each["run"]] for each in ours if each["run"] in measure]
