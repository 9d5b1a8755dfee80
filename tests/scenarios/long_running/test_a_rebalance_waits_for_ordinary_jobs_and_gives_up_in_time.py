from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.supervision.explaining import until
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from pathlib import Path
    from swarm import App, Consumer
    from recording import note, record

    app = App("shop")
    folder = Path(__file__).parent

    @app.subscribe("{topic}", max_messages=1)
    class Orders(Consumer):
        def consume(self, messages):
            (message,) = messages
            record(message)
            if message.raw == b"endless" and not folder.joinpath("short").exists():
                while not folder.joinpath("end").exists():
                    time.sleep(0.01)
                note(f"late-{{self.commit(message)}}", self.topic, self.partition)
            if message.raw == b"brief" and not folder.joinpath("short").exists():
                while not self.is_revoked:
                    time.sleep(0.01)
                time.sleep(0.5)  # the work that is left when the partition is asked for
            record(message, "end")
"""


def test_a_rebalance_waits_for_ordinary_jobs_and_gives_up_visibly_before_the_group_would_evict_the_member(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """10 s before max.poll.interval.ms: what ended is committed, what did not is handled elsewhere, and its late commit is False."""
    orders = topic(partitions=2)
    old, new = (
        swarm_project(
            APP.format(topic=orders),
            {
                "swarm": {"workers": 1, "group_id": group, "name": name},
                "kafka": {
                    "partition.assignment.strategy": "range",
                    "heartbeat.interval.ms": 300,
                    "session.timeout.ms": 6000,
                    "max.poll.interval.ms": 12000,
                },
            },
            name=name,
        )
        for name in ("a", "b")  # the order of their member ids, by which `range` deals partitions out
    )
    old.expect_errors("revocation_given_up")
    before, after = Recording(old.folder), Recording(new.folder)
    Path(new.folder, "short").touch()
    broker.produce(orders, [(None, "brief")], 0)
    broker.produce(orders, [(None, "endless")], 1)

    old.start()
    old.wait_for(lambda: len(before.all()) == 2, what="both jobs to run")
    new.start()
    until(old, "closing", f"{orders}/0")
    (given_up,) = old.wait_for_event("revocation_given_up")
    new.wait_for(lambda: after.all("end", partition=1), what="the message to be handled elsewhere")
    Path(old.folder, "end").touch()
    old.wait_for(lambda: before.all("late-False"), what="the late answer")
    assert old.stop() == 0
    assert new.stop() == 0

    assert given_up["partitions"] == [[orders, 1]]
    assert 2.0 <= given_up["seconds"] < 10.0
    assert before.offsets(orders) == {0: [0], 1: [0]}, "the brief job was waited for and committed"
    assert after.offsets(orders) == {1: [0]}
    assert old.events("partitions_lost") == []
    assert broker.committed(group) == {(orders, 0): 1, (orders, 1): 1}


@pytest.mark.parametrize(
    "protocol",
    [
        {
            "partition.assignment.strategy": "cooperative-sticky",
            "heartbeat.interval.ms": 300,
            "session.timeout.ms": 6000,
        },
        {"group.protocol": "consumer"},
    ],
    ids=["cooperative-sticky", "consumer"],
)
def test_it_gives_up_only_what_is_taken_where_the_rest_stays(
    protocol: dict[str, object],
    broker: Broker,
    topic: Callable[..., str],
    group: str,
    swarm_project: Callable[..., Daemon],
) -> None:
    """The late commit of the partition that went is False, that of the one that stayed is True; no membership is lost."""
    orders = topic(partitions=2)
    old, new = (
        swarm_project(
            APP.format(topic=orders),
            {
                "swarm": {"workers": 1, "group_id": group, "name": name},
                "kafka": {**protocol, "max.poll.interval.ms": 12000},
            },
            name=name,
        )
        for name in ("a", "b")
    )
    old.expect_errors("revocation_given_up")
    before, after = Recording(old.folder), Recording(new.folder)
    Path(new.folder, "short").touch()
    for partition in range(2):
        broker.produce(orders, [(None, "endless")], partition)

    old.start()
    old.wait_for(lambda: len(before.all()) == 2, what="both jobs to run")
    new.start()
    (given_up,) = old.wait_for_event("revocation_given_up")
    ((_, taken),) = given_up["partitions"]
    new.wait_for(lambda: after.all("end", partition=taken), what="the message to be handled elsewhere")
    Path(old.folder, "end").touch()
    old.wait_for(lambda: before.all("late-False", partition=taken), what="the late answer")
    old.wait_for(lambda: before.all("late-True", partition=1 - taken), what="the answer of the one that stayed")
    assert old.stop() == 0
    assert new.stop() == 0

    assert 2.0 <= given_up["seconds"] < 10.0
    assert after.offsets(orders) == {taken: [0]}
    assert old.events("partitions_lost") == []
    assert broker.committed(group) == {(orders, 0): 1, (orders, 1): 1}
