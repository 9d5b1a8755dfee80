"""Each cause of a repetition, told by workers to their journals as they do it, is the one that the audit names; health is silent."""

from __future__ import annotations

import datetime
import errno
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm import events
from swarm.audit import CAUSES, Report, Wish, audit
from swarm.audit_content import Repeat, Written, content_of, repeats
from swarm.audit_display import plain
from swarm.bus import Bus
from swarm.journal import GRAIN, Journal, LaneLog
from swarm.journal_reader import read
from swarm.journal_store import Store
from swarm.journal_summary import durations, exits, ping_pong, troubles
from swarm.letters import Span
from swarm.plan import make_plan


@dataclass(frozen=True)
class At:
    """A message, of which only the offset matters."""

    number: int

    def offset(self) -> int:
        return self.number


def messages(start: int, end: int) -> list[At]:
    return [At(number) for number in range(start, end)]


class Host:
    """A machine with one daemon: its journals."""

    def __init__(self, directory: Path, name: str = "shop") -> None:
        self.directory = directory
        self.name = name
        self.pid = 100
        self.now = time.time() - 3600

    def journal(self, writer: str, identity: dict[str, Any]) -> Journal:
        bus = Bus([])
        made = Journal(
            lambda preface: Store(self.directory, writer, 1 << 20, 1e6, preface, lambda: self.now),
            {"began_at": self.now, "name": self.name, "host": self.name, "version": "1", **identity},
            bus,
            brief="worker" not in writer,
            clock=lambda: self.now,
        )
        made.listen(bus)
        self.bus = bus
        return made

    def worker(self, index: int = 0) -> Worker:
        self.now += 1
        self.pid += 1
        return Worker(self, index, self.pid)

    def says(self, what: str, **data: Any) -> None:
        self.now += 0.01
        self.journal("supervisor", {"pid": 1, "worker": None, "began_at": 1.0}).fact(what, **data)


class Worker:
    """A worker process with one partition at a time."""

    def __init__(self, host: Host, index: int, pid: int) -> None:
        self.host, self.index, self.pid = host, index, pid
        self.journal = host.journal(f"worker-{index:04d}", {"pid": pid, "worker": index})
        self.bus = host.bus
        self.log: LaneLog

    def takes(self, start: int, partition: int = 0, group: str = "shop", **plan: Any) -> Worker:
        self.host.now += 1
        made = make_plan(handler=print, topics=("orders",), **plan)
        self.log = self.journal.lane(group, "orders", partition, start, made)
        self.log.fact("begun")
        return self

    def runs(self, start: int, end: int, attempt: int = 1, batch: Sequence[At] | None = None) -> Worker:
        self.begins(start, end, attempt, batch)
        self.log.done(end, end - start, 0.1)
        return self

    def begins(self, start: int, end: int, attempt: int = 1, batch: Sequence[At] | None = None) -> Worker:
        self.host.now += 0.1
        self.log.begin(batch or messages(start, end), start, end - 1, attempt)
        self.host.now += 0.1
        return self

    def fails(self, start: int, end: int, attempt: int = 1, outcome: str = "failed") -> Worker:
        self.begins(start, end, attempt)
        self.log.failed(outcome, messages(start, end), attempt, "ValueError: no", 0.1)
        return self

    def aims(self, start: int, end: int, target: int | None = None) -> Worker:
        """At-most-once: commits these before it runs them."""
        self.host.now += 0.01
        self.log.committing(start, end, target or end)
        return self

    def commits(self, offset: int) -> Worker:
        self.host.now += 0.01
        self.log.committed(offset)
        return self

    def hears(self, event: events.Event) -> Worker:
        self.bus.publish(event)
        return self

    def gives_up(self, how: str = "revoked", *, late: bool = False) -> Worker:
        self.host.now += 0.1
        self.log.released(how, late=late, committed=0)
        return self

    def starts(self) -> Worker:
        self.host.says("worker_started", worker=self.index, pid=self.pid, restarts=0)
        return self

    def ends(self) -> Worker:
        self.journal.end(0)
        self.host.says("worker_exited", worker=self.index, pid=self.pid, code=0, reason="requested", graceful=True)
        return self

    def dies(self) -> Worker:
        self.host.says(
            "worker_exited", worker=self.index, pid=self.pid, signal="SIGKILL", reason="killed", graceful=False
        )
        return self


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "journal")


def _no_space(record: bytes) -> NoReturn:
    raise OSError(errno.ENOSPC, "no space left on device")


def told(report: Report) -> list[tuple[str, int, int]]:
    return [(each.cause, each.first_offset, each.last_offset) for each in report.duplicates]


def ask(*hosts: Host, wish: Wish | None = None) -> Report:
    return audit(read([host.directory for host in hosts]), wish or Wish())


