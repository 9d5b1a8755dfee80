from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import os
    from swarm import App, Backoff, DeadLetter
    from recording import note

    app = App("shop")

    @app.each("{topic}", deserializer=lambda raw: raw.decode().upper(), dead_letter=DeadLetter("{dead}", max_attempts=1))
    def orders(message):
        note("message", repr((message.key, message.raw, message.value)).replace(" ", ""), message.partition, message.offset)
        if message.offset % 2:
            raise ValueError("no order")
"""

RECORDS: list[tuple[str | None, str | None]] = [(key, value) for key in (None, "", "k") for value in (None, "", "v")]


def test_missing_and_empty_keys_and_values_are_kept_apart_also_in_a_dead_letter(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """None is None and empty is empty; a tombstone is not given to the deserializer."""
    orders, dead = topic(), topic()
    daemon = swarm_project(APP.format(topic=orders, dead=dead), {"swarm": {"workers": 1}})
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    broker.produce(orders, RECORDS)

    daemon.start()
    daemon.wait_for(lambda: recording.all(offset=len(RECORDS) - 1), what="the last message")
    assert daemon.stop() == 0

    raw = [tuple(part.encode() if part is not None else None for part in record) for record in RECORDS]
    expected = [repr((key, value, value.decode().upper() if value is not None else None)) for key, value in raw]
    assert [each.topic for each in recording.all()] == [text.replace(" ", "") for text in expected]
    assert [(letter.key(), letter.value()) for letter in broker.read_all(dead)] == raw[1::2]
    assert broker.committed(daemon.group) == {(orders, 0): len(RECORDS)}
