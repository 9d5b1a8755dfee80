from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.supervision.explaining import until
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from pathlib import Path
    from swarm import App, Consumer
    from recording import note, record

    app = App("shop")
    folder = Path(__file__).parent

    @app.subscribe("{topic}", long_running=True, max_messages=1)
    class Orders(Consumer):
        def consume(self, messages):
            (message,) = messages
            record(message)
            if message.raw == b"long" and not folder.joinpath("short").exists():
                while not self.is_revoked and not folder.joinpath("end").exists():
                    time.sleep(0.01)
                if self.is_revoked:
                    answers = self.mark_as_consumed(message), self.commit(), self.commit(message)
                    note(f"revoked-{{answers}}".replace(" ", ""), self.topic, self.partition)
                while not folder.joinpath("end").exists():
                    time.sleep(0.01)
            record(message, "end")
"""


def test_a_rebalance_does_not_wait_for_a_long_running_job_and_drops_what_is_queued_behind_it(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """Two partitions run, two are queued, then all are taken, and by `range` the first two come back at once.

    A running job sees that it was revoked, and its marks answer False; what went elsewhere is handled there meanwhile; a queued
    job of a lost partition never runs, and one of a partition that came back runs once.
    """
    orders = topic(partitions=4)
    old, new = (
        swarm_project(
            APP.format(topic=orders),
            {
                "swarm": {"workers": 1, "group_id": group, "name": name},
                "worker": {"concurrency": 2},
                "kafka": {"partition.assignment.strategy": "range", "heartbeat.interval.ms": 300},
            },
            name=name,
        )
        for name in ("a", "b")  # the order of their member ids, by which `range` deals partitions out
    )
    before, after = Recording(old.folder), Recording(new.folder)
    Path(new.folder, "short").touch()

    old.start()
    old.until_running()
    for partition in (0, 2):
        broker.produce(orders, [(None, "long")], partition)
    old.wait_for(lambda: {each.partition for each in before.all()} == {0, 2}, what="two jobs to run")
    for partition in (1, 3):
        broker.produce(orders, [(None, "queued")], partition)
    broker.produce(orders, [(None, "next")], 0)
    until(old, "queued", f"{orders}/1")
    new.start()
    new.wait_for(lambda: {each.partition for each in after.all("end")} == {2, 3}, what="what went over to be handled")
    old.wait_for(lambda: len(before.all("revoked-(False,False,False)")) == 2, what="both jobs to learn of it")
    (given,) = (event for event in old.events("partitions_assigned") if len(event["partitions"]) == 2)
    running = (len(before.all()), len(before.all("end")))
    Path(old.folder, "short").touch()
    Path(old.folder, "end").touch()
    old.wait_for(lambda: before.all("end", partition=0, offset=1) and before.all("end", partition=1), what="the rest")
    assert old.stop() == 0
    assert new.stop() == 0

    repeated = {each["partition"]: each for each in new.audit(*old.journal, *new.journal)["duplicates"]}
    assert {each["cause"] for each in repeated.values()} == {"rebalance"}
    assert "still ran when the partition was taken" in repeated[2]["evidence"]
    assert [partition for _, partition, _ in given["partitions"]] == [0, 1]
    assert running == (2, 0), "nothing began at the old worker while both of its threads were busy"
    assert before.offsets(orders) == {0: [0, 0, 1], 1: [0], 2: [0]}
    assert after.offsets(orders) == {2: [0], 3: [0]}
    assert old.events("revocation_given_up") == []
    assert broker.committed(group) == {(orders, 0): 2, **{(orders, partition): 1 for partition in (1, 2, 3)}}


@pytest.mark.parametrize(
    "protocol", [{"heartbeat.interval.ms": 300}, {"group.protocol": "consumer"}], ids=["classic", "consumer"]
)
def test_a_partition_that_went_away_and_came_back_waits_for_the_long_running_job_it_left_behind(
    protocol: dict[str, object],
    broker: Broker,
    topic: Callable[..., str],
    group: str,
    swarm_project: Callable[..., Daemon],
) -> None:
    """With `cooperative-sticky`: another swarm joins, handles the partition and leaves; the old job neither commits nor is doubled."""
    orders = topic(partitions=2)
    old, new = (
        swarm_project(
            APP.format(topic=orders),
            {
                "swarm": {"workers": 1, "group_id": group, "name": name},
                "kafka": protocol,
                "worker": {"commit_interval": 0.1},
            },
            name=name,
        )
        for name in ("a", "b")
    )
    before, after = Recording(old.folder), Recording(new.folder)
    Path(new.folder, "short").touch()
    for partition in range(2):
        broker.produce(orders, [(None, "long")], partition)

    old.start()
    old.wait_for(lambda: len(before.all()) == 2, what="both jobs to run")
    new.start()
    (there,) = new.wait_for(lambda: after.all("end"), what="the partition that went over")
    old.wait_for(
        lambda: before.all("revoked-(False,False,False)", partition=there.partition), what="its job to learn of it"
    )
    new.wait_for(lambda: broker.committed(group).get((orders, there.partition)) == 1, what="its commit")
    assert new.stop() == 0
    old.wait_for(lambda: len(old.events("partitions_assigned")) >= 2 and len(_held(old)) == 2, what="it to come back")
    Path(old.folder, "short").touch()
    broker.produce(orders, [(None, "next")], there.partition)
    old.wait_for(
        lambda: _lag(old, there.partition) == 1 or before.all(partition=there.partition, offset=1),
        what="the next message to be known",
    )
    until(old, "predecessor", f"{orders}/{there.partition}")
    doubled = before.all(partition=there.partition)[1:]
    Path(old.folder, "end").touch()
    old.wait_for(lambda: before.all("end", partition=there.partition, offset=1), what="the next message")
    assert old.stop() == 0

    assert doubled == [], "two jobs of one partition at once"
    assert before.offsets(orders)[there.partition] == [0, 1]
    assert after.offsets(orders) == {there.partition: [0]}
    assert broker.committed(group) == {(orders, there.partition): 2, (orders, 1 - there.partition): 1}


def _held(daemon: Daemon) -> list[int]:
    return [place["partition"] for place in daemon.workers()[0]["assignment"]]


def _lag(daemon: Daemon, partition: int) -> Any:
    return next(place["lag"] for place in daemon.workers()[0]["assignment"] if place["partition"] == partition)


EXACTLY = """
    import time
    from pathlib import Path
    from swarm import App, Consumer
    from recording import record

    app = App("shop")
    folder = Path(__file__).parent

    @app.subscribe("{topic}", delivery="exactly_once", long_running=True, max_messages=1)
    class Orders(Consumer):
        def consume(self, messages):
            (message,) = messages
            record(message)
            self.producer.produce("{outputs}", message.raw, key=folder.name)
            while not folder.joinpath("short").exists() and not folder.joinpath("end").exists():
                time.sleep(0.01)
            record(message, "end")