def test_a_healthy_run_yields_nothing(host: Host) -> None:
    """With a rebalance, a graceful stop, and a start after it."""
    a, b = host.worker(0), host.worker(1)
    a.takes(0).runs(0, 10).runs(10, 20).commits(20).gives_up()
    b.takes(20).runs(22, 30).commits(40).gives_up("shutdown").ends()
    a.ends()
    host.worker(0).takes(40).runs(40, 50)

    report = ask(host)
    assert (told(report), report.gaps, report.unexplained) == ([], (), 0)
    assert report.messages == 38


def test_a_retry_is_one_with_the_error(host: Host) -> None:
    """Of every attempt, or of how many there were."""
    worker = host.worker().takes(0).runs(0, 10)
    worker.fails(10, 20).fails(10, 20, 2).runs(10, 20, 3)

    report = ask(host)
    assert told(report) == [("retry", 10, 19)]
    assert "ValueError: no" in report.duplicates[0].evidence
    assert "attempt 3" in report.duplicates[0].evidence
    assert report.unexplained == 0


def test_an_aborted_transaction_is_a_retry(host: Host) -> None:
    """What it did was undone, but the handler saw the messages."""
    host.worker().takes(0).fails(0, 10, outcome="aborted").runs(0, 10, batch=messages(0, 10))

    assert told(ask(host)) == [("retry", 0, 9)]


def test_a_death_before_the_commit_is_a_crash(host: Host) -> None:
    """What was done and what was in hand; the evidence names who, when, and the reason of the end."""
    host.worker(0).takes(0).runs(0, 10).commits(10).runs(10, 20).begins(20, 25).dies()
    host.worker(0).takes(10).runs(10, 30)

    report = ask(host)
    assert told(report) == [("crash", 10, 24)]
    for word in ("SIGKILL", "pid 101", "pid 102", "worker 0 of shop", "last commit: 10"):
        assert word in report.duplicates[0].evidence, word


def test_a_death_without_a_witness_is_a_crash_too(host: Host) -> None:
    """The supervisor died with it; a successor in its place tells that it is gone."""
    host.worker(0).takes(0).runs(0, 10)
    host.worker(0).takes(0).runs(0, 10)

    assert told(ask(host)) == [("crash", 0, 9)]


def test_a_lost_partition_is_a_rebalance(host: Host) -> None:
    """Also what was run before the loss was noticed."""
    frozen, other = host.worker(0), host.worker(1)
    host.says("swarm_started")
    frozen.takes(0).begins(0, 5)
    other.takes(0).runs(0, 10)
    assert told(ask(host)) == [("rebalance", 0, 4)]

    frozen.log.done(5, 5, 0.1)
    frozen.runs(5, 7).gives_up("lost")
    assert told(ask(host)) == [("rebalance", 0, 6)]


def test_an_eviction_for_not_polling_is_called_so(host: Host) -> None:
    """It looks like any other loss, but for what the client said."""
    slow, other = host.worker(0), host.worker(1)
    slow.takes(0).begins(0, 5).hears(events.ClientError("shop", "_MAX_POLL_EXCEEDED", "exceeded by 7 ms", False, 1))
    slow.gives_up("lost")
    other.takes(0).runs(0, 5)

    report = ask(host)
    assert told(report) == [("poll_exceeded", 0, 4)]
    assert "exceeded by 7 ms" in report.duplicates[0].evidence


def test_a_refused_commit_is_commit_failed(host: Host) -> None:
    """Unless it was refused because the partition had gone."""
    for code, cause in (("OFFSET_METADATA_TOO_LARGE", "commit_failed"), ("ILLEGAL_GENERATION", "rebalance")):
        group = f"shop-{code}"
        one, two = host.worker(0), host.worker(1)
        one.takes(0, group=group).runs(0, 10).hears(events.CommitFailed(group, (("orders", 0, 10),), code, "refused"))
        one.gives_up("shutdown").ends()
        two.takes(0, group=group).runs(0, 10)

        report = ask(host, wish=Wish(groups=frozenset({group})))
        assert told(report) == [(cause, 0, 9)]


def test_a_commit_that_was_refused_and_then_taken_explains_nothing(host: Host) -> None:
    """It was tried again; what is left is unknown, and says so."""
    one = host.worker(0).takes(0).runs(0, 10)
    one.hears(events.CommitFailed("shop", (("orders", 0, 10),), "X", "refused"))
    one.gives_up().ends()
    one.host.worker(1).takes(0).runs(0, 10)
    assert told(ask(host)) == [("commit_failed", 0, 9)]

    host.worker(0).takes(10).runs(10, 20).gives_up().ends()
    host.worker(1).takes(10).runs(10, 20)
    report = ask(host)
    assert told(report) == [("commit_failed", 0, 9), ("unknown", 10, 19)]
    assert report.unexplained == 1


