"""Partitions that stand before anybody has read of them: nobody in the group has them, or nobody can say where they begin."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.scenarios.supervision.explaining import until, why
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from pathlib import Path
    from swarm import App
    from recording import record

    app = App("shop")
    GATE = Path(__file__).with_name("gate")

    @app.each("ORDERS")
    def order(message):
        record(message)
        while message.raw == b"hold" and not GATE.exists():
            time.sleep(0.02)
"""


def test_why_names_a_partition_that_nobody_in_the_group_has(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A new one, of which the group does not hear. To share it out a worker would leave and join again, which its job in hand holds up."""
    orders = topic()
    daemon = swarm_project(
        APP.replace("ORDERS", orders),
        {
            "swarm": {"workers": 1},
            "supervision": {"ownership_interval": 1.0},
            "kafka": {"topic.metadata.refresh.interval.ms": 600_000},
        },
    )
    daemon.expect_errors("partition_unowned")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    broker.produce(orders, [(None, "hold")], 0)
    daemon.wait_for(lambda: recording.seen(orders), what="a job in hand")
    assert until(daemon, "not_held", f"{orders}/1")["level"] == "warning"

    broker.add_partitions(orders, 2)
    everything = until(daemon, "unowned")
    asked = why(daemon, f"{orders}/1")
    (daemon.folder / "gate").touch()
    daemon.wait_for(lambda: daemon.status()["unowned"] == [], what="the alarm to end", within=60)
    broker.produce(orders, [(None, "new")], 1)
    daemon.wait_for(lambda: (1, 0) in recording.seen(orders), what="the new partition to be read")
    until(daemon, "no_lag")
    assert daemon.stop() == 0

    assert everything["level"] == "error"
    assert f"nobody in group {daemon.group} has {orders}/1, for " in everything["verdict"]
    assert asked["rule"] == "unowned"


@contextlib.contextmanager
def open_transaction(broker: Broker, group: str, topic: str) -> Iterator[None]:
    """Somebody's transaction over the group's offset of partition 0, left open meanwhile: until it ends, the broker withholds that offset."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group, "log_level": 0})
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": f"{group}-open", "log_level": 0})
    try:
        producer.init_transactions(30.0)
        producer.begin_transaction()
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, 1)], consumer.consumer_group_metadata(), 30.0)
        yield
    finally:
        producer.abort_transaction(30.0)
        consumer.close()


def test_why_names_a_partition_of_which_nobody_can_say_where_it_begins(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """Its offset is withheld by a transaction that somebody has left open; it begins as soon as that has ended."""
    orders = topic()
    daemon = swarm_project(APP.replace("ORDERS", orders), {"swarm": {"workers": 1, "group_id": group}})
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, "x")] * 3, 0)

    with open_transaction(broker, group, orders):
        daemon.start()
        everything = until(daemon, "no_start")
        asked = why(daemon, f"{orders}/0")
        mend = "a transaction that somebody left open withholds the group's offset"
        daemon.wait_for(lambda: mend in why(daemon)["findings"][0]["mend"], what="what may withhold it")
        assert not recording.seen(orders)
    daemon.wait_for(lambda: len(recording.seen(orders)) == 3, what="its messages")
    until(daemon, "no_lag")
    assert daemon.stop() == 0

    assert everything["level"] == "error"
    assert (
        f"{orders}/0 was assigned to worker 0 and cannot begin, because nobody could say where" in everything["verdict"]
    )
    assert asked["rule"] == "no_start"
