"""A broker that does not speak the protocol that is asked for: each client ends with a fatal error, however often it is made anew."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.scenarios.supervision.explaining import mentioned
from tests.scenarios.supervision.incidents import incidents
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.ports import free_port

APP = """
    from swarm import App

    app = App("shop")

    @app.each("orders")
    def order(message):
        pass
"""


def test_a_worker_whose_client_meets_fatal_errors_again_and_again_is_replaced_under_its_own_reason(
    swarm_project: Callable[..., Daemon],
) -> None:
    """Made anew with growing pauses, which `why` says; after the fifth time within two minutes the process is replaced, with an incident."""
    with Broker(port=free_port(), config={"group.coordinator.rebalance.protocols": "classic"}) as kafka:
        kafka.create_topic("orders", 2)
        daemon = swarm_project(
            APP,
            {"swarm": {"workers": 1}, "kafka": {"group.protocol": "consumer"}},
            bootstrap=kafka.bootstrap,
        )
        daemon.expect_errors("worker_exited", "client_error")
        daemon.start()
        rebuilt = mentioned(daemon, "client_rebuilt", "0", within=60)
        (exited,) = daemon.wait_for_event("worker_exited", within=60)
        status = json.loads(daemon.run("status", "--json").stdout)
        daemon.stop()

    assert "client met a fatal error and was made anew" in rebuilt["text"]
    assert "after five times the process is replaced (fenced)" in rebuilt["text"]
    assert exited["reason"] == "fenced"
    assert len(daemon.events("client_rebuilt", pid=exited["pid"])) >= 5
    assert status["workers"][0]["restarts_by_reason"] == {"fenced": 1}
    (incident,) = incidents(daemon, reason="fenced")
    assert incident["pid"] == exited["pid"]
