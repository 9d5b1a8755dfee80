from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording
from tests.support.waiting import wait_for

# Each topic has its killers, and its own way of being processed; all of it in the same workers, side by side.
APP = """
    import asyncio, ctypes, os, time
    from swarm import App, Consumer, DeadLetter, VirtualPartitions
    from recording import record

    app = App("shop")
    DEAD = DeadLetter("{dead}", max_attempts=2)

    def work(message):
        record(message)
        kind = message.raw
        if kind == b"exit":
            os._exit(3)
        if kind == b"segv":
            ctypes.string_at(0)
        if kind == b"hang":
            time.sleep(600)
        time.sleep(0.001)

    @app.subscribe("{virtual}", max_messages=20, dead_letter=DEAD, virtual_partitions=VirtualPartitions(by=lambda m: m.offset % 4))
    def virtual(messages):
        for message in messages:
            work(message)

    @app.subscribe("{long}", max_messages=20, dead_letter=DEAD, long_running=True)
    def long(messages):
        for message in messages:
            work(message)

    @app.each("{slow}", max_messages=20, dead_letter=DEAD, consume_timeout=1.0)
    async def slow(message):
        work(message)

    @app.each("{once}", max_messages=20, dead_letter=DEAD, delivery="exactly_once", group="{group}-once")
    def once(message, consumer):
        work(message)

    @app.subscribe("{virtual}", max_messages=20, delivery="at_most_once", group="{group}-most")
    def most(messages):
        for message in messages:
            if message.raw == b"good":
                record(message, "most")
"""
KILLERS = {"virtual": {5: "segv", 41: "exit"}, "long": {30: "segv"}, "slow": {12: "hang"}, "once": {20: "exit"}}


@pytest.mark.limit(120)
def test_killers_of_every_kind_are_dead_lettered_and_nothing_else_is(
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
    expect_violation: Callable[[str, str], None],
) -> None:
    """Slices, long-running jobs, async ones, transactions, several groups and threads: each killer is found, and everything else is done."""
    unheard = "slices that were done, and committed, before a death say nothing: whether all messages were seen is asked below"
    expect_violation("lost", unheard)
    expect_violation("commit_past_work", unheard)
    topics = {kind: topic(partitions=2) for kind in KILLERS}
    dead = topic()
    daemon = swarm_project(
        "",
        {
            "swarm": {"workers": 1, "shutdown_timeout": 1.0},
            "worker": {"concurrency": 4, "commit_interval": 0.2},
            "supervision": {"restart_backoff": {"initial": 0.0, "factor": 1.0, "maximum": 0.1}, "check_interval": 0.1},
        },
    )
    app = APP.format(dead=dead, group=daemon.group, **topics)
    (daemon.folder / "app.py").write_text(textwrap.dedent(app))
    daemon.expect_errors(
        "message_condemned", "message_dead_lettered", "message_held", "worker_killed", "backtrace_dumped"
    )
    recording = Recording(daemon.folder)
    for kind, name in topics.items():
        for partition in range(2):
            bad = KILLERS[kind] if partition == 0 else {}
            broker.produce(name, [(None, bad.get(number, "good")) for number in range(60)], partition)

    daemon.start()
    groups = {name: daemon.group + ("-once" if kind == "once" else "") for kind, name in topics.items()}
    ends = {(name, partition): 60 for name in topics.values() for partition in range(2)}

    def done() -> bool:
        committed = broker.committed(daemon.group) | broker.committed(groups[topics["once"]])
        return ends.items() <= committed.items()

    daemon.wait_for(done, what="the ends", within=90)
    wait_for(lambda: daemon.status()["suspects"] == [], what="no suspects")
    assert daemon.stop() == 0

    killers = {(topics[kind], 0, offset) for kind, offsets in KILLERS.items() for offset in offsets}
    condemned = [(line["topic"], line["partition"], line["offset"]) for line in daemon.events("message_condemned")]
    assert sorted(condemned) == sorted(killers)
    headers: list[dict[str, Any]] = [dict(letter.headers() or []) for letter in broker.read_all(dead)]
    sources = {(each["swarm.source.topic"].decode(), 0, int(each["swarm.source.offset"])) for each in headers}
    assert sources == killers
    seen = {name: {(p, number) for p in range(2) for number in range(60)} for name in topics.values()}
    assert {name: recording.seen(name) for name in topics.values()} == seen
    assert len(daemon.events("worker_exited")) - 1 <= 5 * len(killers), "far more deaths than three for each"
