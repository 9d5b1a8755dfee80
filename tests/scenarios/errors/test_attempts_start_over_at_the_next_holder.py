"""An attempt is one of an assignment: who gets the partition next begins with the first."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, Backoff
    from recording import record

    app = App("shop")

    @app.each("{orders}", backoff=Backoff(initial=0.02, maximum=0.05))
    def order(message):
        record(message)
        raise ValueError("always")
"""


def test_a_message_that_fails_on_is_a_first_attempt_where_its_partition_went(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """Counted from one again after a revocation, so that `max_attempts` and the backoff are those of this try: at another host, and where the
    partition comes back to."""
    orders = topic(partitions=2)
    settings = {"swarm": {"workers": 1, "group_id": group}}
    first, second = (swarm_project(APP.format(orders=orders), settings, name=name) for name in ("first", "second"))
    before, after = Recording(first.folder), Recording(second.folder)
    for daemon in (first, second):
        daemon.expect_errors("consume_failed")
    for partition in range(2):
        broker.produce(orders, [(None, "x")], partition)

    first.start()
    first.wait_for(
        lambda: all(len(before.all(partition=number)) >= 4 for number in range(2)), what="some attempts of both"
    )
    second.start()
    second.wait_for(lambda: len(after.all()) >= 3, what="attempts of the next holder")
    moved = after.all()[0].partition
    assert second.stop() == 0
    first.wait_for(lambda: [each.attempt for each in before.all(partition=moved)].count(1) == 2, what="it to be back")
    first.wait_for(lambda: before.all(partition=moved)[-1].attempt >= 3, what="more attempts")
    assert first.stop() == 0

    there = [each.attempt for each in after.all(partition=moved)]
    assert there == [*range(1, len(there) + 1)]
    here = [each.attempt for each in before.all(partition=moved)]
    again = len(here) - here[::-1].index(1) - 1
    assert here == [*range(1, again + 1), *range(1, len(here) - again + 1)]
