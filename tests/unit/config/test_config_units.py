"""Times and sizes as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.config import units


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("500ms", 0.5),
        ("5s", 5.0),
        ("10m", 600.0),
        ("1h", 3600.0),
        ("2d", 172800.0),
        (" 1.5 s ", 1.5),
        ("5", 5.0),
        (5, 5.0),
        (0, 0),
    ],
)
def test_a_time_is_read_with_and_without_its_unit(written: object, meant: float) -> None:
    """Seconds are the unit of a bare number, as number or as text."""
    assert units.seconds(written) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("512MiB", 512 * 1024**2),
        ("2GB", 2 * 10**9),
        ("1.5gib", 3 * 2**29),
        ("64Mi", 2**26),
        ("10 kB", 10_000),
        ("7", 7),
        (0, 0),
    ],
)
def test_a_size_is_read_with_and_without_its_unit(written: object, meant: int) -> None:
    """Bytes are the unit of a bare number; MB is decimal, MiB binary."""
    assert units.size(written) == meant


_NEITHER: list[object] = [
    True,
    False,
    None,
    -1,
    "-1",
    "-5s",
    "nan",
    "inf",
    "1e3",
    "",
    " ",
    "s",
    "5 5",
    "٣s",
    "5x",
    "5s\n5",
    [],
    {},
    "9" * 400,
]
_NEITHER += [math.nan, math.inf, -math.inf, -0.5]


@pytest.mark.parametrize("garbage", [*_NEITHER, 10**400, "5S", "1M", "512MiB"], ids=repr)
def test_what_is_not_a_time_is_refused(garbage: object) -> None:
    """Garbage, negatives, nan, inf and bool are refused, and so is a unit that may mean something else."""
    with pytest.raises(ValueError):  # noqa: PT011 the text is the kind's to make
        units.seconds(garbage)


@pytest.mark.parametrize("garbage", [*_NEITHER, 0.5, "5s", "512M", "1G"], ids=repr)
def test_what_is_not_a_size_is_refused(garbage: object) -> None:
    """ "512M" is refused: it is 1000 or 1024 squared, depending on who reads it."""
    with pytest.raises(ValueError):  # noqa: PT011 the text is the kind's to make
        units.size(garbage)


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none(), st.binary()))
def test_any_value_is_a_finite_time_or_a_value_error(value: object) -> None:
    """No input gets another exception, a negative time or one without end."""
    try:
        found = units.seconds(value)
    except ValueError:
        return
    assert math.isfinite(found)
    assert found >= 0


@given(st.integers(min_value=0, max_value=10**12), st.sampled_from(sorted(units.SIZES)))
def test_a_size_in_any_unit_is_exact(number: int, unit: str) -> None:
    """Whole numbers lose no byte."""
    assert units.size(f"{number}{unit.upper()}") == number * units.SIZES[unit]


@given(st.integers(min_value=0, max_value=10**9))
def test_a_time_for_people_reads_back_as_the_same_time(milliseconds: int) -> None:
    """What messages say can be written into the settings."""
    time = milliseconds / 1000

    assert units.seconds(units.time_text(time)) == pytest.approx(time, rel=1e-4)


@given(st.integers(min_value=0, max_value=2**50))
def test_a_size_for_people_reads_back_as_the_same_size(size: int) -> None:
    """What messages say can be written into the settings."""
    assert units.size(units.size_text(size)) == size
