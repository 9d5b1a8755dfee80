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
    """Counted from one again after a revocation, so that `max_attempts` and the backoff are those of this try, not of another host's."""
    orders = topic()
    settings = {"swarm": {"workers": 1, "group_id": group}}
    first, second = (swarm_project(APP.format(orders=orders), settings, name=name) for name in ("first", "second"))
    before, after = Recording(first.folder), Recording(second.folder)
    for daemon in (first, second):
        daemon.expect_errors("consume_failed")
    broker.produce(orders, [(None, "x")])

    first.start()
    first.wait_for(lambda: len(before.all()) >= 4, what="some attempts")
    second.start().until_running()
    assert first.stop() == 0
    second.wait_for(lambda: len(after.all()) >= 3, what="attempts of the next holder")
    assert second.stop() == 0

    for recording in (before, after):
        attempts = [each.attempt for each in recording.all()]
        assert attempts == [*range(1, len(attempts) + 1)]
