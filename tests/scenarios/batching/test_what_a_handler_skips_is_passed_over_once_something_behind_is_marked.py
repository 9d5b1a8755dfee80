"""A handler that seeks forwards: what lies between is not handled, and not done either until a message behind it is."""

from __future__ import annotations

from collections.abc import Callable

from tests.scenarios.conftest import ExpectViolation
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, Consumer
    from recording import record

    app = App("shop")

    @app.subscribe("{orders}", max_messages=5)
    class Orders(Consumer):
        def consume(self, messages):
            for message in messages:
                record(message)
                if message.offset == 3:
                    self.mark_as_consumed(message)
                    self.seek(12)
                    return
"""


def test_a_seek_forwards_leaves_out_what_lies_between_and_commits_behind_it(
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
    expect_violation: ExpectViolation,
) -> None:
    """3 is marked and 12 is next: 4 to 11 are seen by nobody, and the group ends behind the last."""
    expect_violation("lost", "what the handler skips is handled by nobody, as it asks")
    orders = topic()
    daemon = swarm_project(APP.format(orders=orders), {"swarm": {"workers": 1}})
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(20)])

    daemon.start()
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 20}, what="the end")
    assert daemon.stop() == 0

    assert recording.offsets(orders) == {0: [0, 1, 2, 3, *range(12, 20)]}
    (sought,) = daemon.events("partition_sought")
    assert sought["offset"] == 12
