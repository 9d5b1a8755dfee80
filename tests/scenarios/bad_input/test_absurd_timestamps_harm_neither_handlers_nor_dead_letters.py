from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Producer

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, DeadLetter
    from recording import note, record

    app = App("shop")

    @app.each("{topic}", expires_after=3600.0, not_before=0.2, dead_letter=DeadLetter("{dead}", max_attempts=1))
    def orders(message):
        note("timestamp", str(message.timestamp), message.partition, message.offset)
        record(message)
        if message.raw == b"bad":
            raise ValueError("no order")
"""

YEAR_9999 = 253_402_300_799_000
ABSURD = [-(2**63), -5, YEAR_9999, 2**63 - 1]


def test_absurd_timestamps_harm_neither_handlers_nor_dead_letters_nor_the_status(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """One before the epoch or far in the future neither expires nor waits. Its dead letter has today's where the topic takes no other."""
    orders, dead = topic(config={"message.timestamp.after.max.ms": str(2**63 - 1)}), topic()
    daemon = swarm_project(
        APP.format(topic=orders, dead=dead), {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.1}}
    )
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True})
    for timestamp in ABSURD:
        producer.produce(orders, b"good", timestamp=timestamp)
    for timestamp in ABSURD:
        producer.produce(orders, b"bad", timestamp=timestamp)
    producer.produce(orders, b"good")
    assert producer.flush(10) == 0

    daemon.start()
    daemon.wait_for(lambda: recording.all(offset=2 * len(ABSURD)), what="the last message")
    (held,) = daemon.wait_for(
        lambda: [place for place in daemon.workers()[0]["assignment"] if place["lag"] == 0], what="no lag"
    )
    assert daemon.stop() == 0

    assert [int(each.topic) for each in recording.all("timestamp")][:-1] == [*ABSURD, *ABSURD]
    letters = broker.read_all(dead)
    assert [int(dict(letter.headers() or [])["swarm.source.timestamp"] or 0) for letter in letters] == ABSURD
    timestamps = [letter.timestamp()[1] for letter in letters]
    assert timestamps.pop(1) == -5, "the only one that a topic with stock settings takes"
    assert all(0 < timestamp < YEAR_9999 for timestamp in timestamps)
    assert held["position"] == 2 * len(ABSURD) + 1
    assert broker.committed(daemon.group) == {(orders, 0): 2 * len(ABSURD) + 1}
