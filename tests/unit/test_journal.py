"""What a process says to its journal is what is read back, whatever happens to the files, and nothing of it ever stops the process."""

from __future__ import annotations

import gc
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import events
from swarm import journal_format as form
from swarm.bus import Bus
from swarm.journal import GRAIN, RETRY, Journal, LaneLog
from swarm.journal_reader import Assignment, History, Run, read
from swarm.journal_store import SMALLEST_SEGMENT, Store
from swarm.plan import Plan, make_plan

MIB = 1 << 20


@dataclass(frozen=True)
class At:
    """A message, of which only the offset matters."""

    number: int

    def offset(self) -> int:
        return self.number


class Desk:
    """A directory with journals, and a clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = self.began = time.time()
        self.said: list[events.Event] = []
        self.pid = 100

    def journal(
        self, worker: int | None = 0, *, pid: int | None = None, size: int = MIB, age: float = 1e6, brief: bool = False
    ) -> Journal:
        self.pid += 1
        identity = {
            "pid": pid or self.pid,
            "began_at": self.now,
            "worker": worker,
            "name": "shop",
            "host": "here",
            "version": "1",
        }
        bus = Bus([(events.Event, self.said.append)])
        writer = "supervisor" if worker is None else f"worker-{worker:04d}"
        made = Journal(
            lambda preface: Store(self.directory, writer, size, age, preface, lambda: self.now),
            identity,
            bus,
            brief=brief,
            clock=lambda: self.now,
        )
        made.listen(bus)
        self.bus = bus
        self.newest = made
        return made

    def die(self) -> None:
        """Let go of all that the newest journal holds, as the end of its process does."""
        self.newest._store.close()
        del self.newest
        self.bus = Bus([])
        gc.collect()

    def read(self) -> History:
        return read([self.directory])

    def only(self) -> Assignment:
        (assignment,) = self.read().assignments()
        return assignment

    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "state" / "journal")


def lane(journal: Journal, start: int = 0, plan: Plan | None = None, partition: int = 3) -> LaneLog:
    return journal.lane("shop", "orders", partition, start, plan or make_plan(handler=print, topics=("orders",)))


def run(log: LaneLog, first: int, last: int, attempt: int = 1, seconds: float = 0.01) -> None:
    log.begin([At(n) for n in range(first, last + 1)], first, last, attempt)
    log.done(last + 1, last - first + 1, seconds)


def seen(runs: list[Run]) -> list[tuple[int, int, int, str]]:
    return [(each.start, each.end, each.attempt, each.outcome) for each in runs]


def test_batches_that_follow_each_other_are_one_growing_record(desk: Desk) -> None:
    """So two thousand of them a second cost no more space than one."""
    log = lane(desk.journal(), 10)
    for first in range(10, 10_010, 100):
        run(log, first, first + 99, seconds=0.002)

    (found,) = desk.only().runs
    assert (found.start, found.end, found.batches, found.messages) == (10, 10_010, 100, 10_000)
    assert found.seconds == pytest.approx(0.2)
    assert found.longest == 0.002
    assert sum(found.histogram) == 100


def test_a_record_ends_after_a_while_so_that_one_can_tell_when(desk: Desk) -> None:
    """A history of one record would be of no time."""
    log = lane(desk.journal())
    run(log, 0, 9)
    desk.now += GRAIN + 1
    run(log, 10, 19)

    assert seen(desk.only().runs) == [(0, 10, 1, "done"), (10, 20, 1, "done")]


def test_what_is_in_hand_when_the_process_dies_is_seen(desk: Desk) -> None:
    """Nothing has to be written at the end for that: the pages of the file have it."""
    log = lane(desk.journal())
    run(log, 0, 9)
    log.begin([At(10), At(11)], 10, 11, 1)

    assert seen(desk.only().runs) == [(0, 10, 1, "done"), (10, 12, 1, "in_hand")]


def test_holes_of_the_log_and_messages_that_were_skipped_are_passed_over(desk: Desk) -> None:
    """What one assignment goes on behind, it is done with."""
    log = lane(desk.journal(), 5)
    run(log, 7, 9)
    run(log, 15, 19)

    assert seen(desk.only().runs) == [(5, 20, 1, "done")]


def test_a_failed_run_and_its_retry_are_two_runs_with_the_error(desk: Desk) -> None:
    """That is what explains the second one."""
    log = lane(desk.journal())
    run(log, 0, 9)
    log.begin([At(n) for n in range(10, 20)], 10, 19, 1)
    log.failed("failed", [At(n) for n in range(10, 20)], 1, "ValueError: no", 0.5)
    run(log, 10, 19, attempt=2)
    run(log, 20, 29)

    runs = desk.only().runs
    assert seen(runs) == [(0, 10, 1, "done"), (10, 20, 1, "failed"), (10, 20, 2, "done"), (20, 30, 1, "done")]
    assert runs[1].error == "ValueError: no"
    assert runs[1].seconds == 0.5


def test_a_run_with_holes_is_recorded_without_them(desk: Desk) -> None:
    """What other slices have done is not done again."""
    log = lane(desk.journal())
    batch = [At(n) for n in range(10)]
    log.begin(batch, 0, 9, 1)
    log.failed("failed", batch, 1, "ValueError: no", 0.1)
    log.begin([At(2), At(3), At(7)], 2, 7, 2)
    log.done(8, 3, 0.1)

    assert seen(desk.only().runs)[1:] == [(2, 4, 2, "done"), (7, 8, 2, "done")]


def test_of_a_run_that_was_asked_to_end_early_the_rest_was_not_seen(desk: Desk) -> None:
    """It comes again, and is then seen for the first time."""
    log = lane(desk.journal())
    log.begin([At(n) for n in range(10)], 0, 9, 1)
    log.done(4, 4, 0.1)
    run(log, 4, 9)

    assert seen(desk.only().runs) == [(0, 10, 1, "done")]


def test_a_seek_begins_elsewhere(desk: Desk) -> None:
    """Backwards the messages are run again; forwards the ones between are not run."""
    log = lane(desk.journal())
    run(log, 0, 9)
    log.moved(4, "seek")
    run(log, 4, 9)
    log.moved(50, "seek")
    run(log, 52, 59)

    found = desk.only()
    assert seen(found.runs) == [(0, 10, 1, "done"), (4, 10, 1, "done"), (50, 60, 1, "done")]
    assert [(each.data["to"], each.data["position"]) for each in found.named("moved")] == [(4, 10), (50, 10)]


def test_commits_are_kept_with_their_time(desk: Desk) -> None:
    """Those of a few seconds as one; one that goes back is another."""
    log = lane(desk.journal())
    for offset in (5, 10):
        desk.bus.publish(events.OffsetsCommitted("shop", (("orders", 3, offset),)))
        desk.now += 1
    desk.bus.publish(events.OffsetsCommitted("shop", (("orders", 3, 2),)))
    log.fact("begun")

    assert [(each.offset, each.at - each.since) for each in desk.only().commits] == [(10, 1.0), (2, 0.0)]


def test_what_at_most_once_commits_before_its_run_is_kept_as_the_newest(desk: Desk) -> None:
    """In one record that is overwritten, and a new one after a while: a death finds what was not begun."""
    log = lane(desk.journal())
    log.committing(0, 8, 10)
    run(log, 0, 7)
    before = desk.newest._store._used
    log.committing(10, 15, 15)
    assert desk.newest._store._used == before
    found = desk.only().ahead
    assert found is not None
    assert (found.start, found.end, found.offset, found.at) == (10, 15, 15, desk.now)

    desk.now += GRAIN + 1
    log.committing(15, 20, 22)
    assert desk.newest._store._used > before
    found = desk.only().ahead
    assert found is not None
    assert (found.start, found.end, found.offset, found.at) == (15, 20, 22, desk.now)
    assert desk.read().processes[0].seen_at == desk.now


def test_events_of_an_assignment_are_among_its_facts(desk: Desk) -> None:
    """Without a word from the code that publishes them."""
    lane(desk.journal())
    desk.bus.publish(events.PartitionsAssigned("shop", (("orders", 3, 0),)))
    desk.bus.publish(events.CommitFailed("shop", (("orders", 3, 7),), "X", "refused"))
    desk.bus.publish(events.PartitionSought("shop", "orders", 3, 7))
    desk.bus.publish(events.MessageDeadLettered("shop", "orders", 3, 7, "dead", 3, "ValueError"))
    desk.bus.publish(events.ClientError("shop", "_MAX_POLL_EXCEEDED", "…", False, 1))
    desk.bus.publish(events.ClientError("shop", "_TRANSPORT", "…", False, 1))

    found = desk.only()
    assert [each.what for each in found.facts] == ["begun", "commit_failed", "moved", "message_dead_lettered"]
    assert [(each.what, each.data["code"]) for each in found.process.facts] == [("client_error", "_MAX_POLL_EXCEEDED")]


def test_an_assignment_ends_with_how_and_what_was_committed(desk: Desk) -> None:
    """After that, events of its partition are another one's."""
    journal = desk.journal()
    lane(journal).released("revoked", late=True, committed=7)
    desk.bus.publish(events.PartitionSought("shop", "orders", 3, 7))
    journal.end(0)

    found = desk.only()
    assert found.released is not None
    assert found.released.data == {"lane": 1, "how": "revoked", "late": True, "committed": 7}
    assert found.named("moved") == []
    assert found.process.ended is not None


