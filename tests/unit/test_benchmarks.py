"""What is made of measurements: ratios within a run, verdicts on targets, tables between marks. Measures nothing itself."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def contestant(kind: str, seconds: list[float]) -> dict[str, Any]:
    runs = [{"run": number, "messages": 1000, "seconds": each} for number, each in enumerate(seconds)]
    figures = {"median": 1000 / sorted(seconds)[len(seconds) // 2], "lowest": 1.0, "highest": 2.0}
    return {
        "kind": kind,
        "form": "batch",
        "messages_per_second": figures,
        "cpu_seconds_per_million": figures,
        "peak_memory": figures,
        "to_first": figures,
        "runs": runs,
    }


def results(**contestants: dict[str, Any]) -> dict[str, Any]:
    return {"throughput": {"contestants": {"consume": contestant("raw", [1.0, 2.0, 4.0]), **contestants}, "failed": {}}}


def test_a_ratio_is_taken_within_each_run(load: Any) -> None:
    """Ours was as fast as the bare loop in every run, however slow the machine was in that one."""
    found = load("targets").verdicts(results(batch=contestant("ours", [1.0, 2.0, 4.0])))

    assert (found[0].target.what.startswith("batch, against"), found[0].figure, found[0].met) == (True, 1.0, True)


def test_a_run_that_failed_is_compared_with_none(load: Any) -> None:
    """The second of ours is missing: what is left belongs to the first and the third of theirs."""
    ours = contestant("ours", [1.0, 2.0, 8.0])
    del ours["runs"][1]

    assert load("figures").of_same_runs(ours["runs"], contestant("raw", [1.0, 2.0, 4.0])["runs"]) == [1.0, 0.5]


def test_a_target_that_is_missed_is_said_to_be(load: Any) -> None:
    found = load("targets").verdicts(results(batch=contestant("ours", [2.0, 4.0, 8.0])))

    assert (found[0].figure, found[0].met) == (0.5, False)


def test_what_was_not_measured_is_neither_met_nor_missed(load: Any) -> None:
    found = load("targets").verdicts({})

    assert {each.met for each in found} == {None}
    assert {each.shown for each in found} == {"not measured"}


def test_a_contestant_that_failed_is_named_with_its_reason(load: Any) -> None:
    found = results(batch=contestant("ours", [1.0]))
    found["throughput"]["failed"]["arroyo"] = "not installed"
    machine = {
        "peers": {},
        "python": "3.11",
        "confluent_kafka": "2",
        "librdkafka": "2",
        "load": 0.1,
        "cpus": 2,
        "cpu": "x",
        "memory_gib": 1,
        "linux": "6",
    }
    found["throughput"] |= {"machine": machine, "at": "now", "rounds": 1, "took": 1.0}

    assert "| arroyo | failed | not installed |" in load("report").text(found)


def test_a_table_replaces_what_is_between_its_marks(load: Any, tmp_path: Path) -> None:
    report = load("report")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN.format('x')}\nold\n{report.END.format('x')}\nafter\n")

    report.between(page, "x", "new")
    report.between(page, "another", "nowhere")

    assert page.read_text() == f"before\n{report.BEGIN.format('x')}\n\nnew\n\n{report.END.format('x')}\nafter\n"


def test_pages_have_marks_for_every_table(load: Any) -> None:
    """Else a table that is measured is shown nowhere."""
    report = load("report")
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    names = ["targets", "machine", "throughput", "latency", "slices", "scaling", "startup", "takeover", "idle"]

    assert [name for name in [*names, "private memory"] if report.BEGIN.format(name) not in page] == []
    assert report.BEGIN.format("benchmarks") in (ROOT / "README.md").read_text()


def test_bounds_speak_of_contestants_that_run_in_the_quick_round(load: Any) -> None:
    field, path = load("field"), load("path")
    bounds = json.loads((ROOT / "benchmarks" / "bounds.json").read_text())

    assert set(bounds["ratio"]) <= set(field.QUICK)
    assert set(bounds["calls"]) <= set(path.FORMS)


@pytest.mark.parametrize("form", ["batch", "each", "async_each", "virtual"])
def test_calls_on_the_way_of_a_message_are_within_their_bounds(load: Any, form: str) -> None:
    """Functions called per batch (per message for `each`), counted and so the same on every machine: more of them is slower."""
    bounds = json.loads((ROOT / "benchmarks" / "bounds.json").read_text())

    assert load("path").calls(form, passes=2) <= bounds["calls"][form]
