from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, Backoff, DeadLetter, VirtualPartitions
    from recording import record

    app = App("shop")

    @app.{form}("{orders}", virtual_partitions=VirtualPartitions(by=lambda message: message.key, maximum=4), max_messages=40,
                max_wait=1.0, delivery="{delivery}", backoff=Backoff(initial=0.02),
                dead_letter=DeadLetter("{letters}", max_attempts={attempts}))
    def order(item):
        for message in [item] if "{form}" == "each" else item:
            record(message)
            if message.raw == b"poison":
                raise ValueError("always")
"""


@pytest.mark.parametrize(
    ("form", "delivery", "attempts"),
    [
        ("subscribe", "at_least_once", 2),
        ("subscribe", "at_least_once", 1),
        ("each", "at_least_once", 1),
        ("each", "at_most_once", 3),
    ],
)
def test_only_the_poison_of_a_divided_batch_is_set_aside_whatever_the_form(
    form: str,
    delivery: str,
    attempts: int,
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
) -> None:
    """Two of its slices hold a message that always fails: those two become dead letters, all others are handled; in `each`, once."""
    orders, letters = topic(), topic()
    daemon = swarm_project(
        APP.format(form=form, orders=orders, letters=letters, delivery=delivery, attempts=attempts),
        {"swarm": {"workers": 1}, "worker": {"concurrency": 4}},
    )
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(f"key {number % 4}", "poison" if number in (13, 18) else "x") for number in range(40)])

    daemon.start()
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 40}, what="the end")
    daemon.wait_for(lambda: len(broker.read_all(letters)) == 2, what="the letters")
    daemon.wait_for(lambda: len(recording.seen(orders)) == 40, what="all messages")
    assert daemon.stop() == 0

    found = sorted(dict(letter.headers() or [])["swarm.source.offset"] or b"" for letter in broker.read_all(letters))
    assert found == [b"13", b"18"]
    runs = Counter(each.offset for each in recording.all())
    if form == "each":
        assert {offset for offset, count in runs.items() if count > 1} == set()
    else:
        assert all(runs[offset] == 1 for offset in range(40) if offset % 4 not in (13 % 4, 18 % 4)), "healthy slices"
