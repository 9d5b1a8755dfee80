from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, Backoff, DeadLetter
    from recording import note, record

    app = App("shop")

    def decide(error, attempt):
        note("asked", attempt=attempt)
        if isinstance(error, KeyError):
            return "skip"
        if isinstance(error, TimeoutError):
            return "retry"
        if isinstance(error, ValueError):
            return "dead_letter"
        if isinstance(error, OSError):
            raise RuntimeError("undecided")
        return None

    @app.{form}("{orders}", delivery="{delivery}", max_messages=10, backoff=Backoff(initial=0.01),
                dead_letter=DeadLetter("{letters}", max_attempts=2, decide=decide))
    def order(item, consumer):
        for message in [item] if "{form}" == "each" else item:
            record(message)
            if message.raw == b"skip":
                raise KeyError("unknown customer")
            if message.raw == b"retry" and message.attempt < 5:
                raise TimeoutError("busy")
            if message.raw == b"letter":
                raise ValueError("no such customer")
            if message.raw == b"undecided":
                raise OSError("what now")
            if message.raw == b"none":
                raise ArithmeticError("by max_attempts")
"""


@pytest.mark.parametrize(
    ("delivery", "form"), [("at_least_once", "each"), ("at_least_once", "subscribe"), ("exactly_once", "each")]
)
def test_the_application_decides_what_follows_a_failure_by_error_and_attempt(
    delivery: str, form: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """`skip` drops the message at its first failure, with an event; `dead_letter` sets it aside at once; `retry` goes beyond
    max_attempts; None, and a decider that raises, leave it to max_attempts. Only the failing messages are concerned."""
    orders, letters = topic(), topic()
    daemon = swarm_project(
        APP.format(form=form, delivery=delivery, orders=orders, letters=letters), {"swarm": {"workers": 1}}
    )
    daemon.expect_errors("consume_failed", "message_dead_lettered", "message_dropped", "decider_failed")
    recording = Recording(daemon.folder)
    values = ["ok", "skip", "ok", "letter", "retry", "ok", "undecided", "none", "ok", "ok", "ok"]
    broker.produce(orders, [(None, value) for value in values])

    daemon.start()
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): len(values)}, what="the end")
    assert daemon.stop() == 0

    written = [message.value() for message in broker.read_all(letters, read_committed=True)]
    assert written == [b"letter", b"undecided", b"none"]
    dropped = [(line["first_offset"], line["last_offset"]) for line in daemon.events("message_dropped")]
    assert dropped == [(1, 1)]
    assert "undecided" in daemon.events("decider_failed")[0]["error"]
    if form == "each" and delivery == "at_least_once":
        runs = Counter(values[each.offset] for each in recording.all())
        assert (runs["skip"], runs["letter"], runs["retry"], runs["undecided"], runs["none"]) == (1, 1, 5, 2, 2)
