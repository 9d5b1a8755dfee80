from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import os, time
    from swarm import App, Consumer
    from recording import record

    app = App("shop")

    @app.subscribe("{topic}", max_messages=5)
    class Orders(Consumer):
        def consume(self, messages):
            for message in messages:
                record(message)
                while message.offset == 6 and not os.path.exists("go"):
                    time.sleep(0.01)
                time.sleep(0.05)  # the work
            record(messages[-1], "end")
"""


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
def test_a_partition_is_handed_over_only_when_its_batch_in_hand_is_finished_and_committed(
    strategy: str, broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """A second swarm of the group takes partitions: it starts behind the finished batch, and no message runs twice."""
    orders = topic(partitions=4)
    old, new = (
        swarm_project(
            APP.format(topic=orders),
            {
                "swarm": {"workers": 1, "group_id": group, "host": host},
                "kafka": {"partition.assignment.strategy": strategy, "heartbeat.interval.ms": 300},
                "worker": {"commit_interval": 60.0},  # only the handover commits
            },
        )
        for host in ("one", "two")
    )
    before, after = Recording(old.folder), Recording(new.folder)
    for partition in range(4):
        broker.produce(orders, [(None, str(number)) for number in range(30)], partition)

    old.start()
    old.wait_for(lambda: len(before.offsets(orders)) == 4, what="all partitions to be under way")
    (new.folder / "go").touch()
    new.start()
    new.wait_for_event("subscribed")
    (old.folder / "go").touch()  # the batch in hand may end
    new.wait_for(lambda: len(before.seen(orders) | after.seen(orders)) == 4 * 30, what="every message")
    assert old.stop() == 0
    assert new.stop() == 0

    taken = after.offsets(orders)
    assert len(taken) == 2
    starts: dict[int, int] = {}
    for event in new.events(
        "partitions_assigned"
    ):  # the first for each: at the end the one that stops first hands over the rest
        for _, partition, offset in event["partitions"]:
            starts.setdefault(partition, offset)
    for partition in range(4):
        first = before.offsets(orders)[partition]
        assert first + taken.get(partition, []) == list(range(30)), "in order, none twice, none lost"
        if partition in taken:
            assert starts[partition] == taken[partition][0]
            assert before.all("end", partition=partition)[-1].at < after.all(partition=partition)[0].at
    assert broker.committed(group) == {(orders, partition): 30 for partition in range(4)}
