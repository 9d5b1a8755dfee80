"""Log lines: the contract's JSON, and a stderr that nobody reads holds nobody up."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from swarm import events
from swarm.logs import Log, Output, install

RESERVED = {"timestamp", "level", "event"}


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe to write log lines into."""
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def lines(read: int) -> list[Any]:
    os.set_blocking(read, False)
    text = b""
    while True:
        try:
            text += os.read(read, 1 << 20)
        except BlockingIOError:
            return [json.loads(line) for line in text.splitlines()]


def test_a_json_line_is_the_contract_s(pipe: tuple[int, int]) -> None:
    """timestamp, level, event in snake_case, worker, pid, then the event's fields; the event's own worker and pid win."""
    log = Log("info", "json", Output(pipe[1]), worker=2)

    log.event(events.TopicMissing("shop", "orders"))
    log.event(events.WorkerExited(1, 4711, None, "SIGKILL", "killed", "words"))
    log.event(events.BatchConsumed("shop", "orders", 0, 1, 2, 2, 1, 0.5))

    first, second = lines(pipe[0])
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "level": "warning",
        "event": "topic_missing",
        "worker": 2,
        "pid": os.getpid(),
        "group": "shop",
        "topic": "orders",
    }
    assert (second["event"], second["worker"], second["pid"]) == ("worker_exited", 1, 4711)
    assert (second["code"], second["signal"], second["reason"]) == (None, "SIGKILL", "killed")


@pytest.mark.parametrize("event", events.CATALOGUE.values(), ids=lambda event: event.__name__)
def test_no_event_overwrites_what_a_line_says_of_itself(event: type[events.Event]) -> None:
    """A field called `event` would replace the event's own name."""
    assert not RESERVED & {field.name for field in fields(event)}


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_full_pipe_delays_nobody_and_the_loss_is_said(pipe: tuple[int, int], style: str) -> None:
    """Lines that do not fit are dropped, counted, and the count comes with the next line that fits, in the log's own form."""
    read, write = pipe
    output = Output(write, patience=0.001)
    log = Log("info", style, output)
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"\n" * 4096)
    except BlockingIOError:
        os.set_blocking(write, True)

    began = time.monotonic()
    for _ in range(3):
        log.event(events.SwarmResumed())
    took = time.monotonic() - began
    os.read(read, 1 << 20)
    log.event(events.SwarmQuiet())

    text = os.read(read, 1 << 20).decode()
    assert took < 1.0
    if style == "json":
        lost, then = (json.loads(line) for line in text.splitlines())
        assert (lost["event"], lost["count"], then["event"]) == ("log_lines_dropped", 3, "swarm_quiet")
    else:
        assert text.startswith("(3 log lines were dropped")
        assert "swarm quiet" in text


def test_a_closed_stderr_is_no_error() -> None:
    """A daemon whose terminal has gone goes on."""
    read, write = os.pipe()
    os.close(read)
    log = Log("info", "console", Output(write))

    log.event(events.SwarmResumed())
    os.close(write)
    log.event(events.SwarmResumed())

    assert log._output._dropped == 2


def test_the_application_s_own_logging_comes_in_the_same_form(pipe: tuple[int, int]) -> None:
    """With its level, logger and traceback; a record whose arguments do not fit raises nothing in the code that logs."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        root.handlers[:] = []  # pytest's own would raise where ours must not
        install(Log("info", "json", Output(pipe[1])))
        try:
            raise ValueError("inner")
        except ValueError:
            logging.getLogger("shop.orders").exception("failed for %s", "x")
        logging.getLogger("shop").info("%d of %d", "three")  # noqa: PLE1206  # the mistake is the point
        logging.getLogger("shop").debug("not this")
    finally:
        root.handlers[:], root.level = before

    failed, odd = lines(pipe[0])
    assert (failed["level"], failed["event"], failed["logger"]) == ("error", "log", "shop.orders")
    assert failed["message"] == "failed for x"
    assert "ValueError: inner" in failed["traceback"]
    assert "three" in odd["message"]


def test_a_console_line_stays_one_line_but_for_backtraces(pipe: tuple[int, int]) -> None:
    """What a person reads: time, level, who, what; a backtrace is indented below."""
    log = Log("info", "console", Output(pipe[1]), worker=1)

    log.event(events.BacktraceDumped(1, 77, "Thread 1\n  File x"))

    first, *rest = os.read(pipe[0], 10_000).decode().splitlines()
    assert "worker 1" in first
    assert "backtrace dumped" in first
    assert rest == ["    Thread 1", "      File x"]


def test_long_lines_of_several_processes_stay_whole_in_a_file(tmp_path: Path) -> None:
    """A backtrace of all threads is longer than a pipe takes at once; a file takes any length, and nobody writes in between."""
    program = textwrap.dedent("""
        import os, sys
        from swarm.logs import Output
        output = Output(2)
        for _ in range(200):
            output.write(sys.argv[1] * 20_000)
    """)
    file = tmp_path / "log"
    with file.open("ab") as log:
        writers = [subprocess.Popen([sys.executable, "-c", program, letter], stderr=log) for letter in "abc"]
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]

    lines = file.read_text().splitlines()
    assert len(lines) == 600
    assert {(len(line), len(set(line))) for line in lines} == {(20_000, 1)}


def test_the_journal_gets_a_priority_with_each_line(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr is what systemd says the journal is; a traceback's lines keep their event's."""
    journal = os.fstat(pipe[1])
    monkeypatch.setenv("JOURNAL_STREAM", f"{journal.st_dev}:{journal.st_ino}")
    log = Log("debug", "console", Output(pipe[1]))

    for level in ("debug", "info", "warning"):
        log.line(level, "log", {"message": "x"})
    log.line("error", "log", {"traceback": "first\nsecond"})

    text = os.read(pipe[0], 1 << 16).decode().splitlines()
    assert [line[:3] for line in text] == ["<7>", "<6>", "<4>", "<3>", "<3>", "<3>"]
    assert text[-1] == "<3>    second"


def test_nobody_else_gets_priorities(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A service whose stderr was sent elsewhere still has the variable in its environment."""
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")

    Log("info", "json", Output(pipe[1])).line("error", "log", {})

    assert [line["level"] for line in lines(pipe[0])] == ["error"]


def test_each_line_is_kept_too_also_where_stderr_takes_none() -> None:
    """An incident's last lines are there when the log's reader hangs."""
    kept: list[str] = []
    output = Output(os.open("/dev/full", os.O_WRONLY))
    log = Log("info", "json", output, worker=2)
    log.keep(kept.append)

    log.event(events.TopicMissing("shop", "orders"))
    log.event(events.BatchConsumed("shop", "orders", 0, 1, 2, 2, 1, 0.5))

    assert [json.loads(line)["event"] for line in kept] == ["topic_missing"]
