from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, Backoff, DeadLetter
    from recording import record

    app = App("shop")

    @app.each("{orders}", delivery="exactly_once", max_messages=20, backoff=Backoff(initial=0.01),
              dead_letter=DeadLetter("{letters}", max_attempts=1))
    def invoice(message, consumer):
        record(message)
        consumer.producer.produce("{invoices}", value=message.raw)
        if message.offset % 3 == 1:
            raise ValueError("no such customer")
"""


def test_a_dead_letter_and_its_offset_are_one_transaction_whatever_is_killed(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """While the dead letter topic does not exist the message waits; once it does, each letter is there once, although the worker is killed
    again and again, and what a failed run had produced is not."""
    orders, invoices, letters = topic(), topic(), topic(create=False)
    daemon = swarm_project(
        APP.format(orders=orders, invoices=invoices, letters=letters),
        {"swarm": {"workers": 1}, "supervision": {"restart_backoff": {"initial": 0.0, "factor": 1.0}}},
    )
    daemon.expect_errors("consume_failed", "message_dead_lettered", "dead_letter_failed")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(45)])

    daemon.start()
    (failed,) = daemon.wait_for_event("dead_letter_failed")
    assert letters in failed["error"]
    broker.create_topic(letters)
    for enough in (3, 8):
        daemon.wait_for(
            lambda: len(daemon.events("message_dead_lettered")) > enough,  # noqa: B023  # it is waited for here
            what="letters",
        )
        os.kill(recording.all()[-1].pid, signal.SIGKILL)
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 45}, what="the end")
    assert daemon.stop() == 0

    written = [int(message.value() or b"") for message in broker.read_all(letters, read_committed=True)]
    assert written == list(range(1, 45, 3))
    outputs = [int(message.value() or b"") for message in broker.read_all(invoices, read_committed=True)]
    assert outputs == [number for number in range(45) if number % 3 != 1]
