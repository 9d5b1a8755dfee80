from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, Backoff, DeadLetter
    from recording import record

    app = App("shop")

    @app.{form}("{orders}", delivery="exactly_once", max_messages=8, backoff=Backoff(initial=0.3, jitter=0.0),
                dead_letter=DeadLetter("{letters}", max_attempts=2))
    def invoice(item, consumer):
        for message in [item] if "{form}" == "each" else item:
            record(message)
            bad = message.offset == 5
            consumer.producer.produce("{bad}" if bad else "{invoices}", value=message.raw + (b"x" * 5000 if bad else b""))
"""


@pytest.mark.parametrize(
    ("form", "why"),
    [("subscribe", "MSG_SIZE_TOO_LARGE"), ("each", "MSG_SIZE_TOO_LARGE"), ("subscribe", "UNKNOWN_TOPIC")],
)
def test_an_undeliverable_output_is_a_failed_attempt_of_the_run_that_produced_it(
    form: str, why: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A topic that takes no such message, or does not exist: it is tried again with the backoff and not at once, the error says why, and
    after the last attempt only the message whose output it was is set aside."""
    orders, invoices, letters = topic(), topic(), topic()
    small = topic(config={"max.message.bytes": "1000"}, create=why == "MSG_SIZE_TOO_LARGE")
    daemon = swarm_project(
        APP.format(form=form, orders=orders, invoices=invoices, letters=letters, bad=small),
        {"swarm": {"workers": 1}, "kafka": {"topic.metadata.propagation.max.ms": 500}},
    )
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(20)])

    daemon.start()
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 20}, what="the end")
    assert daemon.stop() == 0

    outputs = sorted(int(message.value() or b"") for message in broker.read_all(invoices, read_committed=True))
    assert outputs == [number for number in range(20) if number != 5]
    (letter,) = broker.read_all(letters, read_committed=True)
    assert dict(letter.headers() or [])["swarm.source.offset"] == b"5"
    failures = daemon.events("consume_failed")
    assert all(why in line["error"] for line in failures), [line["error"] for line in failures]
    assert len(failures) <= 6, "more runs than the backoff and the search for the message allow"
    first, second = (each.at for each in recording.all(offset=5)[:2])
    assert second - first > 0.25, "repeated without the backoff"
