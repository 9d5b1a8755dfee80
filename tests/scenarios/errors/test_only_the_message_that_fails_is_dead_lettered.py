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

    @app.{form}("{orders}", max_messages=50, backoff=Backoff(initial=0.02), dead_letter=DeadLetter("{dead}", max_attempts={attempts}))
    def orders(item):
        for message in [item] if "{form}" == "each" else item:
            record(message)
            if message.raw.startswith(b"bad"):
                raise ValueError(f"{{message.raw}} is no order")
"""


@pytest.mark.parametrize(("form", "attempts"), [("each", 3), ("subscribe", 3), ("subscribe", 1)])
def test_only_the_message_that_fails_is_dead_lettered_with_where_it_came_from_and_why(
    form: str, attempts: int, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """After max_attempts, alone of its batch, with key, value and origin; everything else is processed and committed."""
    orders, dead = topic(partitions=3), topic(partitions=2)
    daemon = swarm_project(
        APP.format(form=form, orders=orders, dead=dead, attempts=attempts), {"swarm": {"workers": 1}}
    )
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    values = ["bad" if number in (0, 7, 8, 29) else "good" for number in range(30)]
    broker.produce(orders, [(f"key {number}", value) for number, value in enumerate(values)], 2)

    daemon.start()
    daemon.wait_for(lambda: broker.committed(daemon.group).get((orders, 2)) == 30, what="the end")
    assert daemon.stop() == 0

    letters = broker.read_all(dead)
    assert [(letter.partition(), letter.key(), letter.value()) for letter in letters] == [
        (0, f"key {number}".encode(), b"bad") for number in (0, 7, 8, 29)
    ]
    headers = dict(letters[1].headers() or [])
    assert headers["swarm.source.topic"] == orders.encode()
    assert headers["swarm.source.partition"] == b"2"
    assert headers["swarm.source.offset"] == b"7"
    assert headers["swarm.source.group"] == daemon.group.encode()
    assert headers["swarm.error"] == b"ValueError: b'bad' is no order"
    assert int(headers["swarm.attempts"] or 0) >= attempts
    events = daemon.events("message_dead_lettered")
    assert [(event["offset"], event["target"]) for event in events] == [(number, dead) for number in (0, 7, 8, 29)]
    assert recording.seen(orders) == {(2, number) for number in range(30)}
    if form == "each":
        assert recording.offsets(orders)[2] == [
            number for number in range(30) for _ in range(3 if values[number] == "bad" else 1)
        ]


def test_a_dead_letter_topic_that_is_not_there_holds_the_partition_and_loses_nothing(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """An event says so and names the topic; when it has been created the message is set aside and the rest goes on."""
    orders, dead = topic(partitions=2), topic(create=False)
    daemon = swarm_project(APP.format(form="each", orders=orders, dead=dead, attempts=3), {"swarm": {"workers": 1}})
    daemon.expect_errors("consume_failed", "dead_letter_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, "good"), (None, "bad"), (None, "good")], 0)
    broker.produce(orders, [(None, "good")] * 5, 1)

    daemon.start()
    (failed, *_) = daemon.wait_for_event("dead_letter_failed")
    daemon.wait_for(lambda: len(recording.all(partition=1)) == 5, what="the other partition")
    held = (recording.offsets(orders)[0], broker.committed(daemon.group).get((orders, 0), 0))
    broker.create_topic(dead)
    daemon.wait_for(lambda: recording.all(partition=0, offset=2), what="the message behind it")
    assert daemon.stop() == 0

    assert (failed["target"], failed["offset"]) == (dead, 1)
    assert dead in failed["error"]
    assert held[0] == [0, 1, 1, 1]
    assert held[1] <= 1, "committed past a message that was neither handled nor set aside"
    assert [letter.value() for letter in broker.read_all(dead)] == [b"bad"]
    assert broker.committed(daemon.group) == {(orders, 0): 3, (orders, 1): 5}
