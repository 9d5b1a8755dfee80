"""What is made of single runs: medians and ranges. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of runs that belong together, as many as there are of both."""
    return [a / b for a, b in zip(ours, theirs, strict=False)]
