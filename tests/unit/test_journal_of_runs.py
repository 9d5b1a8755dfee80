"""What the journal says of real lanes and real runs is what handlers saw, whatever these do; and all of it can be explained."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm import events
from swarm.audit import audit
from swarm.consumer import Consumer
from swarm.journal import Journal
from swarm.journal_reader import read
from swarm.journal_store import Store
from swarm.message import Message, Messages
from swarm.plan import Backoff, DeadLetter, VirtualPartitions, make_plan
from tests.unit.stage import TOPIC, Broker, Stage, on_stage


def keep_journal(stage: Stage, directory: Path, pid: int = 100) -> None:
    """Of the one worker that is on the stage."""
    stage.runtime.journal = Journal(
        lambda preface: Store(directory, "worker-0000", 1 << 20, 1e9, preface, lambda: stage.wall),
        {"pid": pid, "began_at": time.time(), "worker": 0, "name": "shop", "host": "here"},
        stage.runtime.bus,
        clock=lambda: stage.wall,
    )
    stage.runtime.journal.listen(stage.runtime.bus)


WHIMS = ["do", "do", "do", "do", "raise", "raise", "pause", "back", "mark and raise"]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_journal_knows_what_handlers_saw_and_why_again(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each repetition, and nothing else, is found; each has a cause; nothing is called a gap."""
    each = data.draw(st.booleans(), "each")
    delivery = data.draw(
        st.sampled_from(["at_least_once", "at_least_once", "exactly_once", "at_most_once"]), "delivery"
    )
    virtual = delivery != "exactly_once" and data.draw(st.booleans(), "virtual")
    seen: Counter[int] = Counter()
    left = [12]

    def whim(offset: int, consumer: Consumer) -> None:
        what = data.draw(st.sampled_from(WHIMS)) if left[0] else "do"
        if what == "do":
            return
        left[0] -= 1
        if what == "pause" and not virtual:
            consumer.pause(1.0)
        elif what == "back" and not virtual:
            consumer.seek(max(0, offset - 3))
        elif what == "raise":
            raise ValueError("a whim")

    def one(message: Message, consumer: Consumer) -> None:
        seen[message.offset] += 1
        whim(message.offset, consumer)

    def batch(messages: Messages, consumer: Consumer) -> None:
        seen.update(message.offset for message in messages)
        if left[0] and data.draw(st.booleans()):
            consumer.mark_as_consumed(messages[0])
        whim(messages[0].offset, consumer)

    options: dict[str, Any] = {}
    if virtual:
        options["virtual_partitions"] = VirtualPartitions(by=lambda message: message.offset % 3, maximum=3)
    if data.draw(st.booleans(), "letters"):
        options["dead_letter"] = DeadLetter("dead", max_attempts=2)
    if data.draw(st.booleans(), "filter"):
        options["filter"] = lambda message: message.offset % 5 != 0
    plan = make_plan(
        handler=one if each else batch,
        topics=(TOPIC,),
        each=each,
        delivery=delivery,
        max_messages=data.draw(st.integers(1, 8), "max_messages"),
        backoff=Backoff(initial=0.01, maximum=0.01),
        **options,
    )
    log = sorted(data.draw(st.sets(st.integers(0, 40), min_size=5), "log"))
    directory = tmp_path_factory.mktemp("runs") / "journal"
    with on_stage(plan, log[: len(log) // 2]) as stage:
        keep_journal(stage, directory)
        stage.assign()
        stage.settle()
        stage.revoke()
        stage.broker.logs[(TOPIC, 0)] = log
        stage.assign()
        stage.settle()

    report = audit(read([directory]))
    again = {
        offset
        for finding in report.duplicates
        for offset in range(finding.first_offset, finding.last_offset + 1)
        if offset in log and (offset % 5 or "filter" not in options)
    }
    assert again == {offset for offset, times in seen.items() if times > 1}
    assert [finding for finding in report.duplicates if finding.cause == "unknown"] == []
    assert report.gaps == ()
    assert report.troubles == ()


class Killed(BaseException):
    """The process ends here."""


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_at_most_once_lost_at_kills_and_nothing_else_is_a_gap(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed before the broker took a commit, after that and before its answer, or before the run began; with filters, holes and failures."""
    each = data.draw(st.booleans(), "each")
    filtered = data.draw(st.booleans(), "filter")
    seen: Counter[int] = Counter()
    failures = [4]

    def one(message: Message) -> None:
        seen[message.offset] += 1
        if failures[0] and data.draw(st.booleans(), "fails"):
            failures[0] -= 1
            raise ValueError("a whim")

    def batch(messages: Messages) -> None:
        seen.update(message.offset for message in messages)
        if failures[0] and data.draw(st.booleans(), "fails"):
            failures[0] -= 1
            raise ValueError("a whim")

    plan = make_plan(
        handler=one if each else batch,
        topics=(TOPIC,),
        each=each,
        delivery="at_most_once",
        max_messages=data.draw(st.integers(1, 8), "max_messages"),
        filter=(lambda message: message.offset % 5 != 0) if filtered else None,
    )
    log = sorted(data.draw(st.sets(st.integers(0, 40), min_size=5), "log"))
    directory = tmp_path_factory.mktemp("kills") / "journal"
    broker, now = Broker(), 1000.0
    broker.logs[(TOPIC, 0)] = log

    def work(pid: int, how: str, when: int) -> None:
        nonlocal now
        stage = Stage(plan, broker, now=now)
        left = [when]

        def due() -> bool:
            left[0] -= 1
            return left[0] < 0

        def commit(key: tuple[str, int], offset: int) -> None:
            if how in ("not taken", "not answered") and due():
                if how == "not answered":
                    broker.committed[key] = offset
                raise Killed

        def started(_: events.BatchStarted) -> None:
            if how == "not begun" and due():
                raise Killed

        keep_journal(stage, directory, pid)
        broker.on_commit = commit
        stage.runtime.bus.add(events.BatchStarted, started)
        try:
            stage.assign()
            stage.settle()
            stage.revoke()
        except Killed:
            pass
        finally:
            stage.runtime.journal._store.close()
            stage.close()
            now = stage.now + 1.0

    deaths = data.draw(
        st.lists(st.tuples(st.sampled_from(["not taken", "not answered", "not begun"]), st.integers(0, 3)))
    )
    for number, (how, when) in enumerate([*deaths, ("", 0)]):
        work(100 + number, how, when)

    report = audit(read([directory]))
    gaps = {offset for gap in report.gaps for offset in range(gap.first_offset, gap.last_offset + 1)}
    wanted = {offset for offset in log if not filtered or offset % 5}
    assert gaps & wanted == wanted - set(seen)
    assert {gap.cause for gap in report.gaps} <= {"crash"}
    assert (report.unexplained, report.duplicates) == (0, ())
    assert max(seen.values(), default=1) == 1