def test_a_death_repeats_what_the_broker_had_refused_to_commit_because_of_that(host: Host) -> None:
    """Without the refusal it would have been committed; what was done after that commit is the death's own."""
    forbidden = "GROUP_AUTHORIZATION_FAILED"
    one = host.worker(0).takes(0).runs(0, 10).commits(10).runs(10, 20)
    one.hears(events.CommitFailed("shop", (("orders", 0, 20),), forbidden, "not allowed")).begins(20, 25).dies()
    two = host.worker(0).takes(10).runs(10, 25).commits(25).runs(25, 30)

    report = ask(host)
    assert told(report) == [("commit_failed", 10, 19), ("crash", 20, 24)]
    for word in ("could not commit 20", "not allowed", "SIGKILL", "pid 101"):
        assert word in report.duplicates[0].evidence, word

    two.hears(events.CommitFailed("shop", (("orders", 0, 30),), "REBALANCE_IN_PROGRESS", "not now")).dies()
    host.worker(0).takes(25).runs(25, 30)
    assert told(ask(host))[2:] == [("crash", 25, 29)], "it would have been tried again"


def test_a_partition_that_was_lost_after_a_refusal_is_repeated_because_of_that(host: Host) -> None:
    """Who may not commit may not stay in the group either; but who hears nothing of the broker has lost the partition, and no more."""
    for code, cause in (("GROUP_AUTHORIZATION_FAILED", "commit_failed"), ("_TIMED_OUT", "rebalance")):
        group = f"shop-{code}"
        one = host.worker(0).takes(0, group=group).runs(0, 10)
        one.hears(events.CommitFailed(group, (("orders", 0, 10),), code, f"error {code}"))
        one.hears(events.CommitFailed(group, (("orders", 0, 10),), "_TIMED_OUT", "no answer at the stop"))
        one.gives_up("lost").ends()
        host.worker(0).takes(0, group=group).runs(0, 10)

        report = ask(host, wish=Wish(groups=frozenset({group})))
        assert told(report) == [(cause, 0, 9)]
        if cause == "commit_failed":
            assert f"error {code}" in report.duplicates[0].evidence, "what tells most, and not what came last"


def test_offsets_that_were_set_back_from_outside_are_a_reset(host: Host) -> None:
    """Up to what the broker had confirmed; what is beyond has a cause of its own."""
    host.worker(0).takes(0).runs(0, 100).commits(80).dies()
    host.worker(0).takes(20).runs(20, 120)

    assert told(ask(host)) == [("offset_reset", 20, 79), ("crash", 80, 99)]


def test_offsets_that_were_set_forward_leave_a_gap(host: Host) -> None:
    """Unless somebody has run what is between after all."""
    host.worker(0).takes(0).runs(0, 100).commits(100).gives_up("shutdown").ends()
    host.worker(0).takes(150).runs(150, 160)
    report = ask(host)
    assert [(each.cause, each.first_offset, each.last_offset) for each in report.gaps] == [("offset_reset", 100, 149)]
    assert report.unexplained == 1

    host.worker(1).takes(100).runs(100, 120)
    assert [(each.first_offset, each.last_offset) for each in ask(host).gaps] == [(120, 149)]


def test_a_seek_is_a_seek_in_both_directions(host: Host) -> None:
    """Backwards it repeats, forwards it leaves a gap that somebody has asked for; also where another worker goes on from there."""
    worker = host.worker(0).takes(0).runs(0, 10)
    worker.hears(events.PartitionSought("shop", "orders", 0, 4)).runs(4, 10)
    worker.hears(events.PartitionSought("shop", "orders", 0, 50)).runs(50, 60)
    report = ask(host)
    assert told(report) == [("seek", 4, 9)]
    assert [(each.cause, each.first_offset, each.last_offset) for each in report.gaps] == [("seek", 10, 49)]
    assert report.unexplained == 0

    worker.hears(events.PartitionSought("shop", "orders", 0, 55)).commits(55).gives_up()
    host.worker(1).takes(55).runs(55, 60)
    assert told(ask(host)) == [("seek", 4, 9), ("seek", 55, 59)]


def test_an_offset_out_of_range_is_a_reset(host: Host) -> None:
    """What retention has removed is a gap."""
    worker = host.worker(0).takes(0).runs(0, 10)
    worker.hears(events.OffsetOutOfRange("shop", "orders", 0, 10, "earliest", 40)).runs(40, 50)

    (gap,) = ask(host).gaps
    assert (gap.cause, gap.first_offset, gap.last_offset) == ("offset_reset", 10, 39)
    assert gap.evidence.endswith("retention had removed what is between")


def test_what_an_offset_out_of_range_has_passed_over_was_not_all_removed(host: Host) -> None:
    """`latest` goes on at the end: the messages that are still there are for whoever mends it, not lost."""
    worker = host.worker(0).takes(0).runs(0, 10)
    worker.hears(events.OffsetOutOfRange("shop", "orders", 0, 10, "latest", 40)).runs(40, 50)

    (gap,) = ask(host).gaps
    assert (gap.cause, gap.first_offset, gap.last_offset) == ("offset_reset", 10, 39)
    assert "retention had removed the first of these, and it passed over what was still there" in gap.evidence


