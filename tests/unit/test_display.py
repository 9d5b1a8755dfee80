"""A status answer as people see it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from swarm import display

NOW = 1_800_000_000.0


def worker(index: int, **changes: Any) -> dict[str, Any]:
    """A worker that is well, as `status --json` has it."""
    return {
        "index": index,
        "pid": 4_123_000 + index,
        "state": "running",
        "health": "ok",
        "uptime": 192.0,
        "restarts": 0,
        "last_exit": None,
        "report_age": 0.2,
        "poll_age": 0.1,
        "job_age": None,
        "messages": 999_999,
        "memory": {"rss": 48 << 20, "uss": 12 << 20, "pss": 20 << 20},
        "cpu_percent": 12.4,
        "assignment": [{"group": "shop", "topic": "orders", "partition": p, "lag": 41_000} for p in (0, 1, 2)],
    } | changes


def answer(*workers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A status with these workers."""
    return {
        "name": "shop",
        "pid": 4_122_999,
        "state": "running",
        "version": "0.1.0",
        "uptime": 500.0,
        "groups": ["shop"],
        "workers": list(workers),
    } | changes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0.0s"), (9.97, "10s"), (59.6, "1m00s"), (192, "3m12s"), (18_420, "5h07m"), (187_200, "2d04h")],
)
def test_a_duration_is_said_in_two_units_at_most(seconds: float | None, text: str) -> None:
    """Ages are humanised, and an unknown one is never 0."""
    assert display.duration(seconds) == text


@pytest.mark.parametrize(("lags", "text"), [([], "-"), ([None], "-"), ([0, 0], "0"), ([5, None, 7], "12+")])
def test_a_lag_that_is_partly_unknown_says_so(lags: list[int | None], text: str) -> None:
    """Unknown lag is "-", partly unknown lag has a plus, and 0 is a measured 0."""
    assert display.lag(lags) == text


def test_partitions_are_drawn_together() -> None:
    """A worker's partitions fit into a column: topics in order, runs as ranges."""
    held = [{"group": "g", "topic": t, "partition": p} for t, p in [("b", 7), ("a", 0), ("a", 2), ("a", 1), ("a", 5)]]

    assert display.partitions(held) == "a/0-2,5 b/7"
    assert display.partitions([]) == "-"


def test_a_worker_without_a_process_shows_unknowns_and_not_zeros() -> None:
    """What is not known of a worker in backoff is "-"."""
    gone = worker(
        1, pid=None, state="backoff", uptime=None, cpu_percent=None, assignment=[], memory={"rss": None, "uss": None}
    )

    assert display.cells(answer(gone))[0] == ["1", "-", "backoff", "-", "0", "999,999", "-", "-", "-", "-"]


def test_memory_of_all_workers_is_of_one_kind() -> None:
    """Numbers in one column can be compared: where one worker has no USS, no worker shows its USS."""
    rows = display.cells(answer(worker(0), worker(1, memory={"rss": 50 << 20, "uss": None, "pss": None})))

    assert [row[7] for row in rows] == ["48.0M", "50.0M"]


def test_a_replaced_worker_is_explained_in_words() -> None:
    """Below the table stands why a worker was replaced, when, and the reason's own word."""
    last_exit = {"code": None, "signal": "SIGKILL", "reason": "poll_timeout", "at": NOW - 72}

    text = display.plain(answer(worker(2, restarts=1, last_exit=last_exit)), NOW)

    assert "worker 2, last exit 1m12s ago: had not polled for too long" in text
    assert "(poll_timeout, SIGKILL)" in text


def test_who_does_not_get_on_is_told_of_with_the_command_that_says_why() -> None:
    """A handler that runs long, one that fails, and a start that does not come to an end; a start of a moment is none of these."""
    slow = worker(0, health="slow", job_age=20.0, errors=5)
    begins = worker(1, state="starting", state_for=3.0)
    never = worker(2, state="starting", state_for=70.0)

    texts = display.remarks(answer(slow, begins, never), NOW)

    assert [text.partition(".")[0].partition(",")[0] for text in texts] == [
        "worker 0 is slow: its job has been running for 20s",
        "worker 0: 5 runs of a handler failed so far; swarmctl why 0 and the log say which",
        "worker 2 has been starting for 1m10s: swarmctl why 2 says what it waits for",
    ]
    all_of_them = answer(*(worker(index, state="starting", state_for=70.0) for index in range(64)))
    assert display.remarks(all_of_them, NOW) == [
        "workers 0-63 have been starting for 1m10s: swarmctl why 0 says what it waits for."
    ]


def test_what_is_to_be_mended_is_said_with_cause_and_fix() -> None:
    """A finding of the supervisor's, as `doctor` will say it; whoever looks at the table sees it."""
    finding = {"severity": "error", "what": "two daemons", "cause": "One name.", "fix": "Rename one.", "evidence": "x"}

    assert display.remarks({"workers": [], "findings": [finding]}, 0.0) == ["error: two daemons. One name. Rename one."]


def test_an_answer_with_missing_fields_is_still_shown() -> None:
    """A supervisor of another version must not break `swarmctl status`."""
    assert "- " in display.plain({"workers": [{"index": 0}]}, NOW)


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    """Large numbers and a bad state neither overflow 80 columns nor hide a partition."""
    crowded = worker(12, state="stopping", health="slow", uptime=200_000, restarts=12, cpu_percent=399.0)
    out = io.StringIO()

    Console(file=out, width=80).print(display.drawing(answer(worker(0), crowded), NOW))

    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out.getvalue()
    for text in ("4123012", "stopping/slow", "999,999", "123,000", "399%", "orders/0-2"):
        assert text in out.getvalue().replace("\n", "")


def test_a_message_that_kills_processes_is_named_once_it_is_condemned() -> None:
    suspect = {"group": "shop", "topic": "orders", "partition": 3, "first_offset": 7, "last_offset": 7, "deaths": 3}
    said = display.remarks(answer(worker(0), suspects=[suspect | {"condemned": True}]), NOW)

    assert any(
        "message 7 of orders/3 (group shop) killed its process 3 times: it never runs again." in text for text in said
    )
    assert display.remarks(answer(worker(0), suspects=[suspect | {"condemned": False}]), NOW) == []


def test_partitions_that_are_paused_stand_still_or_have_nobody_are_named() -> None:
    """Each with what somebody has to know to do something about it; a pause with what was taken out of it since."""
    standing = {"group": "shop", "topic": "orders", "partition": 3, "position": 41, "lag": 9, "standing": 70.0}
    moving = {"group": "shop", "topic": "orders", "partition": 4, "position": 50, "lag": 0, "standing": None}
    words = [
        {"paused": True, "topic": "clicks", "partition": None, "group": None},
        {"paused": True, "topic": "emails", "partition": 2, "group": "billing"},
        {"paused": False, "topic": "clicks", "partition": 0, "group": None},
    ]
    unowned = [{"group": "shop", "topic": "orders", "partition": n, "for": 60.0 + n} for n in (5, 6)]

    said = display.remarks(answer(worker(0, assignment=[standing, moving]), paused=words, unowned=unowned), NOW)

    assert said == [
        "orders/3 (worker 0, group shop) stands still at 41 for 1m10s although its log grows.",
        "nobody in group shop has orders/5,6, since 1m06s ago or longer.",
        "paused: clicks but clicks/0, emails/2 (group billing).",
    ]
