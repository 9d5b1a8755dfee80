from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.scenarios.rebalancing.ledger import HANDLER
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = (
    HANDLER
    + """
    from pathlib import Path

    class Slow(Noted):
        def consume(self, messages):
            super().consume(messages)
            while Path("hold").exists():
                record(messages[-1], "taken" if self.is_revoked else "held")
                time.sleep(0.05)

    app.subscribe("orders", max_messages=10)(Slow)
"""
)


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """One that may be killed."""
    with Broker() as broker:
        broker.create_topic("orders", 4)
        yield broker


def test_a_broker_that_dies_while_a_partition_is_given_back_kills_no_worker_and_loses_nothing(
    own_broker: Broker, group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """The commit of a revocation is asked for in pieces, so that the poller is seen to live: the client itself would hold it for as
    long as a session lasts (45 s). `poll_timeout` is far below that."""
    old, new = (
        swarm_project(
            APP,
            {
                "swarm": {"workers": 1, "group_id": group},
                "kafka": {"heartbeat.interval.ms": 300},
                "worker": {"commit_interval": 60.0},
                "supervision": {"poll_timeout": 4.0},
            },
            bootstrap=own_broker.bootstrap,
            name=name,
        )
        for name in ("old", "new")
    )
    recordings = [Recording(daemon.folder) for daemon in (old, new)]
    hold = old.folder / "hold"
    for partition in range(4):
        own_broker.produce("orders", [(None, str(number)) for number in range(10)], partition)

    old.start().until_running()
    old.wait_for(lambda: len(recordings[0].all()) == 40, what="all messages")
    hold.touch()
    for partition in range(4):
        own_broker.produce("orders", [(None, str(number)) for number in range(10)], partition)
    old.wait_for(lambda: len(recordings[0].offsets("orders", "held")) == 4, what="a job of each partition")
    new.start()
    old.wait_for(lambda: recordings[0].all("taken"), what="a revocation that waits")
    own_broker.kill()
    hold.unlink()
    old.wait_for_event("commit_failed", within=30)
    old.wait_for_event("partitions_revoked", within=30)
    own_broker.start()
    for partition in range(4):
        own_broker.produce("orders", [(None, str(number)) for number in range(10)], partition)
    old.wait_for(
        lambda: (
            {(each.partition, each.offset) for one in recordings for each in one.all()}
            == {(partition, offset) for partition in range(4) for offset in range(30)}
        ),
        what="every message",
    )
    assert old.stop() == 0
    assert new.stop() == 0

    assert own_broker.committed(group) == {("orders", partition): 30 for partition in range(4)}
    for daemon in (old, new):
        assert [event["reason"] for event in daemon.events("worker_exited")] == ["requested"]
