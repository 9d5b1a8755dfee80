"""What the journal says of real lanes and real runs is what handlers saw, whatever these do; and all of it can be explained."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.audit import audit
from swarm.consumer import Consumer
from swarm.journal import Journal
from swarm.journal_reader import read
from swarm.journal_store import Store
from swarm.message import Message, Messages
from swarm.plan import Backoff, DeadLetter, VirtualPartitions, make_plan
from tests.unit.stage import TOPIC, Stage, on_stage


def keep_journal(stage: Stage, directory: Path) -> None:
    """Of the one worker that is on the stage."""
    stage.runtime.journal = Journal(
        lambda preface: Store(directory, "worker-0000", 1 << 20, 1e9, preface, lambda: stage.wall),
        {"pid": os.getpid(), "began_at": time.time(), "worker": 0, "name": "shop", "host": "here"},
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