def test_unmarked_messages_come_again_after_a_handover(host: Host) -> None:
    """Manual offsets: that is what the handler asked for."""
    host.worker(0).takes(0, offsets="manual").runs(0, 10).gives_up()
    host.worker(1).takes(0, offsets="manual").runs(0, 10)

    report = ask(host)
    assert told(report) == [("rebalance", 0, 9)]
    assert "had not marked" in report.duplicates[0].evidence


def test_another_group_on_the_topic_is_told(tmp_path: Path) -> None:
    """Of the same daemon, which has got another group id, or of another one on another host."""
    one, two = Host(tmp_path / "one", "shop"), Host(tmp_path / "two", "stock")
    one.worker().takes(0).runs(0, 10)
    two.now = one.now
    two.worker().takes(5, group="stock").runs(5, 20)

    report = ask(one, two)
    assert [(each.group, each.cause, each.first_offset, each.last_offset) for each in report.duplicates] == [
        ("stock", "second_group", 5, 9)
    ]
    assert "daemon shop on shop" in report.duplicates[0].evidence
    assert ask(one, two, wish=Wish(groups=frozenset({"shop"}))).duplicates == ()
    assert plain(report).splitlines()[1].startswith("Looked at: shop on shop, stock on stock; groups shop, stock. ")


def test_it_says_whose_journals_it_has_looked_at(tmp_path: Path) -> None:
    """Of one of two daemons it cannot know what the other one's group has processed."""
    one, two = Host(tmp_path / "one", "shop"), Host(tmp_path / "two", "stock")
    one.says("swarm_started")
    one.worker().takes(0).runs(0, 10)
    one.worker(1).takes(0, partition=1).runs(0, 10)
    two.worker().takes(5, group="stock").runs(5, 20)

    report = ask(one)
    assert (report.daemons, report.groups) == (("shop on shop",), ("shop",))
    assert plain(report).splitlines()[1] == (
        "Looked at: shop on shop; group shop. What other daemons have done is in their journals (--journal)."
    )
    assert (ask(one, two).daemons, ask(one, two).groups) == (("shop on shop", "stock on stock"), ("shop", "stock"))
    assert ask(one, two, wish=Wish(groups=frozenset({"stock"}))).groups == ("stock",)


def test_hosts_that_share_a_group_are_looked_at_together(tmp_path: Path) -> None:
    """The one does not know what the other did."""
    one, two = Host(tmp_path / "one"), Host(tmp_path / "two")
    one.worker(0).takes(0).runs(0, 10).commits(10).gives_up().ends()
    two.now = one.now
    two.worker(0).takes(10).runs(10, 30).commits(30).gives_up().ends()
    one.now = two.now
    one.worker(0).takes(30).runs(30, 40)

    assert ask(one, two).gaps == ()
    assert [(each.first_offset, each.last_offset) for each in ask(one).gaps] == [(10, 29)]


def test_a_gap_is_unknown_where_the_journal_of_a_worker_is_missing(host: Host) -> None:
    """The supervisor knows of the worker, so nobody need have moved the offset. One that did not work meanwhile is no excuse."""

    def gap() -> tuple[str, str]:
        (found,) = ask(host).gaps
        assert (found.first_offset, found.last_offset) == (10, 19)
        return found.cause, found.evidence

    host.says("swarm_started")
    host.worker(2).starts().ends()
    one = host.worker(0).starts().takes(0).runs(0, 10).commits(10).gives_up()
    host.now += 60
    two = host.worker(1).starts().takes(10).runs(10, 20).commits(20).gives_up().ends()
    one.takes(20).runs(20, 30)
    assert ask(host).gaps == ()

    for file in host.directory.glob("worker-000[12]-*.seg"):
        file.unlink()
    cause, evidence = gap()
    assert cause == "unknown"
    assert f"worker 1 (pid {two.pid}) worked meanwhile, and its journal is not among these" in evidence
    assert "worker 2" not in evidence

    host.worker(1).starts().takes(30).runs(30, 40)  # a successor keeps a journal of its own
    assert gap()[0] == "unknown"


def test_a_topic_made_again_has_other_messages(host: Host) -> None:
    """Its offsets begin anew, and mean something else."""
    host.worker(0).takes(0).runs(0, 10).commits(10).hears(events.TopicRecreated("shop", "orders", 0, 10)).gives_up(
        "lost"
    )
    host.worker(0).takes(0).runs(0, 10)

    assert told(ask(host)) == []


def missed(report: Report) -> list[tuple[str, int, int]]:
    return [(each.cause, each.first_offset, each.last_offset) for each in report.gaps]


AT_MOST_ONCE: dict[str, Any] = {"delivery": "at_most_once"}


def test_what_at_most_once_had_in_hand_at_a_death_is_a_gap(host: Host) -> None:
    """It was committed before, so nobody runs it again: as promised, and so explained."""
    host.worker(0).takes(0, **AT_MOST_ONCE).commits(10).runs(0, 10).commits(20).begins(10, 20).dies()
    host.worker(0).takes(20, **AT_MOST_ONCE).runs(20, 30)

    report = ask(host)
    assert told(report) == []
    assert missed(report) == [("crash", 10, 19)]
    assert report.unexplained == 0


