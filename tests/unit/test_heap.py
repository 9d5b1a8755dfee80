"""What a process says of its own memory: counted in this very process, which is real."""

from __future__ import annotations

import gc
import json
import stat
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from swarm import heap
from swarm.heap import Scope, Tracing

REPORT = """
# arenas allocated total           =                    3
3 arenas * 1048576 bytes/arena     =            3,145,728

# bytes in allocated blocks        =            2,409,488
# bytes in available blocks        =              290,928
"""


class Order:
    def __init__(self, body: bytes) -> None:
        self.body = body


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """A module of an application's, with something that it holds."""
    made = ModuleType("shop_of_tests")
    sys.modules["shop_of_tests"] = made
    yield made
    del sys.modules["shop_of_tests"]


def whole(scope: Scope | None = None) -> heap.Survey:
    """However slow this machine is."""
    return heap.survey(scope or Scope(), seconds=300.0)


def of(survey: heap.Survey, name: str) -> tuple[int, int]:
    return next(((count, size) for kind, count, size in survey.types if kind == name), (0, 0))


def test_objects_and_what_only_they_hold_are_counted() -> None:
    """Instances, and the bytes in them, which the collector does not know."""
    gc.collect()  # what other tests have left would go in between
    before = whole()
    kept = [Order(bytes(3000 + number)) for number in range(400)]

    after = whole()

    assert of(after, f"{__name__}.Order")[0] == len(kept) == 400
    count, size = (now - then for now, then in zip(of(after, "bytes"), of(before, "bytes"), strict=True))
    assert count == pytest.approx(400, abs=20)
    assert size == pytest.approx(sum(sys.getsizeof(order.body) for order in kept), rel=0.05)


def test_what_many_hold_counts_once() -> None:
    """Each of a thousand lists counts its part."""
    shared = bytes(20_000_000)
    before = whole()
    kept = [[shared] for _ in range(1000)]

    after = whole()

    grown = of(after, "bytes")[1] - of(before, "bytes")[1]
    assert len(kept) == 1000
    assert grown < 22_000_000, "a thousand times as much, if each counted all of it"


def test_large_containers_are_sampled_and_named(module: ModuleType) -> None:
    """A dictionary of a hundred thousand, held by a module."""
    before = of(whole(), "bytes")[1]
    module.seen = {number: b"%d" % number * 20 for number in range(100_000)}  # type: ignore[attr-defined]

    found = whole(Scope(frozenset(["shop_of_tests"])))

    assert "shop_of_tests.seen" in [each["name"] for each in found.containers]
    size = sum(map(sys.getsizeof, module.seen.values()))
    assert of(found, "bytes")[1] - before == pytest.approx(size, rel=0.3)


def test_what_the_survey_itself_holds_is_not_among_the_largest(module: ModuleType) -> None:
    """The names of thirteen thousand things take more than a list of six thousand does."""
    module.wide = [[[number, part] for part in range(13)] for number in range(heap.WIDE)]  # type: ignore[attr-defined]
    names = heap._names(Scope(frozenset(["shop_of_tests"])))
    kept = list(range(6000))

    count = heap._Count(names)
    count.take([names, kept])

    assert sys.getsizeof(names) > sys.getsizeof(kept)
    assert [thing for _, thing in count.largest] == [kept]


def test_a_survey_that_runs_out_of_time_extrapolates() -> None:
    """From what it has seen by then, in no order of age."""
    kept = [Order(b"") for _ in range(60_000)]
    every = whole()

    part = heap.survey(Scope(), seconds=every.seconds / 4)

    assert len(kept) == 60_000
    assert every.share == 1.0
    assert 0 < part.share < 1
    assert of(part, f"{__name__}.Order")[0] == pytest.approx(60_000, rel=0.5)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100, 501])
def test_the_order_of_the_steps_leaves_none_out(count: int) -> None:
    steps = range(0, count * heap.STEP, heap.STEP)

    assert sorted(heap._scattered(steps)) == list(steps)


def test_what_cannot_say_its_size_or_name_does_no_harm(module: ModuleType) -> None:
    """A __sizeof__ that raises, a metaclass without a name, an object whose attributes raise."""

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            if name == "__qualname__":
                raise RuntimeError
            return super().__getattribute__(name)

    class Strange(metaclass=Meta):
        def __sizeof__(self) -> int:
            raise RuntimeError

        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError

    module.strange = [Strange() for _ in range(3)]  # type: ignore[attr-defined]

    found = whole(Scope(frozenset(["shop_of_tests"])))

    assert any("Strange" in name for name, _, _ in found.types)


def test_the_report_of_pythons_allocator_is_read() -> None:
    """Its sums; None where another allocator is in use."""
    found = heap.parse_arenas(REPORT)

    assert found is not None
    assert (found["used"], found["free"], found["system"]) == (2_409_488, 736_240, 3_145_728)
    assert heap.parse_arenas("nothing of the kind") is None


def test_allocators_agree_with_what_is_allocated() -> None:
    """Twenty megabytes more in small objects, and in large ones."""
    before = heap.allocators()
    small, large = [bytes(bytearray(200)) for _ in range(80_000)], [bytearray(b"x" * 20_000) for _ in range(1000)]

    after = heap.allocators()

    assert len(small) + len(large) == 81_000
    if before["python"] is not None:
        assert after["python"]["used"] - before["python"]["used"] > 15_000_000
    if before["malloc"] is not None:
        assert after["malloc"]["used"] - before["malloc"]["used"] > 19_000_000
    assert after["anonymous"] > 35_000_000  # it may have been taken from what was free


def test_collecting_says_what_was_garbage() -> None:
    """Objects in a ring, which only the collector can free."""
    gc.collect()
    for _ in range(500):
        ring: list[Any] = []
        ring.append(ring)
    del ring

    found = heap.collect()

    assert found["objects"] >= 400
    assert found["rss"] > 0
    assert heap.collector()["enabled"] == gc.isenabled()


def test_tracing_names_the_line_that_allocated() -> None:
    """Only between start and stop."""
    tracing = Tracing()
    assert tracing.facts() == {"on": False}

    tracing.start()
    kept = [bytes(bytearray(1000)) for _ in range(1000)]
    found = tracing.facts()
    tracing.stop()

    assert len(kept) == 1000
    assert found["lines"][0]["bytes"] >= 1_000_000
    assert found["lines"][0]["lines"][0].startswith(__file__)
    assert not tracemalloc.is_tracing()


def test_a_dump_has_objects_and_no_contents(module: ModuleType, tmp_path: Path) -> None:
    """JSON lines, mode 0600, never over another file."""
    module.kept = [Order(b"secret-of-a-customer")]  # type: ignore[attr-defined]
    file = tmp_path / "heap"

    said = heap.dump(str(file), {"worker": 3}, Scope(frozenset(["shop_of_tests"])), Tracing())

    text = file.read_text()
    head, *objects = map(json.loads, text.splitlines())
    [kept] = [each for each in objects if each.get("name") == "shop_of_tests.kept"]
    orders = {each["id"] for each in objects if each["type"] == f"{__name__}.Order"}
    assert head["worker"] == 3
    assert said["objects"] == len(objects)
    assert set(kept["refs"]) <= orders
    assert "of-a-customer" not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        heap.dump(str(file), {}, Scope(), Tracing())
