from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.scenarios.rebalancing.ledger import HANDLER, balance, steady_input
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = HANDLER + '\n    app.subscribe("FIRST", "OTHER", max_messages=20, initial_offset="EDGE")(Noted)\n'
PROTOCOLS: dict[str, dict[str, str]] = {
    "cooperative-sticky": {},
    "range": {"partition.assignment.strategy": "range"},
    "consumer": {"group.protocol": "consumer"},
}


def write(broker: Broker, topic: str, count: int) -> None:
    for partition in range(2):
        broker.produce(topic, [(None, str(number)) for number in range(count)], partition)


@pytest.mark.parametrize(
    ("protocol", "edge", "at_once"),
    [
        ("cooperative-sticky", "latest", True),
        ("cooperative-sticky", "earliest", False),
        ("range", "earliest", True),
        ("range", "latest", False),
        ("consumer", "earliest", False),
    ],
)
def test_a_topic_that_is_deleted_and_made_again_is_consumed_from_its_beginning_and_disturbs_no_other(
    protocol: str,
    edge: str,
    at_once: bool,
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
) -> None:
    """The group's offsets go with it, and what was still to be committed is not committed to its namesake. What is written before
    the swarm sees the new one is read too. `at_once`: it is there again before anybody has missed it."""
    first, other = topic(partitions=2), topic(partitions=2)
    daemon = swarm_project(
        APP.replace("FIRST", first).replace("OTHER", other).replace("EDGE", edge),
        {
            "kafka": {"topic.metadata.refresh.interval.ms": 60000 if at_once else 500, **PROTOCOLS[protocol]},
            "worker": {"commit_interval": 60.0},
        },
    )
    recording = Recording(daemon.folder)
    daemon.start().until_running()

    def held() -> list[str]:
        return sorted(each["topic"] for worker in daemon.workers() for each in worker["assignment"])

    daemon.wait_for(lambda: held() == sorted([first, other] * 2), what="an assignment")
    with steady_input(broker, {other: 2}) as written:
        write(broker, first, 40)
        daemon.wait_for(lambda: len(recording.all(topic=first)) == 80, what="the former topic")
        broker.delete_topic(first)
        if not at_once:
            daemon.wait_for(lambda: held() == [other] * 2, what="the deleted topic to be let go")
        broker.create_topic(first, 2)
        write(broker, first, 30)
        daemon.wait_for(lambda: len(recording.all(topic=first)) >= 80 + 60, what="the new topic")
    daemon.wait_for(lambda: len(recording.seen(other)) == written.count(other), what="the rest of the other topic")
    assert daemon.stop() == 0

    for offsets in recording.offsets(first).values():
        assert offsets == [*range(40), *range(30)]
    assert balance([recording], written.written) == {}
    assert broker.committed(daemon.group) == written.written | {(first, 0): 30, (first, 1): 30}
    assert [event["reason"] for event in daemon.events("worker_exited")] == ["requested"] * 2
    said = {event["event"] for event in daemon.events() if event.get("topic") == first}
    assert said & {"topic_missing", "topic_recreated"} or protocol == "consumer"