@pytest.mark.parametrize("answered", [True, False])
def test_what_at_most_once_had_committed_and_not_begun_at_a_death_is_a_gap(host: Host, answered: bool) -> None:
    """Also where the broker's answer was never heard: nobody but the one that died had set the offset forward."""
    one = host.worker(0).takes(0, **AT_MOST_ONCE).aims(0, 10).commits(10).runs(0, 10).aims(10, 20)
    if answered:
        one.commits(20)
    one.dies()
    host.worker(0).takes(20, **AT_MOST_ONCE).aims(20, 30).commits(30).runs(20, 30)

    report = ask(host)
    assert (told(report), missed(report), report.unexplained) == ([], [("crash", 10, 19)], 0)
    said = report.gaps[0].evidence
    had = "had committed 20" if answered else "had sent the commit of 20, and heard no answer"
    for words in ("at-most-once: worker 0 of shop", had, "before their run", "killed (SIGKILL)", f"pid {one.pid}"):
        assert words in said, words


def test_what_at_most_once_had_not_committed_at_a_death_is_run_by_the_next_one(host: Host) -> None:
    """The broker had not heard of it; and what somebody sets forward later is not the death's doing."""
    host.worker(0).takes(0, **AT_MOST_ONCE).aims(0, 10).commits(10).runs(0, 10).aims(10, 20).dies()
    host.worker(0).takes(10, **AT_MOST_ONCE).aims(10, 15).commits(15).runs(10, 15).gives_up("shutdown").ends()
    assert ask(host).gaps == ()

    host.worker(0).takes(20, **AT_MOST_ONCE).aims(20, 30).commits(30).runs(20, 30)
    report = ask(host)
    assert (missed(report), report.unexplained) == ([("offset_reset", 15, 19)], 1)


def test_of_at_most_once_only_what_was_never_begun_is_a_gap(host: Host) -> None:
    """`each` may have begun a part of its batch; what was skipped at the end of it belongs to nobody; what was set forward from outside
    is told apart."""
    one = host.worker(0).takes(0, each=True, **AT_MOST_ONCE).aims(0, 10, 13).commits(13)
    one.fails(0, 4).dies()
    host.worker(0).takes(20, **AT_MOST_ONCE).runs(20, 30)

    assert missed(ask(host)) == [("crash", 4, 9), ("offset_reset", 13, 19)]


def test_what_at_most_once_skipped_is_no_gap_at_a_death(host: Host) -> None:
    """It commits behind what a filter took out, too; no run was to come."""
    host.worker(0).takes(0, **AT_MOST_ONCE).aims(0, 10, 12).commits(12).runs(0, 10).commits(30).dies()
    host.worker(0).takes(30, **AT_MOST_ONCE).runs(30, 40)

    assert ask(host).gaps == ()


def test_what_at_most_once_had_committed_and_let_go_of_is_a_gap(host: Host) -> None:
    """The partition was taken while the commit was under way. One that ran them all the same has lost nothing."""
    one = host.worker(0).takes(0, **AT_MOST_ONCE).aims(0, 10).gives_up(late=True)
    host.worker(1).takes(10, **AT_MOST_ONCE).runs(10, 20)
    report = ask(host)
    assert (missed(report), report.unexplained) == ([("rebalance", 0, 9)], 0)
    assert f"pid {one.pid}) let go of the partition" in report.gaps[0].evidence

    one.runs(0, 10)
    assert ask(host).gaps == ()


