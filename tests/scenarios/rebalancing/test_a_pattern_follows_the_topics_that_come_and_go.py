from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from tests.scenarios.conftest import ExpectViolation
from tests.scenarios.rebalancing.ledger import HANDLER
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = (
    HANDLER
    + """
    class Named(Noted):
        def consume(self, messages):
            super().consume(messages)
            note("named", self.topic, self.partition, len(messages))

    app.subscribe(pattern="PREFIX-", initial_offset="EDGE")(Noted)
    app.subscribe("PREFIX-named")(Named)
"""
)


@pytest.mark.parametrize(
    ("protocol", "edge"),
    [
        ({}, "latest"),
        ({"partition.assignment.strategy": "range"}, "earliest"),
        ({"group.protocol": "consumer"}, "latest"),
    ],
    ids=["cooperative-sticky", "range", "consumer"],
)
def test_a_pattern_takes_in_topics_that_appear_and_lets_go_of_those_that_are_deleted(
    protocol: dict[str, str],
    edge: str,
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
    expect_violation: ExpectViolation,
) -> None:
    """A topic that appears is read from its first message on, whatever `initial_offset` says; one that another subscription names
    is that one's; one that goes disturbs no other. A pattern means the beginning of a name, with every protocol."""
    if "group.protocol" in protocol:
        expect_violation(
            "commit_went_back", "the broker takes a deleted topic away before anybody can see that it is missing"
        )
    prefix = f"pattern-{uuid.uuid4().hex[:8]}"
    first, gone, named, later = (f"{prefix}-{name}" for name in ("first", "gone", "named", "later"))
    for name in (first, gone, named):
        broker.create_topic(name, 2)
    daemon = swarm_project(
        APP.replace("PREFIX", prefix).replace("EDGE", edge),
        {"kafka": {"topic.metadata.refresh.interval.ms": 300, **protocol}},
    )
    recording = Recording(daemon.folder)

    def assigned() -> set[str]:
        held = [each["topic"] for worker in daemon.workers() for each in worker["assignment"]]
        return {name for name in held if held.count(name) == 2}

    def write(name: str, count: int) -> None:
        for partition in range(2):
            broker.produce(name, [(None, str(number)) for number in range(count)], partition)

    daemon.start().until_running()
    daemon.wait_for(lambda: assigned() == {first, gone, named}, what="the topics that are there")
    for name in (first, gone, named):
        write(name, 20)
    daemon.wait_for(lambda: len(recording.all()) == 120, what="their messages")

    broker.create_topic(later, 2)
    write(later, 20)
    daemon.wait_for(lambda: len(recording.all(topic=later)) == 40, what="the topic that has appeared")

    broker.delete_topic(gone)
    write(first, 20)
    daemon.wait_for(lambda: assigned() == {first, named, later}, what="the deleted topic to be let go")
    write(later, 20)
    daemon.wait_for(
        lambda: len(recording.all(topic=first)) == len(recording.all(topic=later)) == 80, what="the others to go on"
    )
    assert daemon.stop() == 0

    for name in (first, later):
        assert set(map(tuple, recording.offsets(name).values())) == {tuple(range(40))}
    assert recording.offsets(named) == {0: [*range(20)], 1: [*range(20)]}
    assert {each.topic for each in recording.all("named")} == {named}
    assert sum(each.offset for each in recording.all("named")) == 40, "the subscription that names it has all of it"
    whole = {
        (name, partition): count for name, count in ((first, 40), (later, 40), (named, 20)) for partition in (0, 1)
    }
    assert broker.committed(daemon.group) == whole
    assert [event["reason"] for event in daemon.events("worker_exited")] == ["requested"] * 2
