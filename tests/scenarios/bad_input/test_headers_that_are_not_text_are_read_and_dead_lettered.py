from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import Message, Producer

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.raw_producer import produce_raw
from tests.support.recording import Recording

APP = """
    from swarm import App, Backoff, DeadLetter
    from recording import note, record

    app = App("shop")

    @app.each("{topic}", backoff=Backoff(initial=0.05), dead_letter=DeadLetter("{dead}", max_attempts=2))
    def orders(message):
        for name, value in message.headers:
            note("header", f"{{name!a}}={{value!r}}", message.partition, message.offset, message.attempt)
        record(message)
        if message.raw == b"bad":
            raise ValueError("no order")
"""

TEXT = [("trace", "1"), ("trace", "2"), ("empty", ""), ("null", None), ("", "nameless"), ("binary", b"\xff\xfe")]
NOT_TEXT = [(b"trace", b"1"), (b"gr\xf6\xdfe", b"42"), (b"binary", b"\xff\xfe")]


def test_headers_that_are_not_text_are_read_and_dead_lettered_like_all_others(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Values of any bytes, none, the same name twice; a name that is not UTF-8 shows U+FFFD there, each time it is read."""
    orders, dead = topic(), topic()
    daemon = swarm_project(APP.format(topic=orders, dead=dead), {"swarm": {"workers": 1}})
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce(orders, b"good", headers=TEXT)
    producer.produce(orders, b"bad", headers=TEXT)
    assert producer.flush(10) == 0
    produce_raw(broker.bootstrap, orders, b"good", NOT_TEXT)
    produce_raw(broker.bootstrap, orders, b"bad", NOT_TEXT)
    broker.produce(orders, [(None, "good")])

    daemon.start()
    daemon.wait_for(lambda: recording.all(offset=4) or daemon.events("worker_exited"), what="the last message")
    assert daemon.stop() == 0

    assert daemon.events("worker_exited", reason="crashed") == []
    text = ["'trace'=b'1'", "'trace'=b'2'", "'empty'=b''", "'null'=None", "''=b'nameless'", "'binary'=b'\\xff\\xfe'"]
    not_text = ["'trace'=b'1'", "'gr\\ufffd\\ufffde'=b'42'", "'binary'=b'\\xff\\xfe'"]
    for attempt in (1, 2):
        for offset, expected in ((1, text), (3, not_text)):
            seen = [each.topic for each in recording.all("header", offset=offset, attempt=attempt)]
            assert seen == expected, f"message {offset} as attempt {attempt}"
    assert recording.offsets(orders)[0] == [0, 1, 1, 2, 3, 3, 4], "to read them failed nowhere"
    first, second = broker.read_all(dead)
    assert _own(first) == [(name, value.encode() if isinstance(value, str) else value) for name, value in TEXT]
    assert _own(second) == [("trace", b"1"), ("gr\ufffd\ufffde", b"42"), ("binary", b"\xff\xfe")]
    assert broker.committed(daemon.group) == {(orders, 0): 5}


def _own(letter: Message) -> list[tuple[str, bytes | None]]:
    headers: Any = letter.headers()
    return [(name, value) for name, value in headers if not name.startswith("swarm.")]
