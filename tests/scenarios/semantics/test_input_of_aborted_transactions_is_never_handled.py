from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.subscribe("{orders}", delivery="{delivery}")
    def order(messages, consumer):
        for message in messages:
            record(message)
"""


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_input_of_aborted_transactions_is_never_handled_and_markers_are_no_lag(
    delivery: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Only what upstream has committed is handled; the markers of transactions, also at the end of the partition, are passed over:
    nothing is left to commit, and the lag falls to 0."""
    orders = topic()
    daemon = swarm_project(
        APP.format(orders=orders, delivery=delivery), {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.2}}
    )
    recording = Recording(daemon.folder)
    upstream = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": f"upstream of {orders}"})
    upstream.init_transactions(10)
    for name in ("kept 0", "aborted 1", "aborted 2", "kept 3", "aborted 4"):
        upstream.begin_transaction()
        for number in range(5):
            upstream.produce(orders, f"{name}.{number}")
        upstream.flush(10)
        if name.startswith("kept"):
            upstream.commit_transaction(10)
        else:
            upstream.abort_transaction(10)

    daemon.start()

    def caught_up() -> bool:
        (worker,) = daemon.workers()
        return any(entry["lag"] == 0 for entry in worker["assignment"])

    daemon.wait_for(lambda: len(recording.all()) == 10, what="what was kept")
    daemon.wait_for(caught_up, what="a lag of 0")
    end = 5 * (5 + 1)  # each with its marker
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): end}, what="the end of the partition")
    assert daemon.stop() == 0

    assert recording.offsets(orders)[0] == [0, 1, 2, 3, 4, 18, 19, 20, 21, 22]
