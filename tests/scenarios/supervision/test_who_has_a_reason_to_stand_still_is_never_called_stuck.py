"""Open transactions, retries, pauses and slow handlers, each for many times `standing_timeout` while their logs grow."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Producer

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App, Backoff
    from recording import record

    app = App("shop")

    @app.each("{orders}", max_messages=1, backoff=Backoff(initial=3.0, factor=1.0))
    def order(message):
        if message.value == b"fails":
            raise RuntimeError("as it was told to")
        if message.value == b"slow":
            time.sleep(5.0)
        record(message, "message")
"""

UNDECIDED, RETRIED, PAUSED, SLOW, WELL = range(5)


def test_who_has_a_reason_to_stand_still_is_never_called_stuck(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """It lasts until the broker aborts the transaction that nobody ends: then what stands behind it is read."""
    orders = topic(partitions=5)
    daemon = swarm_project(
        APP.format(orders=orders), {"swarm": {"workers": 1}, "supervision": {"standing_timeout": 2.0}}
    )
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    daemon.wait_for(lambda: len(daemon.workers()[0]["assignment"]) == 5, what="its partitions")
    daemon.run("pause", f"{orders}/{PAUSED}")
    undecided = Producer(
        {"bootstrap.servers": broker.direct, "transactional.id": orders, "transaction.timeout.ms": 4000, "log_level": 2}
    )
    undecided.init_transactions(30.0)
    undecided.begin_transaction()
    undecided.produce(orders, b"never", partition=UNDECIDED)
    undecided.flush(30.0)
    for partition, value in ((RETRIED, "fails"), (SLOW, "slow"), (PAUSED, "waits"), (WELL, "well")):
        broker.produce(orders, [(None, value)], partition)
    daemon.wait_for_event("consume_failed")

    for partition in range(5):  # the logs grow
        broker.produce(orders, [(None, "more")], partition)

    def seen() -> dict[int, int]:
        return {partition: len(offsets) for partition, offsets in recording.offsets(orders).items()}

    daemon.wait_for(lambda: seen() == {UNDECIDED: 1, SLOW: 2, WELL: 2}, within=60, what="the end of the transaction")
    assert daemon.stop() == 0

    assert daemon.events("partition_stands") == []
    assert [line["reason"] for line in daemon.events("worker_exited")] == ["requested"]
    assert len(daemon.events("consume_failed")) > 1
    assert seen() == {UNDECIDED: 1, SLOW: 2, WELL: 2}
