"""A fatal error of a transactional producer, here somebody who registers under its id, costs that producer and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Producer

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.subscribe("{orders}", delivery="exactly_once")
    def copy(messages, consumer):
        for message in messages:
            record(message)
            consumer.producer.produce("{receipts}", message.raw)
"""


def test_a_producer_that_is_fenced_is_replaced_and_every_output_appears_once(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """The id is that of worker and thread: who uses it elsewhere ends what is open, and the next transaction has a new producer."""
    orders, receipts = topic(), topic()
    daemon = swarm_project(
        APP.format(orders=orders, receipts=receipts),
        {"swarm": {"workers": 1, "host": "desk"}, "worker": {"concurrency": 1}},
    )
    daemon.expect_errors("transactional_producer_replaced", "transaction_aborted")
    Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(5)])
    daemon.start()
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 5}, what="the first transaction")

    name = daemon.status()["name"]
    intruder = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": f"{name}.desk.0.0", "log_level": 0})
    intruder.init_transactions(30)
    broker.produce(orders, [(None, str(number)) for number in range(5, 10)])
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 10}, what="the rest", within=60)
    assert daemon.stop() == 0

    assert daemon.events("transactional_producer_replaced")
    outputs = [message.value() for message in broker.read_all(receipts, read_committed=True)]
    assert outputs == [b"%d" % number for number in range(10)]
    assert [event["restarts"] for event in daemon.events("worker_started")] == [0]