def test_a_successor_writes_on_in_the_same_file(desk: Desk) -> None:
    """A worker that keeps dying must not push out the history with empty files."""
    for pid in (7, 8, 9):
        run(lane(desk.journal(pid=pid)), 0, pid)
        desk.die()

    history = desk.read()
    assert len(desk.files()) == 1
    assert [process.pid for process in history.processes] == [7, 8, 9]
    assert [seen(process.assignments[0].runs) for process in history.processes] == [
        [(0, pid + 1, 1, "done")] for pid in (7, 8, 9)
    ]


def test_a_file_that_somebody_holds_is_left_to_them(desk: Desk) -> None:
    """A process that the dead worker has forked, or another daemon of the same state directory."""
    first, second = desk.journal(pid=7), desk.journal(pid=8)
    run(lane(first), 0, 9)
    run(lane(second), 10, 19)

    assert len(desk.files()) == 2
    assert desk.read().troubles == []
    assert sum(len(process.assignments) for process in desk.read().processes) == 2


def test_each_file_stands_for_itself(desk: Desk) -> None:
    """The oldest are dropped: the newest has to say whose and of which partition its records are."""
    journal = desk.journal(pid=7)
    log, other = lane(journal), lane(journal, partition=4)
    other.fact("begun")
    while len(desk.files()) < 3:
        log.fact("noise", text="x" * 500)
    run(log, 0, 9)
    run(other, 0, 4)
    for name in desk.files()[:-1]:
        (desk.directory / name).unlink()

    assert {each.partition: seen(each.runs) for each in desk.read().assignments()} == {
        3: [(0, 10, 1, "done")],
        4: [(0, 5, 1, "done")],
    }


