from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.scenarios.conftest import ExpectViolation
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.proxy import Proxy
from tests.support.recording import Recording

AT_MOST_ONCE = """
    import time
    from pathlib import Path
    from swarm import App
    from recording import note, record

    app = App("shop")
    held = Path(__file__).with_name("held")

    @app.subscribe("TOPIC", delivery="at_most_once", max_messages=5)
    def orders(messages):
        for message in messages:
            if (message.partition, message.offset) == (0, 12) and not held.exists():
                note("hold", message.topic, message.partition, message.offset)
                held.touch()
                time.sleep(60)  # until it is killed
            record(message)
"""


def test_what_at_most_once_had_in_hand_when_it_was_killed_is_a_gap(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """The batch, which was committed before its run, and nothing else: neither what was done before nor the other partition."""
    orders = topic(partitions=2)
    daemon = swarm_project(AT_MOST_ONCE.replace("TOPIC", orders), {"swarm": {"workers": 1}})
    recording = Recording(daemon.folder)
    for partition in range(2):
        broker.produce(orders, [(None, str(number)) for number in range(30)], partition)
    daemon.start()
    (held,) = daemon.wait_for(lambda: recording.all("hold"), what="the batch that is held")
    daemon.wait_for_event("batch_consumed", partition=1, last_offset=29)
    (batch,) = daemon.wait_for(
        lambda: [e for e in daemon.events("batch_started", partition=0) if e["first_offset"] <= 12 <= e["last_offset"]],
        what="its event",
    )
    os.kill(held.pid, signal.SIGKILL)
    daemon.wait_for(lambda: recording.all(partition=0, offset=29), what="what is behind the gap")
    assert daemon.stop() == 0

    answer = daemon.audit()
    assert answer["duplicates"] == []
    (gap,) = answer["gaps"]
    assert (gap["topic"], gap["partition"], gap["cause"]) == (orders, 0, "crash")
    assert (gap["first_offset"], gap["last_offset"]) == (batch["first_offset"], batch["last_offset"])
    assert gap["evidence"].startswith("at-most-once: ")
    assert f"pid {held.pid}" in gap["evidence"]
    assert "SIGKILL" in gap["evidence"]
    assert (answer["unexplained"], answer["exit"]) == (0, 0), "as promised"
    assert daemon.audit("--partition", "1")["gaps"] == []


COMMITTED_FIRST = """
    import time
    from pathlib import Path
    from swarm import App
    from recording import note, record

    app = App("shop")
    go = Path(__file__).with_name("go")

    def hold(message):  # it is asked before the commit
        if not go.exists():
            note("hold", message.topic, message.partition, message.offset)
            while not go.exists():
                time.sleep(0.01)
        return True

    @app.subscribe("TOPIC", delivery="at_most_once", max_messages=5, filter=hold)
    def orders(messages):
        for message in messages:
            record(message)
"""


def test_what_at_most_once_had_committed_and_not_begun_when_it_was_killed_is_a_gap(
    proxied: tuple[Broker, Proxy], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """The broker takes the commits of two partitions, its answer is on the way, and the worker is killed: no handler has seen anything.
    Nobody had moved the offsets from outside."""
    broker, proxy = proxied
    orders = f"{group}-orders"
    broker.create_topic(orders, partitions=2)
    daemon = swarm_project(
        COMMITTED_FIRST.replace("TOPIC", orders),
        {"swarm": {"workers": 1}, "worker": {"concurrency": 2}},
        bootstrap=broker.bootstrap,
    )
    daemon.expect_errors("client_error")
    recording = Recording(daemon.folder)
    for partition in range(2):
        broker.produce(orders, [(None, str(number)) for number in range(30)], partition)
    daemon.start()
    daemon.wait_for(lambda: {each.partition for each in recording.all("hold")} == {0, 1}, what="both batches")
    (worker,) = daemon.workers()
    proxy.mute()
    (daemon.folder / "go").touch()

    def both() -> dict[tuple[str, int], int] | None:
        offsets = broker.committed(daemon.group)  # where the group begins is committed, too
        return offsets if all(offsets.get((orders, partition)) for partition in range(2)) else None

    held = daemon.wait_for(both, what="the broker to hold both commits")
    os.kill(worker["pid"], signal.SIGKILL)
    proxy.cut()
    proxy.heal()
    for partition in range(2):
        daemon.wait_for(lambda p=partition: recording.all(partition=p, offset=29), what="what is behind the gap")  # type: ignore[misc]
    assert daemon.stop() == 0

    assert worker["pid"] not in {each.pid for each in recording.all()}
    answer = daemon.audit()
    assert answer["duplicates"] == []
    told = [(each["partition"], each["cause"], each["first_offset"], each["last_offset"]) for each in answer["gaps"]]
    assert told == [(partition, "crash", 0, held[orders, partition] - 1) for partition in range(2)]
    for gap in answer["gaps"]:
        assert gap["evidence"].startswith("at-most-once: worker 0 of shop on ")
        assert f"sent the commit of {gap['last_offset'] + 1}, and heard no answer" in gap["evidence"]
        assert f"(pid {worker['pid']})" in gap["evidence"]
        assert "SIGKILL" in gap["evidence"]
    assert (answer["unexplained"], answer["exit"]) == (0, 0)


REMOVED = """
    from swarm import App
    from recording import record

    app = App("shop")

    for topic, edge in {edges!r}.items():
        @app.each(topic, offset_out_of_range=edge)
        def orders(message):
            record(message)
"""


def test_what_was_passed_over_because_the_offset_was_out_of_range_is_a_gap(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon], expect_violation: ExpectViolation
) -> None:
    """Retention overtakes a swarm that is stopped. What it removed is told apart from what `latest` passes over although it is there."""
    expect_violation("lost", "`latest` passes over what is still there, as its subscription asks")
    earliest, latest, untouched = topic(), topic(), topic()
    edges = {earliest: "earliest", latest: "latest", untouched: None}
    daemon = swarm_project(REMOVED.format(edges=edges), {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.1}})
    daemon.expect_errors("offset_out_of_range")
    recording = Recording(daemon.folder)

    def produce(first: int, end: int) -> None:
        for name in edges:
            broker.produce(name, [(None, str(number)) for number in range(first, end)], 0)

    def committed(end: int) -> bool:
        return broker.committed(daemon.group) == {(name, 0): end for name in edges}

    produce(0, 10)
    daemon.start()
    daemon.wait_for(lambda: committed(10), what="the first messages")
    assert daemon.stop() == 0
    produce(10, 20)
    _remove(broker, {earliest: 15, latest: 15})
    daemon.start()
    daemon.wait_for(lambda: committed(20), what="everything to be committed")
    produce(20, 22)
    daemon.wait_for(lambda: committed(22), what="what comes later")
    assert daemon.stop() == 0

    assert recording.offsets(latest)[0] == [*range(10), 20, 21]
    answer = daemon.audit()
    assert answer["duplicates"] == []
    gaps = {each["topic"]: each for each in answer["gaps"]}
    told = {name: (each["cause"], each["first_offset"], each["last_offset"]) for name, each in gaps.items()}
    assert told == {earliest: ("offset_reset", 10, 14), latest: ("offset_reset", 10, 19)}
    assert (
        "found its offset 10 out of range and went on at 15 (offset_out_of_range=earliest)"
        in (gaps[earliest]["evidence"])
    )
    assert "retention had removed what is between" in gaps[earliest]["evidence"]
    assert "found its offset 10 out of range and went on at 20 (offset_out_of_range=latest)" in gaps[latest]["evidence"]
    assert "passed over what was still there" in gaps[latest]["evidence"]
    assert (len(answer["gaps"]), answer["unexplained"], answer["exit"]) == (2, 2, 1)
    assert daemon.audit("--topic", untouched)["exit"] == 0


