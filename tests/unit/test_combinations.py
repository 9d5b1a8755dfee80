"""Every combination of what an application may ask for, lived through under accidents: the promises of docs/delivery.md hold in each.

`SWARM_SCHEDULES=5000 python -m pytest tests/unit/test_combinations.py` lives 100 random lives of each combination (a fiftieth: there are
some three hundred of them) instead of a few that are always the same;
`python -m tests.unit.test_combinations "at_least_once manual letters=none each" 123` one life again, for a debugger.
"""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from swarm.loading import app_problems
from tests.unit.world import Combination, World, all_combinations, refusal

LIVES = max(2, int(os.environ.get("SWARM_SCHEDULES", "0")) // 50)

FAMILIES: dict[str, list[Combination]] = {}
for _one in all_combinations():
    _form = "each" if _one.each else "batch"
    FAMILIES.setdefault(f"{_one.delivery} {_one.offsets} {_form}", []).append(_one)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_combination_keeps_its_promises_in_any_life(family: str) -> None:
    """Nothing lost, nothing committed too early, nothing repeated without a cause, only the culprit set aside, in order."""

    # The same lives each time, unless many are asked for; and a seed does not shrink.
    same = "SWARM_SCHEDULES" not in os.environ

    @settings(max_examples=LIVES, deadline=None, database=None, phases=[Phase.generate], derandomize=same)
    @given(st.integers(0, 2**32))
    def lives(seed: int) -> None:
        for combination in FAMILIES[family]:
            if combination.legal:
                live(combination, seed)

    lives()


def test_what_cannot_be_combined_is_refused_with_its_reason_and_a_way_out() -> None:
    """Before anything runs; and what can be combined is not refused."""
    for combination in all_combinations():
        said = refusal(combination, app_problems)

        assert bool(said) != combination.legal, f"{combination}: {said or 'accepted'}"
        if said:
            assert "transaction belongs to one thread" in said
            assert "use at_least_once" in said


def live(combination: Combination, seed: int) -> None:
    try:
        World(combination, seed).play()
    except AssertionError as error:
        again = f'python -m tests.unit.test_combinations "{combination}" {seed}'
        raise AssertionError(f"{error}\n{again}") from error


if __name__ == "__main__":
    [wanted] = [one for one in all_combinations() if str(one) == sys.argv[1]]
    World(wanted, int(sys.argv[2])).play()
