"""A minute that tells whether something became clearly slower: ratios within one run, and counted calls, against bounds.json.

Speed is compared by the best of some runs, for another program that gets in the way slows down one run and not all; calls of
functions on the way of a batch and of a message are the same in every run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import throughput
from field import QUICK, named
from path import calls

BOUNDS: Final = Path(__file__).with_name("bounds.json")
RUNS: Final = 3


def run(bootstrap: str, messages: int, say: Callable[[str], None]) -> int:
    """Prints a table; returns 1 where a bound is broken."""
    bounds: dict[str, dict[str, float]] = json.loads(BOUNDS.read_text())
    found = throughput.measure(bootstrap, messages, RUNS, say, [named(name) for name in QUICK])
    broken = [f"{name}: failed: {why}" for name, why in found["failed"].items()]
    lines = ["", "ratio to the bare loop of the same form       median   best    bound"]
    for name, bound in bounds["ratio"].items():
        each: dict[str, Any] = found["contestants"].get(name, {})
        if "ratio" not in each:
            continue
        ratio = each["ratio"]
        lines.append(f"  {name:<42}  {ratio['median']:6.2f} {ratio['highest']:6.2f}   {bound:6.2f}")
        if ratio["highest"] < bound:
            broken.append(f"{name}: {ratio['highest']:.2f} of {each['compared_with']} at best, {bound:.2f} expected")
    lines += ["", "function calls on the way of a batch (each: of a message)    bound"]
    for form, bound in bounds["calls"].items():
        count = calls(form)
        lines.append(f"  {form:<42}  {count:6.1f}          {bound:6.1f}")
        if count > bound:
            broken.append(f"{form}: {count:.1f} calls, at most {bound:.1f} expected")
    print("\n".join(lines))
    for text in broken:
        print(f"SLOWER  {text}")
    return 1 if broken else 0
