"""How problems are said on a terminal."""

from __future__ import annotations

from swarm.config import Problem, SettingsError


def _error(count: int, what: str = "is wrong") -> SettingsError:
    return SettingsError([Problem(f"swarm.key{n}", "swarm.toml", what, "Mend it.") for n in range(count)])


def test_few_problems_are_shown_with_the_fix_below_each() -> None:
    """Three of them fill the six lines."""
    lines = _error(3).render().split("\n")

    assert lines[:2] == ["swarm.key0: is wrong (swarm.toml).", "  Mend it."]
    assert len(lines) == 6


def test_up_to_six_problems_take_a_line_each() -> None:
    """None of them is left out."""
    lines = _error(6).render().split("\n")

    assert lines == [f"swarm.key{n}: is wrong (swarm.toml). Mend it." for n in range(6)]


def test_many_problems_are_counted_and_say_where_the_rest_is() -> None:
    """Five are shown; the last line gives the number of the others."""
    lines = _error(20).render().split("\n")

    assert len(lines) == 6
    assert lines[-1] == "… and 15 more: swarmctl check --json"


def test_a_long_line_is_trimmed_where_space_is_short() -> None:
    """A path or value of any length cannot fill the terminal."""
    assert all(len(line) <= 240 for line in _error(5, "x" * 1000).render().split("\n"))


def test_a_line_feed_in_a_name_does_not_break_a_message_into_lines() -> None:
    """What a user wrote cannot look like another problem."""
    assert "\n" not in str(Problem("swarm.a\nb", "x\n.toml", "is\x1b[31m wrong", "Mend\nit."))
    assert "\x1b" not in str(Problem("swarm.a", "x.toml", "is\x1b[31m wrong", ""))
