from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App, Backoff, Consumer
    from swarm.events import TransactionCommitted
    from recording import record

    app = App("shop")
    failures = set()

    @app.on(TransactionCommitted)
    def note(event):
        with open("commits", "a") as file:
            print(event.seconds, file=file)  # the same for all partitions of one transaction, and for no other

    @app.{form}("{orders}", delivery="exactly_once", max_messages=20, backoff=Backoff(initial=0.02),
                transaction_partitions={together})
    def invoice(item, consumer):
        for message in [item] if "{form}" == "each" else item:
            record(message)
            consumer.producer.produce("{invoices}", value=message.raw, key=message.raw)
            time.sleep(0.001)  # the work
            if message.offset % 97 == 13 and message.offset not in failures:
                failures.add(message.offset)
                raise ValueError("out of paper")
"""


def read_committed(broker: Broker, topic: str) -> list[bytes | None]:
    """The values of a topic as a reader with read_committed sees them."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": f"reader of {topic}",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    try:
        count = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(count)])
        values, ended = [], 0
        while ended < count:
            message = consumer.poll(10)
            assert message is not None, "the reader is held up: a transaction was left open"
            if message.error():
                ended += 1
            else:
                values.append(message.value())
        return values
    finally:
        consumer.close()


@pytest.mark.parametrize(("form", "together"), [("subscribe", 1), ("each", 1), ("subscribe", 4)])
def test_exactly_once_outputs_appear_once_whatever_is_killed(
    form: str, together: int, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Failures, and kill -9 in the middle of a transaction: a reader with read_committed sees one output for each input, and the
    group's offsets are at the end; also where partitions share their transactions."""
    orders, invoices = topic(partitions=4), topic(partitions=2)
    daemon = swarm_project(
        APP.format(form=form, orders=orders, invoices=invoices, together=together),
        {"swarm": {"workers": 2}, "worker": {"concurrency": 2}},
    )
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    for partition in range(4):
        broker.produce(orders, [(None, f"{partition}/{number}") for number in range(300)], partition)

    daemon.start()
    for enough in (100, 500, 900):
        daemon.wait_for(
            lambda: len(recording.all()) > enough,  # noqa: B023  # it is waited for here
            what="some messages",
        )
        os.kill(recording.all()[-1].pid, signal.SIGKILL)
    # Not until all were seen: the last that a killed worker had in hand were seen, and are undone.
    ends = {(orders, partition): 300 for partition in range(4)}
    daemon.wait_for(lambda: broker.committed(daemon.group) == ends, what="the ends")
    assert daemon.stop() == 0

    outputs = Counter(read_committed(broker, invoices))
    expected = {f"{partition}/{number}".encode() for partition in range(4) for number in range(300)}
    assert set(outputs) == expected
    assert set(outputs.values()) == {1}
    assert broker.committed(daemon.group) == ends
    assert not daemon.events("transactional_producer_replaced"), "a failed run cost its producer"
    shared = Counter((daemon.folder / "commits").read_text().split())
    assert (max(shared.values()) > 1) == (together > 1)
