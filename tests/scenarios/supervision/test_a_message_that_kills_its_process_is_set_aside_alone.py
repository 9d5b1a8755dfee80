from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import ctypes
    import os
    import time
    from swarm import App, DeadLetter
    from recording import record

    app = App("shop")

    @app.{form}("{orders}", max_messages=20{more})
    def order(item):
        for message in [item] if "{form}" == "each" else item:
            record(message)
            if message.raw == b"exit":
                os._exit(0)
            if message.raw == b"segv":
                ctypes.string_at(0)
            time.sleep(0.001)
"""


@pytest.mark.parametrize(("form", "kind"), [("subscribe", "segv"), ("each", "exit")])
def test_a_message_that_kills_its_process_is_dead_lettered_and_no_healthy_one_is(
    form: str, kind: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Three deaths, the last with nothing beside it; then the letter, and everything else is processed and committed."""
    orders, dead = topic(partitions=2), topic()
    app = APP.format(form=form, orders=orders, more=f', dead_letter=DeadLetter("{dead}", max_attempts=2)')
    daemon = swarm_project(
        app,
        {"swarm": {"workers": 2}, "supervision": {"restart_backoff": {"initial": 0.0, "factor": 1.0, "maximum": 0.1}}},
    )
    daemon.expect_errors("message_condemned", "message_dead_lettered")
    recording = Recording(daemon.folder)
    values = [kind if number == 33 else "good" for number in range(60)]
    broker.produce(orders, [(None, value) for value in values], 0)
    broker.produce(orders, [(None, "good")] * 60, 1)

    daemon.start()
    ends = {(orders, 0): 60, (orders, 1): 60}
    daemon.wait_for(lambda: broker.committed(daemon.group) == ends, what="the ends")
    deaths = daemon.events("worker_exited")
    assert daemon.stop() == 0

    assert recording.seen(orders) == {(p, number) for p in (0, 1) for number in range(60)}
    assert len(recording.all(partition=0, offset=33)) == 3
    assert len(deaths) == 3
    (letter,) = broker.read_all(dead)
    headers = dict(letter.headers() or [])
    assert (letter.value(), headers["swarm.source.offset"]) == (kind.encode(), b"33")
    assert headers["swarm.error"] == b"it killed its process 3 times"
    assert [line["offset"] for line in daemon.events("message_condemned")] == [33]


def test_a_message_that_kills_its_process_is_held_where_there_is_no_dead_letter_topic(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Its partition waits, and says so; the other partitions go on, and no more process dies."""
    orders = topic(partitions=2)
    daemon = swarm_project(
        APP.format(form="each", orders=orders, more=""),
        {"swarm": {"workers": 1}, "supervision": {"restart_backoff": {"initial": 0.0, "factor": 1.0, "maximum": 0.1}}},
    )
    daemon.expect_errors("message_condemned", "message_held")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, value) for value in ("good", "exit", "good")], 0)

    daemon.start()
    (held, *_) = daemon.wait_for_event("message_held")
    broker.produce(orders, [(None, "good")] * 5, 1)
    daemon.wait_for(lambda: len(recording.all(partition=1)) == 5, what="the other partition")
    assert daemon.stop() == 0

    assert (held["partition"], held["offset"]) == (0, 1)
    assert len([line for line in daemon.events("worker_exited") if line["reason"] == "finished"]) == 3
    assert broker.committed(daemon.group) == {(orders, 0): 1, (orders, 1): 5}
    assert not recording.all(partition=0, offset=2), "passed over a message that is held"
