from __future__ import annotations

from collections.abc import Callable

from tests.scenarios.supervision.explaining import until
from tests.support.cluster import Cluster
from tests.support.daemon import Daemon
from tests.support.recording import Recording

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
PARTITIONS = 6


def test_a_broker_that_is_killed_as_leader_and_coordinator_stops_no_worker_and_costs_no_message(
    cluster: Cluster, swarm_project: Callable[..., Daemon], group: str
) -> None:
    """Its partitions and the group go on at the other two brokers: nothing lost, nothing twice, no worker restarted."""
    topic = f"orders-of-{group}"
    cluster.create_topic(topic, PARTITIONS)
    daemon = swarm_project(APP.format(topic=topic), {"worker": {"commit_interval": 0.5}}, bootstrap=cluster.bootstrap)
    recording = Recording(daemon.folder)
    for partition in range(PARTITIONS):
        cluster.produce(topic, [(None, str(number)) for number in range(400)], partition)
    daemon.start()
    daemon.wait_for(lambda: len(recording.seen(topic)) > PARTITIONS * 100, what="the work to be under way")

    victim = cluster.coordinator(daemon.group)
    led = [partition for partition in range(PARTITIONS) if cluster.leader(topic, partition) is victim]
    victim.kill()
    for partition in range(PARTITIONS):
        cluster.produce(topic, [(None, str(number)) for number in range(400, 500)], partition)
    daemon.wait_for(lambda: len(recording.seen(topic)) == PARTITIONS * 500, what="every message")
    assert daemon.stop() == 0

    assert led, "the broker that was killed led no partition: the scenario shows nothing"
    assert recording.offsets(topic) == {partition: list(range(500)) for partition in range(PARTITIONS)}
    assert cluster.committed(daemon.group) == {(topic, partition): 500 for partition in range(PARTITIONS)}
    assert [event["restarts"] for event in daemon.events("worker_started")] == [0, 0]


def test_partitions_with_no_leader_left_hold_up_no_other_one_and_go_on_when_it_is_back(
    cluster: Cluster, swarm_project: Callable[..., Daemon], group: str
) -> None:
    """Of a topic with one replica: what their dead broker has is read later, in order; the rest goes on, and no worker is replaced."""
    topic = f"single-of-{group}"
    cluster.create_topic(topic, PARTITIONS, replicas=1)
    daemon = swarm_project(APP.format(topic=topic), {"worker": {"commit_interval": 0.5}}, bootstrap=cluster.bootstrap)
    recording = Recording(daemon.folder)
    for partition in range(PARTITIONS):
        cluster.produce(topic, [(None, str(number)) for number in range(400)], partition)
    daemon.start()
    daemon.wait_for(lambda: len(recording.seen(topic)) > PARTITIONS * 50, what="the work to be under way")

    spared = cluster.coordinator(daemon.group)
    victim = next(broker for broker in cluster.brokers if broker is not spared)
    gone = {partition for partition in range(PARTITIONS) if cluster.leader(topic, partition) is victim}
    others = set(range(PARTITIONS)) - gone
    victim.kill()
    for partition in others:
        cluster.produce(topic, [(None, str(number)) for number in range(400, 500)], partition)
    daemon.wait_for(lambda: all(recording.all(partition=each, offset=499) for each in others), what="the others' work")
    until(daemon, "leaderless", f"{topic}/{min(gone)}")
    victim.start()
    for partition in gone:
        cluster.produce(topic, [(None, str(number)) for number in range(400, 500)], partition)
    daemon.wait_for(lambda: len(recording.seen(topic)) == PARTITIONS * 500, what="every message")
    assert daemon.stop() == 0

    assert gone, "the broker that was killed led no partition: the scenario shows nothing"
    assert recording.offsets(topic) == {partition: list(range(500)) for partition in range(PARTITIONS)}
    assert cluster.committed(daemon.group) == {(topic, partition): 500 for partition in range(PARTITIONS)}
    assert [event["restarts"] for event in daemon.events("worker_started")] == [0, 0]
