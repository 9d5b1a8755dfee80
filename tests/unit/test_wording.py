"""One thing is not "1 things"."""

from __future__ import annotations

from swarm.wording import counted, plural


def test_one_is_singular_and_all_other_numbers_are_not() -> None:
    assert [counted(n, "place") for n in (0, 1, 2, 1234)] == ["0 places", "1 place", "2 places", "1,234 places"]


def test_a_plural_of_its_own_is_given() -> None:
    assert [counted(n, "process", "processes") for n in (1, 2)] == ["1 process", "2 processes"]
    assert [plural(n, "is", "are") for n in (0, 1, None)] == ["are", "is", "are"]