def test_what_at_most_once_ran_while_nothing_could_be_written_is_not_said_to_have_never_begun(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says before its commits goes on in place on a full disk, when a run that needs a record of its own gets none."""
    one = host.worker(0).takes(0, **AT_MOST_ONCE).aims(0, 10).commits(10).runs(0, 10).aims(10, 20).commits(20)
    with monkeypatch.context() as full:
        full.setattr(one.journal._store, "append", _no_space)
        one.fails(10, 20).aims(20, 30).commits(30).runs(20, 30).aims(30, 40).commits(40).fails(30, 40)
    one.dies()
    host.worker(1).takes(40, **AT_MOST_ONCE).runs(40, 50)

    assert not [gap for gap in ask(host).gaps if gap.cause == "crash"]


def test_what_at_most_once_had_committed_after_a_seek_and_not_begun_is_a_gap(host: Host) -> None:
    """What it had run before it went back does not count as begun again; but it was run, and is no gap either."""
    one = host.worker(0).takes(0, **AT_MOST_ONCE).aims(0, 10).commits(10).runs(0, 10)
    one.hears(events.PartitionSought("shop", "orders", 0, 5)).commits(5).aims(5, 15).commits(15).dies()
    host.worker(0).takes(15, **AT_MOST_ONCE).runs(15, 20)

    assert missed(ask(host)) == [("crash", 10, 14)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_happens_at_most_once_has_the_gaps_that_it_had(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random histories of one partition: what was committed and never run by anybody, and nothing else, is a gap; no message is run twice."""
    host = Host(tmp_path_factory.mktemp("random") / "journal")
    host.says("swarm_started")
    committed = 0
    worker = host.worker(0).takes(0, **AT_MOST_ONCE)
    lost: dict[int, str] = {}

    def heir(cause: str, unrun: range) -> None:
        nonlocal worker
        lost.update(dict.fromkeys(unrun, cause))
        worker = host.worker(0).takes(committed, **AT_MOST_ONCE)

    for _ in range(data.draw(st.integers(3, 14))):
        if data.draw(st.booleans()):
            committed += data.draw(st.integers(0, 3))  # what a filter took out
            worker.commits(committed)
        start, end = committed, committed + data.draw(st.integers(1, 5))
        match data.draw(
            st.sampled_from(["run", "run", "dies unheard", "dies", "dies answered", "in hand", "revoke", "late"])
        ):
            case "run":
                committed = end
                worker.aims(start, end).commits(end).runs(start, end)
            case "dies unheard":
                worker.aims(start, end).dies()
                committed = data.draw(st.sampled_from([start, end]))
                heir("crash", range(start, committed))
            case "dies answered":
                committed = end
                worker.aims(start, end).commits(end).dies()
                heir("crash", range(start, end))
            case "in hand":
                committed = end
                worker.aims(start, end).commits(end).begins(start, end).dies()
                heir("crash", range(start, end))
            case "dies":
                worker.dies()
                heir("", range(0))
            case "revoke":
                worker.gives_up().ends()
                heir("", range(0))
            case "late":
                worker.aims(start, end).gives_up(late=True).ends()
                committed = data.draw(st.sampled_from([start, end]))
                heir("rebalance", range(start, committed))
    worker.aims(committed, committed + 1).commits(committed + 1).runs(committed, committed + 1)

    report = ask(host)
    found = {n: each.cause for each in report.gaps for n in range(each.first_offset, each.last_offset + 1)}
    assert found == lost
    assert report.duplicates == ()
    assert report.unexplained == 0


def test_before_what_was_dropped_no_gap_is_seen(host: Host) -> None:
    """The journals of others may reach back further than that of who had the partition."""
    host.worker(1).takes(0).runs(0, 10)
    host.now += GRAIN
    worker = host.worker(0).takes(10)
    while not list(host.directory.glob("worker-0000-00000001.seg")):
        host.now += 1
        worker.log.fact("noise", text="x" * 500)
    (host.directory / "worker-0000-00000000.seg").unlink()
    worker.takes(500).runs(500, 600)

    assert ask(host).gaps == ()


class Segments:
    """The files of one worker's journal, of which one in the middle gets lost."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def turn(self) -> None:
        """What comes now stands in a new file."""
        before = self.files()
        while self.files() == before:
            self.worker.host.now += 1
            self.worker.journal.fact("noise", text="x" * 500)

    def files(self) -> list[Path]:
        return sorted(self.worker.host.directory.glob(f"worker-{self.worker.index:04d}-*.seg"))

    def lose(self, number: int, how: str = "deleted") -> None:
        path = self.files()[number]
        if how == "deleted":
            path.unlink()
        else:  # the page with the header came back empty
            path.write_bytes(bytes(4096) + path.read_bytes()[4096:])


@pytest.mark.parametrize("how", ["deleted", "empty"])
def test_of_the_time_of_a_journal_that_is_missing_in_the_middle_no_gap_is_judged(host: Host, how: str) -> None:
    """It says whose part it is, from when to when. Whatever comes after that is judged as ever."""
    one = host.worker(2).takes(0).runs(0, 10).commits(10).gives_up()
    segments = Segments(one)
    segments.turn()
    began = host.now
    one.takes(10).runs(10, 50).commits(50).gives_up()
    segments.turn()
    ended = host.now
    one.takes(50).runs(50, 60).commits(60).gives_up()
    assert (ask(host).gaps, ask(host).missing) == ((), ())

    segments.lose(1, how)
    report = ask(host)
    assert (report.gaps, told(report), report.unexplained) == ((), [], 0)
    (said,) = report.missing
    assert "part of the journal of worker 2 is missing, from " in said
    since, until = (datetime.datetime.fromisoformat(part).timestamp() for part in re.findall(r"20\S+Z", said))
    assert [since, until] == pytest.approx([began, ended], abs=1.1)
    assert str(host.directory) in said
    assert len(report.troubles) == (0 if how == "deleted" else 1)
    assert "\nPart of the journal of worker 2 is missing, from " in plain(report)

    host.worker(1).takes(80).runs(80, 90)
    assert [(each.cause, each.first_offset, each.last_offset) for each in ask(host).gaps] == [("offset_reset", 60, 79)]


def test_where_the_newest_file_of_a_journal_cannot_be_read_no_gap_is_judged_from_then_on(host: Host) -> None:
    """Nothing behind it tells where it ended, or that there was one."""
    one = host.worker(2).takes(0).runs(0, 10).commits(10).gives_up()
    segments = Segments(one)
    segments.turn()
    began = host.now
    one.takes(10).runs(10, 50).commits(50).gives_up()
    segments.turn()
    one.takes(50).runs(50, 60).commits(60).gives_up()
    host.worker(1).takes(60).runs(60, 70)
    assert (ask(host).gaps, ask(host).missing) == ((), ())

    for number in (1, 2):
        segments.lose(number, "empty")
    report = ask(host)
    assert (report.gaps, told(report), report.unexplained, len(report.troubles)) == ((), [], 0, 2)
    (said,) = report.missing
    assert "part of the journal of worker 2 is missing, from " in said
    since, until = (datetime.datetime.fromisoformat(part).timestamp() for part in re.findall(r"20\S+Z", said))
    assert [since, until] == pytest.approx([began, host.now], abs=1.1)


def test_where_the_only_file_of_a_journal_cannot_be_read_no_gap_is_judged(host: Host) -> None:
    """One that was deleted is not known of: what it had done looks like a gap."""
    one = host.worker(0).takes(0).runs(0, 10).commits(10).gives_up()
    segments = Segments(host.worker(1).takes(10).runs(10, 20).commits(20).gives_up())
    one.takes(20).runs(20, 30)

    segments.lose(0, "empty")
    report = ask(host)
    assert (report.gaps, len(report.missing), len(report.troubles)) == ((), 1, 1)
    assert "part of the journal of worker 1 is missing, from 20" in report.missing[0]

    segments.lose(0)
    assert missed(ask(host)) == [("offset_reset", 10, 19)]


def test_a_cause_that_may_be_missing_with_a_part_of_the_journal_is_not_guessed(host: Host) -> None:
    """Without that part it would look like a crash. What stands in the rest is a cause as ever."""
    one = host.worker(0).takes(0).fails(0, 5).runs(0, 10, 2)
    segments = Segments(one)
    segments.turn()
    one.gives_up("lost")
    segments.turn()
    one.takes(0, partition=1).dies()
    host.worker(1).takes(0).runs(0, 10)
    assert told(ask(host)) == [("retry", 0, 4), ("rebalance", 0, 9)]

    segments.lose(1)
    report = ask(host)
    assert told(report) == [("retry", 0, 4), ("unknown", 0, 9)]
    said = report.duplicates[1].evidence
    assert said.startswith("part of the journal of worker 0 is missing, from "), said
    assert "and perhaps the cause with it" in said
    assert "SIGKILL" not in said
    assert report.unexplained == 1


def test_what_at_most_once_may_have_run_in_a_part_that_is_missing_is_no_gap(host: Host) -> None:
    """What it had committed, and what it had in hand, before that part."""
    one = host.worker(0).takes(0, **AT_MOST_ONCE).aims(0, 10).commits(10)
    segments = Segments(one)
    segments.turn()
    one.runs(0, 10)
    segments.turn()
    one.fails(10, 12)
    one.dies()
    host.worker(1).takes(12, **AT_MOST_ONCE).runs(12, 20)
    assert ask(host).gaps == ()

    segments.lose(1)
    report = ask(host)
    assert (report.gaps, len(report.missing)) == ((), 1)


def test_a_wish_chooses_by_place_and_time(host: Host) -> None:
    """Everything is looked at all the same: a cause may lie before."""
    worker = host.worker(0).takes(0).fails(0, 10).runs(0, 10, 2)
    middle = host.now
    worker.fails(10, 20).runs(10, 20, 2)

    assert told(ask(host, wish=Wish(since=middle))) == [("retry", 10, 19)]
    assert told(ask(host, wish=Wish(until=middle))) == [("retry", 0, 9)]
    assert told(ask(host, wish=Wish(offsets=Span(0, 3)))) == [("retry", 0, 9)]
    assert told(ask(host, wish=Wish(partitions=frozenset({1})))) == []
    assert told(ask(host, wish=Wish(topics=frozenset({"others"})))) == []


def test_two_resets_in_a_row_explain_together_what_each_explains_in_part(tmp_path: Path) -> None:
    """Nothing was run between them: the second explains what the first had left alone, and the first the rest."""
    host = Host(tmp_path / "journal")
    host.says("swarm_started")
    host.worker(0).takes(0).runs(0, 2).commits(2).gives_up("shutdown").ends()
    host.worker(0).takes(1).commits(1).gives_up("shutdown").ends()
    host.worker(0).takes(0).runs(0, 2)

    assert told(ask(host)) == [("offset_reset", 0, 1)]


def test_a_reset_behind_a_seek_leaves_to_the_seek_what_it_explains(tmp_path: Path) -> None:
    host = Host(tmp_path / "journal")
    host.says("swarm_started")
    worker = host.worker(0).takes(0).runs(0, 2)
    worker.hears(events.PartitionSought("shop", "orders", 0, 1)).commits(1).gives_up("shutdown").ends()
    host.worker(0).takes(0).runs(0, 2)

    assert told(ask(host)) == [("offset_reset", 0, 0), ("seek", 1, 1)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_happens_each_repetition_has_the_cause_that_it_had(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random histories of one partition: what was done to it is known, so is what the audit has to say of each offset."""
    host = Host(tmp_path_factory.mktemp("random") / "journal")
    host.says("swarm_started")
    seen: dict[int, int] = {}
    expected: dict[str, set[int]] = {cause: set() for cause in CAUSES}
    committed = position = 0
    worker = host.worker(0).takes(0)
    why = "unknown"

    def run(start: int, end: int, cause: str) -> None:
        for offset in range(start, end):
            if offset in seen:
                expected[cause].add(offset)
            seen[offset] = 1

    for _ in range(data.draw(st.integers(3, 14))):
        match data.draw(st.sampled_from(["run", "run", "fail", "crash", "revoke", "reset", "seek", "lose"])):
            case "run":
                end = position + data.draw(st.integers(1, 5))
                worker.runs(position, end)
                run(position, end, why)
                position = end
                if data.draw(st.booleans()):
                    worker.commits(position)
                    committed = position
            case "fail":
                end = position + data.draw(st.integers(1, 5))
                worker.fails(position, end)
                run(position, end, why)
                worker.runs(position, end, 2)
                run(position, end, "retry")
                position = end
            case "crash":
                worker.dies()
                worker = host.worker(0).takes(committed)
                position, why = committed, "crash"
            case "revoke":
                worker.commits(position).gives_up().ends()
                committed = position
                worker = host.worker(0).takes(committed)
            case "reset":
                worker.commits(position).gives_up("shutdown").ends()
                committed = position = data.draw(st.integers(0, position))
                worker = host.worker(0).takes(committed)
                why = "offset_reset"
            case "lose":
                worker.gives_up("lost")
                worker = host.worker(1 if worker.index == 0 else 0).takes(committed)
                position, why = committed, "rebalance"
            case "seek":
                target = data.draw(st.integers(0, position))
                worker.hears(events.PartitionSought("shop", "orders", 0, target)).commits(target)
                committed = position = target
                why = "seek"

    report = ask(host)
    found = {offset for each in report.duplicates for offset in range(each.first_offset, each.last_offset + 1)}
    assert found == set().union(*expected.values())
    assert not any(each.cause == "unknown" for each in report.duplicates)
    assert report.gaps == ()


def test_repeated_contents_are_found_with_the_original() -> None:
    """Neighbours that repeat neighbours are one; a key that is missing is not an empty one."""

    def log(*contents: str) -> list[Written]:
        return [Written(n, content_of(None, text.encode()), 100 * n) for n, text in enumerate(contents)]

    assert list(repeats(log("a", "b", "c", "a", "b", "d", "c"))) == [Repeat(3, 4, 0, 300), Repeat(6, 6, 2, 400)]
    assert list(repeats(log("a", "b", "c", "a"), window=2)) == []
    assert content_of(None, b"x") != content_of(b"", b"x")
    assert content_of(b"a", b"bc") != content_of(b"ab", b"c")


def test_batch_times_are_summed_up_for_each_topic(host: Host) -> None:
    """`doctor` compares them with the timeouts."""
    worker = host.worker(0).takes(0)
    for number in range(100):
        worker.log.begin(messages(number, number + 1), number, number, 1)
        worker.log.done(number + 1, 1, 7.0 if number == 50 else 0.02)
    worker.fails(100, 110)

    found = durations(read([host.directory]))[("shop", "orders")]
    assert (found.batches, found.failed, found.longest, found.p99) == (101, 1, 7.0, 0.1)


def test_a_partition_that_goes_back_and_forth_is_noticed(host: Host) -> None:
    """A successor in the same seat does not count."""
    workers = [host.worker(0), host.worker(1)]
    for number in range(8):
        workers[number % 2].takes(0).gives_up()
    host.worker(0).takes(0, partition=1).dies()
    host.worker(0).takes(0, partition=1)

    found = ping_pong(read([host.directory]))
    assert list(found) == [("shop", "orders", 0)]
    assert len(found[("shop", "orders", 0)]) == 7


def test_recent_troubles_and_exits_are_listed(host: Host) -> None:
    """`why` shows them."""
    worker = host.worker(3).takes(0).fails(0, 10).runs(0, 10, 2)
    worker.hears(events.MessageDeadLettered("shop", "orders", 0, 5, "dead", 3, "ValueError")).dies()

    history = read([host.directory])
    assert [(each.what, each.first, each.last) for each in troubles(history, worker=3)] == [
        ("failed", 0, 9),
        ("message_dead_lettered", 5, 5),
    ]
    assert troubles(history, worker=2) == []
    assert [process.pid for process in exits(history)] == [worker.pid]
