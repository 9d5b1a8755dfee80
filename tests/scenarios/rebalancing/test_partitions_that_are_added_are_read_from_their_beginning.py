from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.scenarios.rebalancing.ledger import HANDLER
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = HANDLER + '\n    app.subscribe("TOPIC", initial_offset="EDGE")(Noted)\n'
PROTOCOLS: dict[str, dict[str, str]] = {
    "cooperative-sticky": {},
    "roundrobin": {"partition.assignment.strategy": "roundrobin"},
    "consumer": {"group.protocol": "consumer"},
}


@pytest.mark.parametrize(
    ("protocol", "edge"), [("cooperative-sticky", "latest"), ("roundrobin", "earliest"), ("consumer", "latest")]
)
def test_partitions_that_are_added_to_a_subscribed_topic_lose_none_of_their_first_messages(
    protocol: str, edge: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """What was written before anybody noticed them is read too, also with initial_offset="latest", which is of the first start."""
    orders = topic(partitions=2)
    for partition in range(2):
        broker.produce(orders, [(None, "old")] * 5, partition)
    daemon = swarm_project(
        APP.replace("TOPIC", orders).replace("EDGE", edge),
        {"kafka": {"topic.metadata.refresh.interval.ms": 500, **PROTOCOLS[protocol]}},
    )
    recording = Recording(daemon.folder)

    def partitions() -> list[int]:
        return sorted(each["partition"] for worker in daemon.workers() for each in worker["assignment"])

    daemon.start().until_running()
    daemon.wait_for(lambda: partitions() == [0, 1], what="the partitions that are there")
    broker.add_partitions(orders, 4)
    for partition in range(4):
        broker.produce(orders, [(None, "new")] * 20, partition)
    skipped = 5 if edge == "latest" else 0
    daemon.wait_for(lambda: len(recording.all()) == 90 - 2 * skipped, what="every message")
    assert partitions() == [0, 1, 2, 3]
    assert daemon.stop() == 0

    old = [*range(skipped, 25)]
    assert recording.offsets(orders) == {0: old, 1: old, 2: [*range(20)], 3: [*range(20)]}
    assert broker.committed(daemon.group) == {(orders, 0): 25, (orders, 1): 25, (orders, 2): 20, (orders, 3): 20}
