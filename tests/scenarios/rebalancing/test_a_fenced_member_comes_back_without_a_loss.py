from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer

from tests.scenarios.rebalancing.ledger import HANDLER, balance, steady_input
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = HANDLER + '\n    app.subscribe("TOPIC", max_messages=20)(Noted)\n'


@contextmanager
def impostor(broker: Broker, group: str, topic: str, instance: str) -> Iterator[None]:
    """Another process' client, which joins the group under this static id, reads and commits nothing."""
    client = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": group,
            "group.instance.id": instance,
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    client.subscribe([topic])
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            client.poll(0.1)

    thread = threading.Thread(target=poll, name="impostor")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        client.close()


def test_a_member_whose_static_id_somebody_else_takes_is_rebuilt_and_consumes_on_when_that_one_is_gone(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Two with one static id fence each other: ours makes its client anew, visibly and after a wait, and its process lives on.
    What the fenced one had not committed runs again and nothing else; the other worker is not disturbed."""
    orders = topic(partitions=4)
    daemon = swarm_project(
        APP.replace("TOPIC", orders), {"swarm": {"host": "here"}, "worker": {"commit_interval": 0.2}}
    )
    recording = Recording(daemon.folder)
    with steady_input(broker, {orders: 4}) as written:
        daemon.start().until_running()
        daemon.wait_for(lambda: [len(worker["assignment"]) for worker in daemon.workers()] == [2, 2], what="its share")
        fenced, other = (worker["pid"] for worker in daemon.workers())
        daemon.wait_for(lambda: len(recording.offsets(orders)) == 4, what="every partition to be under way")

        with impostor(broker, daemon.group, orders, "shop.here.0"):
            daemon.wait_for_event("client_rebuilt", worker=0)
        rebuilt = len(recording.all(pid=fenced))
        daemon.wait_for(
            lambda: daemon.workers()[0]["health"] == "ok" and len(daemon.workers()[0]["assignment"]) == 2,
            what="its share to be back",
        )
        daemon.wait_for(lambda: len(recording.all(pid=fenced)) > rebuilt, what="the fenced worker to go on")
    daemon.wait_for(lambda: len(recording.seen(orders)) == written.count(orders), what="the rest")
    assert [worker["pid"] for worker in daemon.workers()] == [fenced, other], "no process was replaced"
    assert daemon.stop() == 0

    repeats = balance([recording], written.written)
    lost = {partition for event in daemon.events("partitions_lost", worker=0) for _, partition in event["partitions"]}
    assert {partition for _, partition in repeats} <= lost
    assert broker.committed(daemon.group) == written.written
