from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.proxy import Proxy
from tests.support.recording import Recording, repeated

APP = """
    import time
    from swarm import App
    from recording import record

    app = App("shop")

    @app.subscribe("{topic}", max_messages=10)
    def orders(messages):
        for message in messages:
            record(message)
            time.sleep(0.002)  # the work
"""
PARTITIONS = 4


@pytest.mark.parametrize(
    ("session", "evicted"), [(30_000, False), (2_000, True)], ids=["within the session", "beyond the session"]
)
def test_a_network_that_holds_everything_for_some_seconds_kills_no_worker_and_loses_nothing(
    proxied: tuple[Broker, Proxy],
    swarm_project: Callable[..., Daemon],
    group: str,
    session: int,
    evicted: bool,
) -> None:
    """As long as the group waits for its members nothing is repeated; afterwards only what could not be committed any more."""
    broker, proxy = proxied
    topic = f"orders-of-{group}"
    broker.create_topic(topic, PARTITIONS)
    daemon = swarm_project(
        APP.format(topic=topic),
        {
            "kafka": {"session.timeout.ms": session, "heartbeat.interval.ms": 500},
            "worker": {"commit_interval": 0.2},
            "supervision": {"report_timeout": 2.0, "poll_timeout": 2.0, "consume_timeout": 2.0},
        },
        bootstrap=broker.bootstrap,
    )
    recording = Recording(daemon.folder)
    for partition in range(PARTITIONS):
        broker.produce(topic, [(None, str(number)) for number in range(600)], partition)
    daemon.start()
    daemon.wait_for(lambda: len(recording.seen(topic)) > PARTITIONS * 100, what="the work to be under way")

    assert proxy.connections, "nobody goes through the proxy: the scenario shows nothing"
    proxy.hold()
    time.sleep(4)  # longer than every timeout of the supervisor's, and than the shorter session
    proxy.heal()
    for partition in range(PARTITIONS):
        broker.produce(topic, [(None, str(number)) for number in range(600, 700)], partition)
    daemon.wait_for(lambda: len(recording.seen(topic)) == PARTITIONS * 700, what="every message", within=45)
    assert daemon.stop() == 0

    assert broker.committed(daemon.group) == {(topic, partition): 700 for partition in range(PARTITIONS)}
    assert [event["restarts"] for event in daemon.events("worker_started")] == [0, 0]
    assert not daemon.events("worker_killed")
    if not evicted:
        assert recording.offsets(topic) == {partition: list(range(700)) for partition in range(PARTITIONS)}
    elif any(repeated(offsets) for offsets in recording.offsets(topic).values()):
        assert daemon.events("partitions_lost") or daemon.events("commit_failed"), "repeated without a cause"
