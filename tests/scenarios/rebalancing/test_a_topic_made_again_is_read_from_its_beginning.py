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
            # The new protocol's broker takes partitions before the client has missed them, and before it forgets the offsets.
            daemon.wait_for(
                lambda: any(
                    event["topic"] == first
                    for event in [*daemon.events("topic_missing"), *daemon.events("topic_recreated")]
                ),
                what="somebody to miss it",
            )
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
    assert said & {"topic_missing", "topic_recreated"}


BLOCKED = (
    HANDLER.replace("record(message)", "record(message)\n                self.wait(message)")
    + """
        def wait(self, message):
            while message.raw == b"old 39" and message.partition == 0 and not Path("go on").exists():
                time.sleep(0.02)

    app.subscribe("FIRST", max_messages=20)(Noted)
"""
).replace("import time", "import time\n    from pathlib import Path", 1)


@pytest.mark.parametrize("protocol", ["cooperative-sticky", "consumer"])
def test_a_topic_that_is_made_again_and_filled_beyond_what_was_read_of_it_is_read_from_its_beginning(
    protocol: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """No fetch fails there, and no commit. Neither what is in hand of the former one is committed to it, nor does a paused partition go on in
    its middle."""
    first = topic(partitions=2)
    daemon = swarm_project(
        BLOCKED.replace("FIRST", first),
        {
            "swarm": {"workers": 1},
            "kafka": {"topic.metadata.refresh.interval.ms": 60000, **PROTOCOLS[protocol]},
            "worker": {"commit_interval": 0.2},
        },
    )
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    for partition in range(2):
        broker.produce(first, [(None, f"old {number}") for number in range(40)], partition)
    daemon.wait_for(lambda: len(recording.all()) == 80, what="the former topic, and its last message in hand")
    daemon.wait_for(lambda: broker.committed(daemon.group).get((first, 1)) == 40, what="the commit of what is done")
    assert daemon.run("pause", f"{first}/1").returncode == 0
    daemon.wait_for_event("consumption_paused", partition=1)

    broker.delete_topic(first)
    broker.create_topic(first, 2)
    for partition in range(2):
        broker.produce(first, [(None, f"new {number}") for number in range(60)], partition)
    (daemon.folder / "go on").touch()
    daemon.wait_for(
        lambda: {line["partition"] for line in daemon.events("topic_recreated")} == {0, 1}, what="both to be noticed"
    )
    assert daemon.run("resume", f"{first}/1").returncode == 0
    daemon.wait_for(
        lambda: broker.committed(daemon.group) == {(first, 0): 60, (first, 1): 60}, what="all of the new topic"
    )
    assert daemon.stop() == 0

    assert recording.offsets(first) == {partition: [*range(40), *range(60)] for partition in range(2)}
