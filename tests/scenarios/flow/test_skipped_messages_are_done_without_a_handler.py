from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import json
    from swarm import App, Backoff, DeadLetter
    from recording import record

    app = App("shop")

    @app.{form}("{orders}", delivery="{delivery}", expires_after=60.0, filter=lambda message: message.value["wanted"],
                deserializer=json.loads, max_messages=7, backoff=Backoff(initial=0.02),
                dead_letter=DeadLetter("{letters}", max_attempts=2))
    def order(item, consumer):
        for message in [item] if "{form}" == "each" else item:
            record(message)
"""

WANTED, UNWANTED, BROKEN = b'{"wanted": true}', b'{"wanted": false}', b"{"
HOUR = 3_600_000


@pytest.mark.parametrize(
    ("delivery", "form"),
    [
        ("at_least_once", "subscribe"),
        ("at_least_once", "each"),
        ("at_most_once", "subscribe"),
        ("exactly_once", "each"),
    ],
)
def test_skipped_messages_are_done_without_a_handler_whatever_the_semantics(
    delivery: str, form: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Expired and filtered ones are committed, counted and said, also at the end of the partition; timestamps that cannot be (far in
    the future, none) do not expire; a filter that raises is a failed attempt of that message, and the others go on."""
    orders = topic(config={"message.timestamp.after.max.ms": str(2**62)})
    letters = topic(config={"message.timestamp.after.max.ms": str(2**62)})
    daemon = swarm_project(
        APP.format(form=form, orders=orders, letters=letters, delivery=delivery),
        {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.2}},
    )
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    now = int(time.time() * 1000)
    values = [(WANTED, now), (UNWANTED, now), (WANTED, now - HOUR), (WANTED, now + 10_000 * HOUR), (BROKEN, now)]
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 20})
    for number in range(40):
        value, timestamp = values[number % 5]
        producer.produce(orders, value, timestamp=timestamp)
    for _ in range(10):  # the end: nothing but skipped messages
        producer.produce(orders, UNWANTED, timestamp=now)
    assert producer.flush(10) == 0

    daemon.start()
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 50}, what="the end")
    page = urllib.request.urlopen(f"{daemon.url}/metrics").read().decode()
    assert daemon.stop() == 0

    assert recording.offsets(orders)[0] == [number for number in range(40) if number % 5 in (0, 3)]
    assert 'swarm_skipped_total{worker="0"} 26.0' in page
    skipped = {"filtered": 0, "expired": 0}
    for line in daemon.events("messages_skipped"):
        skipped[line["reason"]] += line["count"]
    assert skipped == {"filtered": 18, "expired": 8}
    written = broker.read_all(letters, read_committed=True)
    assert [dict(letter.headers() or [])["swarm.source.offset"] for letter in written] == [
        str(number).encode() for number in range(4, 40, 5)
    ]