"""

OWN = """
    import time
    from pathlib import Path
    from swarm import App, Consumer
    from recording import record

    app = App("shop")
    folder = Path(__file__).parent

    @app.subscribe("{topic}", long_running=True, max_messages=1)
    class Orders(Consumer):
        def consume(self, messages):
            (message,) = messages
            record(message)
            try:
                with self.transaction() as transaction:
                    transaction.produce("{outputs}", message.raw, key=folder.name)
                    while not folder.joinpath("short").exists() and not folder.joinpath("end").exists():
                        time.sleep(0.01)
                    self.mark_as_consumed(message)
            finally:
                record(message, "end")
"""


@pytest.mark.parametrize("app", [EXACTLY, OWN], ids=["exactly-once", "own-transaction"])
def test_what_a_long_running_job_produced_is_undone_where_its_partition_was_taken_meanwhile(
    app: str, broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """Exactly once, and in a transaction of the handler's own: the next holder has handled the message and committed its outputs when the old job comes to its end."""
    orders, outputs = topic(partitions=2), topic()
    old, new = (
        swarm_project(
            app.format(topic=orders, outputs=outputs),
            {"swarm": {"workers": 1, "group_id": group, "name": name}, "kafka": {"heartbeat.interval.ms": 300}},
            name=name,
        )
        for name in ("a", "b")
    )
    before, after = Recording(old.folder), Recording(new.folder)
    for daemon in (old, new):
        daemon.expect_errors("transaction_aborted", "consume_failed", "transactional_producer_replaced")
    Path(new.folder, "short").touch()
    for partition in range(2):
        broker.produce(orders, [(None, f"order {partition}")], partition)

    old.start()
    old.wait_for(lambda: len(before.all()) == 2, what="both jobs to run")
    new.start()
    (there,) = new.wait_for(lambda: after.all("end"), what="the partition that went over")
    new.wait_for(lambda: broker.committed(group).get((orders, there.partition)) == 1, what="its commit")
    Path(old.folder, "end").touch()
    old.wait_for(lambda: len(before.all("end")) == 2, what="both old jobs to end")
    old.wait_for(
        lambda: broker.committed(group) == {(orders, 0): 1, (orders, 1): 1}, what="the job that kept its partition"
    )
    assert old.stop() == 0
    assert new.stop() == 0

    assert after.offsets(orders) == {there.partition: [0]}
    written = {message.value(): message.key() for message in broker.read_all(outputs, read_committed=True)}
    assert len(broker.read_all(outputs, read_committed=True)) == 2
    assert written[b"order %d" % there.partition] == new.folder.name.encode()
    assert written[b"order %d" % (1 - there.partition)] == old.folder.name.encode()
    assert len(broker.read_all(outputs)) == 3, "the old job had produced nothing"
