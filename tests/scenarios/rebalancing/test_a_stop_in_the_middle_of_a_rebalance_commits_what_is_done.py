"""A stop while the group is being shared out, which lasts for as long as its slowest member wants: nothing that is done is done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("{topic}")
    def orders(message):
        record(message)
"""
PARTITIONS = 4


@pytest.fixture
def slow_member(broker: Broker) -> Iterator[Callable[[str, str], Consumer]]:
    """Joins a group and then answers nothing that it is asked to: a member whose revocation waits for a long job."""
    made: list[Consumer] = []

    def join(group: str, topic: str) -> Consumer:
        made.append(
            Consumer(
                {
                    "bootstrap.servers": broker.bootstrap,
                    "group.id": group,
                    "partition.assignment.strategy": "cooperative-sticky",
                }
            )
        )
        made[-1].subscribe([topic])
        return made[-1]

    yield join
    for consumer in made:
        consumer.close()


@pytest.mark.parametrize("interval", [600.0, 0.1], ids=["the first commit", "with an older one under way"])
def test_a_stop_commits_what_is_done_although_the_group_waits_for_another_member(
    interval: float,
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
    slow_member: Callable[[str, str], Consumer],
) -> None:
    """The broker answers nothing on a connection before the join that was sent on it, commits included."""
    orders = topic(PARTITIONS)
    settings = {"swarm": {"workers": 1}, "worker": {"commit_interval": interval}}
    daemon = swarm_project(APP.format(topic=orders), settings)
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    slow_member(daemon.group, orders)
    daemon.wait_for_event("partitions_revoked")

    def work(total: int) -> None:
        for partition in range(PARTITIONS):
            broker.produce(orders, [(None, str(number)) for number in range(5)], partition)
        daemon.wait_for(lambda: len(recording.seen(orders)) == total, what="two partitions' work")
        at = time.monotonic()
        daemon.wait_for(lambda: time.monotonic() > at + 0.5, what="some intervals to pass")

    work(10)
    work(20)

    assert daemon.stop() == 0

    kept = {partition for partition, _ in recording.seen(orders)}
    assert len(kept) == 2
    ends = {(orders, partition): 10 if partition in kept else 0 for partition in range(PARTITIONS)}
    assert broker.committed(daemon.group) == ends
    # The older one never gets an answer here, so the newer is in doubt, and that is said.
    said = ["_IN_DOUBT"] if interval < 1.0 else []
    assert [event["code"] for event in daemon.events("commit_failed")] == said


def test_who_is_stopped_before_its_first_join_is_answered_leaves_nobody_behind(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """All workers are stopped while the first one's second join waits for the others; a member without a process would be waited for
    until its session ends (45 s), and so would all commits."""
    orders = topic(PARTITIONS)
    settings = {"swarm": {"workers": 3}, "worker": {"commit_interval": "10m"}}
    daemon = swarm_project(APP.format(topic=orders), settings)
    recording = Recording(daemon.folder)
    for partition in range(PARTITIONS):
        broker.produce(orders, [(None, str(number)) for number in range(10)], partition)
    daemon.start()
    daemon.wait_for(lambda: recording.seen(orders), what="the first worker at work")

    assert daemon.stop() == 0

    assert broker.members(daemon.group) == []
    done = recording.offsets(orders)
    committed = broker.committed(daemon.group)
    assert {key: offset for key, offset in committed.items() if offset} == {
        (orders, partition): len(offsets) for partition, offsets in done.items()
    }
    assert daemon.events("commit_failed") == []
