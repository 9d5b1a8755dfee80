"""What a worker writes is what others read: also while it is being written, and after the worker has died."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.scoreboard import (
    ASSIGN_SEQ,
    DURATION_BOUNDS,
    ERROR_KINDS,
    ERRORS,
    HISTOGRAMS,
    LAYOUT_VERSION,
    LOG_BYTES,
    LOG_ENTRY,
    MAX_ASSIGNED,
    MAX_JOBS,
    MAX_STRINGS,
    MAX_THREADS,
    MESSAGES,
    STATES,
    W_MAGIC,
    Bulletin,
    Scoreboard,
)


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    """The board of worker 3."""
    made = Scoreboard.create(3)
    yield made
    made.close()


@pytest.fixture
def reader(board: Scoreboard) -> Iterator[Scoreboard]:
    """The same memory, as another process sees it."""
    attached = Scoreboard.attach(os.dup(board.fd))
    yield attached
    attached.close()


def test_what_is_written_is_read_by_others(board: Scoreboard, reader: Scoreboard) -> None:
    """State, groups, jobs, threads, partitions, errors and histograms."""
    group, topic = board.string("shop"), board.string("orders")
    slot = board.add_group("shop")
    board.set_state("running")
    board.polled(slot, 12.5)
    board.joined(slot, 11.5, 2)
    board.job_begin(7, 20.25, 300.0, (group, topic, 4, 100, 199, 2))
    board.add_thread("processing 7", ident=4711)
    board.set_assigned(
        [(group, topic, 4, 200, 150, 260, 19.0, True, 0.0), (group, topic, 5, 0, -1001, -1001, 0.0, False, 0.0)]
    )
    board.set_error("boot failed: ü")
    board.count_error("commit")

    assert (reader.index, reader.state, reader.error) == (3, "running", "boot failed: ü")
    [member] = reader.groups()
    assert (member.group, member.poll_at, member.joined_at, member.partitions) == ("shop", 12.5, 11.5, 2)
    [job] = reader.jobs()
    assert (job.group, job.topic, job.partition, job.first_offset, job.last_offset, job.attempt) == (
        "shop",
        "orders",
        4,
        100,
        199,
        2,
    )
    assert (job.started_at, job.limit) == (20.25, 300.0)
    assert reader.threads() == {4711: "processing 7"}
    first, second = reader.assigned()
    assert (first.topic, first.partition, first.position, first.lag) == ("orders", 4, 200, 110)
    assert second.lag is None
    assert reader.errors_by_kind()["commit"] == 1


def test_counters_survive_the_worker_and_what_was_its_own_does_not(board: Scoreboard, reader: Scoreboard) -> None:
    """A restart is no reset: totals go on; state, groups, jobs, threads, partitions and the error are the successor's."""
    slot = board.add_group("shop")
    board.add(MESSAGES, 41)
    board.add(ERRORS)
    board.batch_done(0, 10, 0.02)
    board.set_state("running")
    board.job_begin(0, 1.0, 0.0, (0, 0, 0, 0, 0, 1))
    board.set_assigned([(0, 0, 0, 0, 0, 0, 0.0, False, 0.0)])
    board.add_thread("main")
    board.set_error("it died")
    board.polled(slot, 5.0)
    board.ints[ASSIGN_SEQ] += 1  # killed in the middle of writing

    board.clear()
    board.add(MESSAGES)

    assert reader.ints[MESSAGES] == 42
    assert reader.ints[ERRORS] == 1
    assert reader.histogram("batch_size").count == 1
    assert (reader.state, reader.groups(), reader.jobs(), reader.threads(), reader.assigned()) == (
        "none",
        [],
        [],
        {},
        [],
    )
    assert reader.error == ""
    assert board.add_group("other") == 0
    assert [group.group for group in reader.groups()] == ["other"]


class Meddled:
    """The reader's words; at one chosen reading of them the worker rewrites its table."""

    def __init__(self, ints: Any, at: int, rewrite: Callable[[], None]) -> None:
        self._ints = ints
        self._left = at
        self._rewrite = rewrite

    def __getitem__(self, word: int) -> int:
        self._left -= 1
        if self._left == 0:
            self._rewrite()
        return int(self._ints[word])


@given(st.integers(1, 60))
def test_a_reader_never_sees_half_a_table(at: int) -> None:
    """Wherever the worker's rewriting falls in, the reader gets the old table or the new one, not a mixture."""
    board = Scoreboard.create(0)
    try:
        name = (board.string("shop"), board.string("orders"))
        tables = [
            [(*name, n, value, value, value, 0.0, False, 0.0) for n in range(count)]
            for value, count in ((1, 6), (2, 4))
        ]
        board.set_assigned(tables[0])
        board.ints = Meddled(board.ints, at, lambda: board_of_worker.set_assigned(tables[1]))  # type: ignore[assignment]
        board_of_worker = Scoreboard.attach(os.dup(board.fd))

        seen = board.assigned()

        board.ints = board_of_worker.ints
        assert [(view.partition, view.position, view.high) for view in seen] in [
            [(n, 1, 1) for n in range(6)],
            [(n, 2, 2) for n in range(4)],
        ]
    finally:
        board_of_worker.close()