def test_a_record_that_grows_in_an_older_file_is_still_read(desk: Desk) -> None:
    """Another partition may have filled the file meanwhile."""
    journal = desk.journal()
    log, other = lane(journal), lane(journal, partition=4)
    run(log, 0, 9)
    while len(desk.files()) < 2:
        other.fact("noise", text="x" * 500)
    run(log, 10, 19)

    assert seen(next(desk.read().assignments(partition=3)).runs) == [(0, 20, 1, "done")]


def test_size_is_bounded_and_the_oldest_goes(desk: Desk) -> None:
    """And the reader knows since when it knows all."""
    journal = desk.journal(size=4 * SMALLEST_SEGMENT)
    log = lane(journal)
    for number in range(4000):
        desk.now += 1
        log.fact("noise", text="x" * 200, number=number)

    held = [(desk.directory / name).stat() for name in desk.files()]
    assert sum(each.st_blocks * 512 for each in held) <= 4 * SMALLEST_SEGMENT
    assert desk.only().facts[-1].data["number"] == 3999
    assert desk.only().facts[0].data["number"] > 0
    assert desk.read().horizons[str(desk.directory)] > desk.began


def test_what_is_too_old_is_dropped_also_of_workers_that_are_no_more(desk: Desk) -> None:
    """Nobody else would."""
    for worker in (0, 1):
        desk.journal(worker)._store.append(b"")
    for name in desk.files():
        os.utime(desk.directory / name, (desk.now - 7200, desk.now - 7200))
    journal = desk.journal(0, age=3600.0)
    journal.fact("noise")

    assert [name for name in desk.files() if name.startswith("worker-0001")] == []