def _remove(broker: Broker, before: dict[str, int]) -> None:
    """What retention does: the logs begin at these offsets."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    answers = admin.delete_records([TopicPartition(name, 0, offset) for name, offset in before.items()])
    for answer in answers.values():
        answer.result(timeout=15)


PLAIN = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("TOPIC")
    def orders(message):
        record(message)
"""


def test_a_gap_is_unknown_where_the_journal_of_a_worker_was_removed(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A partition goes to a second worker and comes back. Without that one's journal nobody knows what it did, and the audit says so."""
    orders = topic(partitions=2)
    daemon = swarm_project(
        PLAIN.replace("TOPIC", orders), {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.1}}
    )
    recording = Recording(daemon.folder)

    def consume(first: int) -> None:
        for partition in range(2):
            broker.produce(orders, [(None, str(number)) for number in range(first, first + 10)], partition)
        everything = {(orders, partition): first + 10 for partition in range(2)}
        daemon.wait_for(lambda: broker.committed(daemon.group) == everything, what="all of it")

    def held(worker: int) -> list[int]:
        return [each["partition"] for each in daemon.workers()[worker]["assignment"]]

    daemon.start().until_running()
    consume(0)
    assert daemon.run("scale", "2").returncode == 0
    (moved,) = daemon.wait_for(lambda: held(1) if len(held(0)) == 1 else None, what="a partition to move")
    (second,) = (worker["pid"] for worker in daemon.workers()[1:])
    consume(10)
    assert daemon.run("scale", "1").returncode == 0
    daemon.wait_for(lambda: len(held(0)) == 2, what="it to come back")
    consume(20)
    assert daemon.stop() == 0

    assert {each.pid for each in recording.all(partition=moved) if 10 <= each.offset < 20} == {second}
    whole = daemon.audit()
    assert (whole["duplicates"], whole["gaps"], whole["processes"], whole["exit"]) == ([], [], 2, 0)
    for segment in Path(daemon.settings["swarm"]["state_dir"]).glob("journal/worker-0001-*.seg"):
        segment.unlink()
    answer = daemon.audit()
    assert answer["duplicates"] == []
    (gap,) = answer["gaps"]
    assert (gap["partition"], gap["cause"], gap["first_offset"], gap["last_offset"]) == (moved, "unknown", 10, 19)
    assert f"worker 1 (pid {second}) worked meanwhile, and its journal is not among these" in gap["evidence"]
    assert (answer["processes"], answer["unexplained"], answer["exit"]) == (1, 1, 1)
