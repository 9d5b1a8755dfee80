from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.scenarios.conftest import ExpectViolation
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import os
    import signal
    from pathlib import Path
    from swarm import App, Backoff
    from recording import record

    app = App("shop")
    here = Path(__file__).parent

    def first_time(what):
        try:
            here.joinpath(what).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    @app.each("GROUP-retry", backoff=Backoff(initial=0.01))
    def retried(message):
        record(message)
        if message.offset == 3 and message.attempt == 1:
            raise ValueError("not the first time")

    @app.subscribe("GROUP-seek", max_messages=1)
    def sought(messages, consumer):
        record(messages[0])
        if messages[0].offset == 8 and first_time("back"):
            consumer.mark_as_consumed(messages[0])
            consumer.seek(5)

    @app.subscribe("GROUP-crash", max_messages=1)
    def crashed(messages, consumer):
        record(messages[0])
        if messages[0].offset == 4:
            consumer.commit(messages[0])
        if messages[0].offset == 6 and first_time("killed"):
            os.kill(os.getpid(), signal.SIGKILL)

    @app.each("GROUP-reset", "GROUP-forward", "GROUP-twice")
    def taken(message):
        record(message)

    @app.each("GROUP-twice", group="GROUP-second")
    def second(message):
        record(message, "second")
"""

KINDS = ("crash", "retry", "seek", "reset", "forward", "twice")


def _set_offset(broker: Broker, group: str, topic: str, offset: int) -> None:
    """What `kafka-consumer-groups --reset-offsets` does."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    wish = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, offset)])
    for future in admin.alter_consumer_group_offsets([wish]).values():
        future.result(30)


def _told(answer: dict[str, Any], group: str, what: str = "duplicates") -> list[tuple[str, str, int, int]]:
    return sorted(
        (each["topic"].removeprefix(f"{group}-"), each["cause"], each["first_offset"], each["last_offset"])
        for each in answer[what]
    )


def test_each_cause_of_a_repetition_or_a_gap_is_named_with_its_evidence(
    broker: Broker, group: str, swarm_project: Callable[..., Daemon], expect_violation: ExpectViolation
) -> None:
    """Retry, seek, kill, offsets moved by somebody while the group was stopped, a second group, and a message written twice."""
    expect_violation("commit_went_back", "somebody moves the group's offsets")
    expect_violation("twice", "of which the events of the swarm know nothing")
    expect_violation("lost", "and forwards they pass over messages")
    for kind in KINDS:
        broker.create_topic(f"{group}-{kind}", 1)
    app = APP.replace("GROUP", group)
    daemon = swarm_project(app, {"swarm": {"workers": 1, "group_id": group}, "worker": {"commit_interval": 0.2}})
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    daemon.start()
    daemon.until_running()
    for kind in KINDS[1:]:
        broker.produce(f"{group}-{kind}", [(None, str(number)) for number in range(10)], 0)
    broker.produce(f"{group}-twice", [(None, "3"), (None, "4"), (None, "10")], 0)
    total = dict.fromkeys(KINDS, 10) | {"twice": 13}

    def committed(*kinds: str) -> bool:
        held = broker.committed(group)
        return all(held.get((f"{group}-{kind}", 0)) == total[kind] for kind in kinds)

    daemon.wait_for(lambda: committed(*KINDS[1:]), what="everything to be done and committed")
    daemon.wait_for(
        lambda: broker.committed(f"{group}-second").get((f"{group}-twice", 0)) == 13, what="the other group"
    )
    broker.produce(f"{group}-crash", [(None, str(number)) for number in range(10)], 0)
    daemon.wait_for(lambda: committed(*KINDS), what="what the killed worker had not committed")
    assert daemon.stop() == 0

    _set_offset(broker, group, f"{group}-reset", 6)
    broker.produce(f"{group}-forward", [(None, str(number)) for number in range(10, 15)], 0)
    _set_offset(broker, group, f"{group}-forward", 13)
    daemon.start()
    daemon.wait_for(lambda: len(recording.all(topic=f"{group}-reset")) == 14, what="what was set back")
    daemon.wait_for(lambda: len(recording.all(topic=f"{group}-forward")) == 12, what="what is behind the jump")
    assert daemon.stop() == 0

    answer = daemon.audit("--by-content")
    assert _told(answer, group) == [
        ("crash", "crash", 5, 6),
        ("reset", "offset_reset", 6, 9),
        ("retry", "retry", 3, 3),
        ("seek", "seek", 5, 8),
        ("twice", "produced_twice", 10, 11),
        ("twice", "produced_twice", 10, 11),
        ("twice", "second_group", 0, 12),
    ]
    assert _told(answer, group, "gaps") == [("forward", "offset_reset", 10, 12)]
    assert answer["exit"] == 1
    evidence = {each["cause"]: each["evidence"] for each in answer["duplicates"]}
    killed = daemon.events("worker_exited", signal="SIGKILL")[0]["pid"]
    assert f"pid {killed}" in evidence["crash"]
    assert "SIGKILL" in evidence["crash"]
    assert "ValueError: not the first time" in evidence["retry"]
    assert f"group {group}" in evidence["second_group"]
    text = daemon.run("audit", "--by-content").stdout
    assert text.startswith("7 duplicates, 1 gap in ")
    assert f"duplicate: retry  {group}-retry/0 3  group {group}" in text
    assert f"gap: offset_reset  {group}-forward/0 10..12  group {group}" in text
    assert "ValueError: not the first time" in text
    assert "1 of them unexplained." in text
    assert daemon.audit("--topic", f"{group}-crash", "--offsets", "6")["exit"] == 0
    assert daemon.audit("--until", "2026-01-31T12:00")["duplicates"] == []