def test_files_are_for_their_owner_alone(desk: Desk) -> None:
    """They name topics and groups, and what went wrong."""
    desk.journal().fact("noise")

    assert desk.directory.stat().st_mode & 0o777 == 0o700
    assert [(desk.directory / name).stat().st_mode & 0o777 for name in desk.files()] == [0o600]


def test_a_disk_that_is_full_costs_the_journal_and_nothing_else(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so once, is tried again, and tells what it has missed."""

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    journal = desk.journal()
    log = lane(journal)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        run(log, 0, 9)
        run(log, 10, 19, attempt=2)
        log.begin([At(20)], 20, 20, 1)
        log.failed("failed", [At(20)], 1, "ValueError", 0.1)
        log.committed(10)
        log.released("lost", late=False, committed=10)

    assert [type(event) for event in desk.said] == [events.JournalFailed]
    assert desk.files() == []
    desk.now += RETRY + 1
    run(lane(journal, 21), 21, 29)
    assert seen(desk.only().runs) == [(21, 30, 1, "done")]
    assert desk.read().horizons[str(desk.directory)] == desk.now


def test_a_full_disk_takes_the_oldest_first(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is newest is worth more."""
    log = lane(desk.journal())
    log.fact("begun")
    while len(desk.files()) < 3:
        log.fact("noise", text="x" * 500)
    before = desk.files()
    real, refusals = os.posix_fallocate, [1]

    def refuse_once(*args: Any) -> None:
        if refusals:
            refusals.pop()
            raise OSError(28, "No space left on device")
        real(*args)

    monkeypatch.setattr(os, "posix_fallocate", refuse_once)
    while desk.files() == before:
        log.fact("noise", text="x" * 500)

    assert desk.said == []
    assert before[0] not in desk.files()


@pytest.mark.parametrize("what", ["a file", "a link", "open to all"])
def test_a_directory_that_is_not_ours_alone_is_not_written_in(desk: Desk, what: str) -> None:
    """Or is made so, where that can be done."""
    desk.directory.parent.mkdir()
    if what == "a file":
        desk.directory.write_text("")
    elif what == "a link":
        (desk.directory.parent / "elsewhere").mkdir()
        desk.directory.symlink_to(desk.directory.parent / "elsewhere")
    else:
        desk.directory.mkdir(mode=0o777)
    desk.journal().fact("noise")

    if what == "open to all":
        assert desk.directory.stat().st_mode & 0o077 == 0
    else:
        assert [type(event) for event in desk.said] == [events.JournalFailed]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "short": lambda data: data[:20],
    "no journal": lambda data: os.urandom(4096),
    "a future version": lambda data: data[:8] + struct.pack("@I", form.VERSION + 1) + data[12:],
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_journal_is_said_and_passed_over(desk: Desk, damage: str) -> None:
    """By the reader, and by the worker that would have written on in it."""
    journal = desk.journal(pid=7)
    run(lane(journal), 0, 9)
    journal._store.close()
    path = desk.directory / desk.files()[0]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    run(lane(desk.journal(pid=8), 20), 20, 29)

    history = desk.read()
    assert len(history.troubles) == 1
    assert str(path) in history.troubles[0]
    assert [process.pid for process in history.processes] == [8]
    assert desk.said == []


@pytest.mark.parametrize("what", ["a link", "a directory", "a pipe"])
def test_what_is_no_file_is_said_and_passed_over(desk: Desk, what: str) -> None:
    """Nobody waits for a pipe, and nobody is led elsewhere."""
    journal = desk.journal(pid=7)
    run(lane(journal), 0, 9)
    strange = desk.directory / "worker-0000-00000009.seg"
    if what == "a link":
        strange.symlink_to(desk.directory / desk.files()[0])
    elif what == "a directory":
        strange.mkdir()
    else:
        os.mkfifo(strange)
    journal._store.close()
    run(lane(desk.journal(pid=8), 20), 20, 29)

    assert len(desk.read().troubles) == 1
    assert [process.pid for process in desk.read().processes] == [7, 8]


def test_a_directory_without_journals_is_said(tmp_path: Path) -> None:
    """It may have been mistyped."""
    assert len(read([tmp_path / "nothing"]).troubles) == 1


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_bits_are_wrong_the_rest_is_read(data: st.DataObject) -> None:
    """Power may be lost, disks err: what is still whole is told, and nothing raises."""
    records = [form.pack_fact(1.0, "process", {"pid": 1, "began_at": 1.0, "worker": 0})]
    records.append(
        form.pack_fact(
            1.0, "assigned", {"lane": 1, "group": "g", "topic": "t", "partition": 0, "start": 0, "since": 1.0}
        )
    )
    for number in range(20):
        records.append(form.pack_span(2.0, 1, number))
        records.append(form.pack_commit(2.0, 1, number))
        records.append(form.pack_ahead(2.0, 1, number, number + 1, number + 1))
    body = b"".join(records)
    header = bytearray(form.pack_header(0, 1.0))
    struct.pack_into("@Q", header, form.USED_AT, len(header) + len(body))
    whole = bytearray(header + body)
    at = data.draw(st.integers(form.HEADER_SIZE, len(whole) - 1))
    length = data.draw(st.integers(1, 100))
    whole[at : at + length] = data.draw(st.binary(min_size=length, max_size=length))
    whole = whole[: form.HEADER_SIZE + len(body)]

    found = list(form.read_records(bytes(whole), form.read_header(bytes(whole))))
    sound = [record for record in found if record is not None]
    assert len(sound) >= len(records) - 2 - length // form.COMMIT_SIZE - 1


def test_a_record_that_was_not_finished_never_happened(desk: Desk) -> None:
    """The number of bytes in use is written last."""
    journal = desk.journal()
    log = lane(journal)
    run(log, 0, 9)
    store = journal._store
    assert store.map is not None
    store.map[store._used : store._used + 20] = b"\xff" * 20

    assert seen(desk.only().runs) == [(0, 10, 1, "done")]
    assert desk.read().troubles == []


def test_ends_of_workers_are_those_that_their_supervisor_tells(desk: Desk) -> None:
    """Pids come again: the instants decide."""
    for _ in range(2):
        desk.now += 10
        run(lane(desk.journal(worker=0, pid=7)), 0, 9)
        desk.die()
        supervisor = desk.journal(None, pid=1, brief=True)
        desk.now += 1
        supervisor.fact("worker_exited", worker=0, pid=7, code=None, signal="SIGKILL", reason="killed", detail="…")

    processes = [process for process in desk.read().processes if process.worker is not None]
    assert [process.exit and process.exit.at - process.began_at for process in processes] == [1.0, 1.0]


def test_a_supervisor_holds_no_file(desk: Desk) -> None:
    """Its children would hold it, too."""
    supervisor = desk.journal(None, brief=True)
    supervisor.fact("swarm_started")
    supervisor.fact("swarm_stopped")

    assert supervisor._store.map is None
    assert [deed.what for _, deed in desk.read().deeds] == ["swarm_started", "swarm_stopped"]


def test_long_texts_are_cut() -> None:
    """An error may hold half a message."""
    record = form.pack_fact(1.0, "ran", {"error": "x" * 100_000, "seen": [[n, n] for n in range(5000)], "lane": 1})

    assert len(record) < form.LONGEST_FACT + 64
