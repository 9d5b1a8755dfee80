from __future__ import annotations

from collections.abc import Callable

from tests.scenarios.rebalancing.ledger import HANDLER
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = (
    HANDLER
    + """
    from pathlib import Path
    from swarm import Backoff

    class Stuck(Consumer):
        def consume(self, messages):
            record(messages[0], "stuck")
            while not Path("release").exists():
                time.sleep(0.02)

    class Failing(Consumer):
        def consume(self, messages):
            record(messages[0], "failing")
            raise ValueError("always")

    class Paused(Consumer):
        def consume(self, messages):
            record(messages[0], "paused")
            self.pause(3600, messages.first_offset)

    app.subscribe("TOPIC", group="GROUP-stuck")(Stuck)
    app.subscribe("TOPIC", group="GROUP-failing", backoff=Backoff(initial=0.01, maximum=0.01))(Failing)
    app.subscribe("TOPIC", group="GROUP-paused")(Paused)
    app.subscribe("TOPIC", group="GROUP-sound")(Noted)
    app.subscribe("TOPIC", group="GROUP-other")(Noted)
"""
)


def test_a_group_that_is_stuck_or_fails_or_pauses_holds_up_no_other_and_each_gets_every_message(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """All five read one topic in the same workers. Their offsets are their own."""
    orders = topic(partitions=2)
    daemon = swarm_project(APP.replace("TOPIC", orders).replace("GROUP", group), {"worker": {"commit_interval": 0.2}})
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    for partition in range(2):
        broker.produce(orders, [(None, str(number)) for number in range(100)], partition)
    daemon.wait_for(
        lambda: [len(recording.offsets(orders, what)) for what in ("stuck", "failing", "paused")] == [2, 2, 2],
        what="the others to be as they are called",
    )
    daemon.wait_for(lambda: len(recording.all(topic=orders)) == 2 * 2 * 100, what="the sound groups to have all")
    for partition in range(2):
        broker.produce(orders, [(None, "more")] * 10, partition)
    daemon.wait_for(lambda: len(recording.all(topic=orders)) == 2 * 2 * 110, what="the sound groups to have more")

    def sound_are_committed() -> bool:
        return all(
            broker.committed(f"{group}-{name}") == {(orders, 0): 110, (orders, 1): 110} for name in ("sound", "other")
        )

    daemon.wait_for(sound_are_committed, what="the sound groups' commits")
    for name in ("stuck", "failing", "paused"):
        assert broker.committed(f"{group}-{name}") == {(orders, 0): 0, (orders, 1): 0}
    (daemon.folder / "release").touch()
    daemon.wait_for(lambda: broker.committed(f"{group}-stuck") == {(orders, 0): 110, (orders, 1): 110}, what="its end")
    assert daemon.stop() == 0

    for offsets in recording.offsets(orders).values():
        assert sorted(offsets) == sorted([*range(110), *range(110)])
    assert [event["reason"] for event in daemon.events("worker_exited")] == ["requested"] * 2
