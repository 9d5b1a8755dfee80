from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App, Consumer
    from recording import note, record

    app = App("shop")

    @app.subscribe("{topic}", offsets="manual", max_messages=4)
    class Orders(Consumer):
        def consume(self, messages):
            for message in messages:
                record(message)
                time.sleep(0.1)  # the work
            began = time.monotonic()
            answer = self.commit(messages[-1])
            note(f"commit-{{answer}}", self.topic, self.partition, messages[-1].offset)
            if self.is_revoked:
                note("revoked-meanwhile")
            if time.monotonic() - began > 10.0:  # it waits for the rebalance that waits for it
                note("slow-commit")
"""


@pytest.mark.parametrize(
    "protocol", [{"heartbeat.interval.ms": 300}, {"group.protocol": "consumer"}], ids=["classic", "consumer"]
)
def test_a_handler_that_commits_by_itself_gets_its_answer_also_while_its_partition_is_being_taken(
    protocol: dict[str, object],
    broker: Broker,
    topic: Callable[..., str],
    group: str,
    swarm_project: Callable[..., Daemon],
) -> None:
    """commit() blocks until the broker has answered and is True while the partition is ours, in a revocation too."""
    orders = topic(partitions=2)
    old, new = (
        swarm_project(
            APP.format(topic=orders),
            {
                "swarm": {"workers": 1, "group_id": group, "host": host},
                "kafka": protocol,
                "worker": {"commit_interval": 60.0},
            },
        )
        for host in ("one", "two")
    )
    before, after = Recording(old.folder), Recording(new.folder)
    count = 0

    def more() -> None:
        nonlocal count
        for partition in range(2):
            broker.produce(orders, [(None, str(number)) for number in range(count, count + 4)], partition)
        count += 4

    def all_seen() -> bool:
        return len(before.seen(orders) | after.seen(orders)) == 2 * count

    more()
    old.start()
    (first, *_) = old.wait_for(lambda: before.all("commit-True"), what="the first commit")
    assert broker.committed(group)[(orders, first.partition)] > first.offset
    new.start()
    while not any(
        event["partitions"] for event in new.events("partitions_assigned")
    ):  # there is always work in hand when a partition is taken
        more()
        new.wait_for(lambda: len(before.seen(orders) | after.seen(orders)) > 2 * count - 4, what="the next ones")
    more()
    new.wait_for(all_seen, what="every message")
    assert old.stop() == 0
    assert new.stop() == 0

    assert before.all("revoked-meanwhile"), "no handler was at work when its partition was taken"
    for recording in (before, after):
        assert recording.all("commit-False") + recording.all("slow-commit") == []
    for partition in range(2):
        offsets = before.offsets(orders).get(partition, []) + after.offsets(orders).get(partition, [])
        assert offsets == list(range(count)), "in order, none twice, none lost"
    assert broker.committed(group) == {(orders, 0): count, (orders, 1): count}


MARKING = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.subscribe("{topic}", offsets="manual")
    def orders(messages, consumer):
        for message in messages:
            record(message)
            if message.offset <= 6:
                assert consumer.mark_as_consumed(message)
"""


def test_with_manual_offsets_only_what_was_marked_is_committed_and_the_rest_comes_again_after_a_restart(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Returning from the handler commits nothing by itself."""
    orders = topic()
    daemon = swarm_project(MARKING.format(topic=orders), {"swarm": {"workers": 1}})
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(10)])

    daemon.start()
    daemon.wait_for(lambda: recording.all(offset=9), what="all messages")
    assert daemon.stop() == 0
    assert broker.committed(daemon.group) == {(orders, 0): 7}
    daemon.start()
    daemon.wait_for(lambda: len(recording.all(offset=9)) == 2, what="the rest again")
    assert daemon.stop() == 0

    assert recording.offsets(orders)[0] == [*range(10), 7, 8, 9]