@given(st.lists(st.integers(0, 5000), max_size=40))
def test_the_last_log_lines_are_there_when_the_process_is_gone(sizes: list[int]) -> None:
    """All of them while they fit, else the newest; a long one keeps its beginning and its end; a successor has none."""
    board = Scoreboard.create(0)
    reader = Scoreboard.attach(os.dup(board.fd))
    lines = [f"{number} begins {'é' * size} {number} ends" for number, size in enumerate(sizes)]
    room = LOG_BYTES
    fitting = [line for line in reversed(lines) if (room := room - min(len(line.encode()), LOG_ENTRY + 5) - 1) >= 0]
    try:
        for line in lines:
            board.keep_line(line)
        seen, newest = reader.last_lines(100), reader.last_lines(3)
        board.clear()

        assert len(fitting) <= len(seen) + 1, "but for one that may be written over in part"
        for line, shown in zip(reversed(lines), reversed(seen), strict=False):
            head, _, tail = line.partition(" é")
            assert shown == line or (len(line.encode()) > LOG_ENTRY and shown.startswith(head))
            assert shown.endswith(tail[-8:])
        assert newest == seen[-3:]
        assert reader.last_lines(10) == []
    finally:
        board.close()
        reader.close()


def test_a_job_that_ends_is_not_seen(board: Scoreboard, reader: Scoreboard) -> None:
    """But one in hand is, also after the process that ran it is gone."""
    board.job_begin(1, 5.0, 0.0, (0, 0, 1, 0, 0, 1))
    board.job_begin(MAX_JOBS - 1, 6.0, 0.0, (0, 0, 2, 0, 0, 1))
    board.job_end(1)

    assert [job.partition for job in reader.jobs()] == [2]


def test_a_thread_that_gets_the_identity_of_one_that_has_ended_takes_its_place(
    board: Scoreboard, reader: Scoreboard
) -> None:
    """pthreads hands identities out again: threads that come and go must not fill the table."""
    for number in range(MAX_THREADS + 10):
        board.add_thread(f"upload {number}", ident=4711)
    board.add_thread("main", ident=1)

    assert reader.threads() == {4711: f"upload {MAX_THREADS + 9}", 1: "main"}


def test_more_than_fits_harms_nothing_else(board: Scoreboard, reader: Scoreboard) -> None:
    """Too many names, threads or partitions, too long texts: cut off, never written over a neighbour."""
    slot = board.add_group("shop")
    board.polled(slot, 9.0)
    for number in range(MAX_STRINGS + 10):
        board.string(f"topic-{number}" * 50)
    for number in range(MAX_THREADS + 10):
        board.add_thread("t" * 200, ident=number)
    board.set_assigned([(0, 0, number, 0, 0, 0, 0.0, False, 0.0) for number in range(MAX_ASSIGNED + 10)])
    board.set_error("e" * 10_000)

    [member] = reader.groups()
    assert (member.group, member.poll_at) == ("shop", 9.0)
    assert len(reader.threads()) == MAX_THREADS
    assert len(reader.assigned()) == MAX_ASSIGNED
    assert set(reader.error) == {"e"}
    assert reader.jobs() == []


@given(st.lists(st.floats(0.0, 1e6), max_size=50))
def test_a_histogram_counts_each_value_in_its_bucket(values: list[float]) -> None:
    """A value on a bound belongs below it, as Prometheus has it; the rest is above all bounds."""
    board = Scoreboard.create(0)
    try:
        for value in values:
            board.observe("commit_duration_seconds", value)
        seen = board.histogram("commit_duration_seconds")
    finally:
        board.close()

    expected = [0] * (len(DURATION_BOUNDS) + 1)
    for value in values:
        expected[sum(bound < value for bound in DURATION_BOUNDS)] += 1
    assert list(seen.buckets) == expected
    assert seen.count == len(values)
    assert seen.sum == pytest.approx(sum(values))


def test_the_layout_holds_what_it_promises(board: Scoreboard, reader: Scoreboard) -> None:
    """Every state, every kind of error, every histogram has its place."""
    for state in STATES:
        board.set_state(state)
        assert reader.state == state
    for kind in ERROR_KINDS:
        board.count_error(kind)
    for name in HISTOGRAMS:
        board.observe(name, 1.0)

    assert reader.errors_by_kind() == dict.fromkeys(ERROR_KINDS, 1)
    assert {name: reader.histogram(name).count for name in HISTOGRAMS} == dict.fromkeys(HISTOGRAMS, 1)
    assert reader.ints[MESSAGES] == 0


def test_another_layout_is_refused(board: Scoreboard) -> None:
    """After an upgrade in place the old memory is not misread."""
    board.ints[W_MAGIC] += 1

    fd = os.dup(board.fd)
    with pytest.raises(ValueError, match=f"layout {LAYOUT_VERSION}"):
        Scoreboard.attach(fd)


def test_the_bulletin_is_read_whole_or_not_at_all() -> None:
    """The observer gets the latest whole snapshot, an empty one before the first and in the middle of a write."""
    bulletin = Bulletin.create()
    reader = Bulletin(bulletin.fd)

    assert reader.read() == {}
    bulletin.post({"state": "running", "workers": list(range(1000))})
    bulletin.post({"state": "quiet"})
    assert reader.read() == {"state": "quiet"}
    bulletin.came_round(12.5)
    assert reader.loop_at == 12.5
    bulletin._ints[0] += 1  # the supervisor died in the middle of a post
    assert reader.read() == {}