POLLER = """
    import ctypes
    from pathlib import Path
    from swarm import App
    from recording import record

    app = App("shop")
    held = Path(__file__).with_name("held")

    @app.each("TOPIC")
    def orders(message):
        record(message)
        if message.offset == 2 and not held.exists():
            held.touch()
            ctypes.PyDLL(None).sleep(8)  # with the interpreter's lock: nobody polls
"""


def test_an_eviction_for_not_polling_is_named(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon], expect_violation: ExpectViolation
) -> None:
    """The client goes on sending heartbeats, so that only `max.poll.interval.ms` tells."""
    orders = topic()
    daemon = swarm_project(
        POLLER.replace("TOPIC", orders),
        {
            "swarm": {"workers": 1},
            "worker": {"commit_interval": 0.1},
            "kafka": {"max.poll.interval.ms": 6000, "session.timeout.ms": 6000},
        },
    )
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    broker.produce(orders, [(None, str(number)) for number in range(5)], 0)
    daemon.wait_for(lambda: broker.committed(daemon.group).get((orders, 0)) == 5, what="all of it after the eviction")
    assert daemon.stop() == 0

    assert len(recording.all(offset=2)) >= 2
    answer = daemon.audit()
    assert {each["cause"] for each in answer["duplicates"]} == {"poll_exceeded"}
    assert (answer["gaps"], answer["exit"]) == ([], 0)


HEALTHY = """
    import asyncio
    import time
    from swarm import App, DeadLetter
    from recording import record

    app = App("shop")

    @app.subscribe("GROUP-plain")
    def plain(messages):
        for message in messages:
            record(message)
            time.sleep(0.001)

    @app.subscribe("GROUP-keys", concurrency_key="key", max_messages=50)
    def keys(messages):
        for message in messages:
            record(message)
            time.sleep(0.001)

    @app.each("GROUP-async", concurrency_key="key")
    async def later(message):
        record(message)
        await asyncio.sleep(0.001)

    @app.each("GROUP-letters", dead_letter=DeadLetter("GROUP-dead", max_attempts=1), filter=lambda m: m.offset % 5)
    def letters(message):
        record(message)
        if message.offset % 7 == 0:
            raise ValueError("never")

    @app.subscribe("GROUP-once", group="GROUP-eos", delivery="exactly_once")
    def once(messages, consumer):
        for message in messages:
            record(message)
            consumer.producer.produce("GROUP-out", value=message.raw)

    @app.each("GROUP-most", delivery="at_most_once", group="GROUP-amo")
    def most(message):
        record(message)
"""


def test_healthy_swarms_of_every_kind_repeat_nothing(
    broker: Broker, group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """Rolling restart, scale, stop and start while messages flow: no duplicate and no gap, so no false alarm."""
    kinds = ("plain", "keys", "async", "letters", "once", "most")
    for kind in (*kinds, "dead", "out"):
        broker.create_topic(f"{group}-{kind}", 3)
    daemon = swarm_project(
        HEALTHY.replace("GROUP", group),
        {"swarm": {"workers": 2, "group_id": group}, "worker": {"commit_interval": 0.3}},
    )
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    written = 0

    def more() -> None:
        nonlocal written
        for kind in kinds:
            for partition in range(3):
                broker.produce(f"{group}-{kind}", [(str(n % 7), str(written + n)) for n in range(60)], partition)
        written += 60

    daemon.start()
    daemon.until_running()
    for command in (("restart",), ("scale", "3"), ("scale", "1")):
        more()
        assert daemon.run(*command, within=60).returncode == 0
    more()
    assert daemon.stop() == 0
    more()
    daemon.start()
    daemon.wait_for(
        lambda: all(
            sum(broker.committed(name).get((f"{group}-{kind}", p), 0) for p in range(3)) >= 3 * written
            for kind in kinds
            for name in [{"once": f"{group}-eos", "most": f"{group}-amo"}.get(kind, group)]
        ),
        within=60,
        what="everything to be committed",
    )
    assert daemon.audit()["exit"] == 0  # it works beside the running daemon
    assert daemon.stop() == 0

    answer = daemon.audit()
    # A broker that a busy machine starves may let a transaction time out, and a partition may be handed over between a failure and its
    # dead letter: either is told, as the retry that it is.
    repeated = [
        each
        for each in answer["duplicates"]
        if each["earlier"]["outcome"] != ("failed" if each["topic"] == f"{group}-letters" else "aborted")
    ]
    assert (repeated, answer["gaps"], answer["exit"]) == ([], [], 0)
    assert answer["partitions"] == 18
    assert len(recording.all(topic=f"{group}-plain")) == 3 * written


SILENT = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("TOPIC")
    def orders(message):
        record(message)
"""


def test_without_a_journal_the_audit_says_so_and_where_one_would_be(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Messages are handled as ever; nothing is written, and nothing is made up."""
    orders = topic()
    daemon = swarm_project(SILENT.replace("TOPIC", orders), {"swarm": {"workers": 1}, "journal": {"enabled": False}})
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(10)])
    daemon.start()
    daemon.wait_for(lambda: len(recording.all()) == 10, what="every message")
    said = daemon.run("audit")
    assert daemon.stop() == 0

    assert (said.returncode, said.stdout) == (1, "")
    assert "there is no journal to look at" in said.stderr
    assert "unless journal.enabled is false" in said.stderr
    assert not list(Path(daemon.settings["swarm"]["state_dir"]).rglob("*.seg"))
