"""A worker dies while it gives a partition back: its successor takes the seat without a rebalance, so the group has to be made to look."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from pathlib import Path

    from swarm import App, Consumer
    from recording import note, record

    GO = Path(__file__).with_name("go")
    app = App("shop")

    @app.subscribe("{orders}", max_messages=1)
    class Orders(Consumer):
        def consume(self, messages):
            said = False
            note("begun", self.topic, self.partition)
            while not GO.exists():
                if self.is_revoked and not said:
                    note("revoked", self.topic, self.partition)
                    said = True
                time.sleep(0.01)
            for message in messages:
                record(message)
"""


def test_a_partition_that_a_killed_worker_was_giving_back_is_read_on_soon(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Two looks at the owners, a second apart and not ten, find that nobody has it; a worker joins again, and every message is handled."""
    orders = topic(partitions=2)
    daemon = swarm_project(APP.format(orders=orders), {"swarm": {"workers": 1}, "worker": {"concurrency": 2}})
    daemon.expect_errors("partition_unowned", "worker_exited")
    recording = Recording(daemon.folder)
    for partition in (0, 1):
        broker.produce(orders, [(None, f"{number}") for number in range(3)], partition)
    daemon.start().until_running()
    daemon.wait_for(lambda: len(recording.all("begun")) == 2, what="a job of each partition")
    (pid,) = [each["pid"] for each in daemon.workers()]
    assert daemon.run("scale", "2").returncode == 0
    daemon.wait_for(lambda: recording.all("revoked"), what="the release to begin", within=60)
    os.kill(pid, signal.SIGKILL)
    (daemon.folder / "go").touch()
    (alarm,) = daemon.wait_for_event("partition_unowned", within=60)
    daemon.wait_for_event("group_rejoined", within=60)
    daemon.wait_for(lambda: len(recording.seen(orders)) == 6, what="every message", within=60)
    assert daemon.stop() == 0

    (given,) = {record.partition for record in recording.all("revoked")}
    assert (alarm["topic"], alarm["partitions"]) == (orders, [given])
    assert alarm["seconds"] < 5.0
