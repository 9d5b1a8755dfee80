from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.scenarios.conftest import ExpectViolation
from tests.scenarios.supervision.explaining import until
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("{topic}", offset_out_of_range={edge})
    def orders(message):
        record(message)
"""


@pytest.mark.parametrize(
    ("edge", "strategy"),
    [
        *((edge, strategy) for edge in (None, "earliest", "latest") for strategy in ("cooperative-sticky", "range")),
        ("earliest", "consumer"),
    ],
)
def test_an_offset_out_of_range_is_an_error_event_and_never_a_silent_jump(
    edge: str | None, strategy: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """The partition pauses, the others go on; only where the subscription says so it goes on at an edge of the log."""
    orders = topic(partitions=2)
    daemon = swarm_project(
        APP.format(topic=orders, edge=repr(edge)),
        {
            "swarm": {"workers": 1},
            "kafka": {"group.protocol": "consumer"}
            if strategy == "consumer"
            else {"partition.assignment.strategy": strategy},
        },
    )
    daemon.expect_errors("offset_out_of_range")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(5)], 0)
    _commit(broker, daemon.group, TopicPartition(orders, 0, 1000))

    daemon.start()
    daemon.wait_for_event("offset_out_of_range")
    broker.produce(orders, [(None, str(number)) for number in range(5)], 1)
    daemon.wait_for(lambda: len(recording.all(partition=1)) == 5, what="the other partition")
    broker.produce(orders, [(None, "later")], 0)
    if edge is None:
        said = until(daemon, "out_of_range", f"{orders}/0")["verdict"]
        assert said.startswith(f"{orders}/0 is paused: offset 1000 is no longer in its log")
    else:
        daemon.wait_for(lambda: recording.all(partition=0, offset=5), what="the partition to go on")
    assert daemon.stop() == 0

    (event, *_) = daemon.events("offset_out_of_range")
    assert (event["topic"], event["partition"], event["offset"]) == (orders, 0, 1000)
    assert event["action"] == (edge or "pause")
    expected: dict[str | None, list[int]] = {None: [], "earliest": [0, 1, 2, 3, 4, 5], "latest": [5]}
    assert recording.offsets(orders).get(0, []) == expected[edge]
    committed = broker.committed(daemon.group)
    assert committed == {(orders, 0): 1000 if edge is None else 6, (orders, 1): 5}


def _commit(broker: Broker, group: str, partition: TopicPartition) -> None:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group, "log_level": 0})
    try:
        consumer.commit(offsets=[partition], asynchronous=False)
    finally:
        consumer.close()


SEEKING = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.subscribe("{topic}", max_messages=1)
    def orders(messages, consumer):
        record(messages[0])
        if (messages.partition, messages.first_offset) == (0, 2):
            consumer.seek(1000)
"""


def test_a_seek_beyond_the_log_is_said_and_holds_only_its_own_partition(
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
    expect_violation: ExpectViolation,
) -> None:
    """It is a mistake of the handler's, and nobody guesses what it meant."""
    expect_violation("lost", "the handler passes over what lies between")
    orders = topic(partitions=2)
    daemon = swarm_project(SEEKING.format(topic=orders), {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.2}})
    daemon.expect_errors("offset_out_of_range")
    recording = Recording(daemon.folder)
    for partition in range(2):
        broker.produce(orders, [(None, str(number)) for number in range(10)], partition)

    daemon.start()
    (event,) = daemon.wait_for_event("offset_out_of_range")
    until(daemon, "out_of_range", f"{orders}/0")
    broker.produce(orders, [(None, "later")], 1)
    daemon.wait_for(lambda: recording.all(partition=1, offset=10), what="the other partition to go on")
    assert daemon.stop() == 0

    assert (event["partition"], event["offset"], event["action"]) == (0, 1000, "pause")
    assert recording.offsets(orders) == {0: [0, 1, 2], 1: list(range(11))}
    assert broker.committed(daemon.group)[(orders, 1)] == 11
