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

    class Stuck(Consumer):
        def consume(self, messages):
            record(messages[0], "stuck")
            while not Path("release").exists():
                time.sleep(0.02)

    app.subscribe("TOPIC", group="GROUP-stuck")(Stuck)
    app.subscribe("TOPIC", group="GROUP-second")(Noted)
    app.subscribe("TOPIC", group="GROUP-third")(Noted)
"""
)


def test_a_group_that_is_stuck_in_all_of_its_partitions_holds_up_no_other_group(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """More blocked jobs than processing threads: each of the other groups still gets one."""
    orders = topic(partitions=6)
    for partition in range(6):
        broker.produce(orders, [(None, str(number)) for number in range(20)], partition)
    daemon = swarm_project(
        APP.replace("TOPIC", orders).replace("GROUP", group), {"swarm": {"workers": 1}, "worker": {"concurrency": 2}}
    )
    recording = Recording(daemon.folder)
    daemon.start()
    daemon.wait_for(lambda: len(recording.offsets(orders, "stuck")) == 2, what="as many stuck jobs as threads")
    daemon.wait_for(lambda: len(recording.all()) == 2 * 6 * 20, what="the other groups' messages")
    (daemon.folder / "release").touch()
    daemon.wait_for(lambda: len(recording.offsets(orders, "stuck")) == 6, what="the others of the stuck group")
    assert daemon.stop() == 0
