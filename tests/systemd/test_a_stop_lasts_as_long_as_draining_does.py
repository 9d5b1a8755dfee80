from __future__ import annotations

from collections.abc import Callable

from tests.support.kafka import Broker
from tests.support.service import Service

APP = """
    @app.each("TOPIC")
    def handle(message):
        saw(message, "begun")
        wait_for_go()
        saw(message)
"""


def test_a_job_that_outlasts_the_units_limit_is_waited_for(
    broker: Broker, topic: Callable[..., str], service: Callable[..., Service]
) -> None:
    """EXTEND_TIMEOUT: systemd would kill all after TimeoutStopSec, but the swarm's own limit is what counts."""
    orders = topic()
    slow = APP.replace("TOPIC", orders)
    shop = service(slow, {"swarm": {"shutdown_timeout": 60.0}}, unit="TimeoutStopSec=1")
    shop.systemctl("start")
    broker.produce(orders, [(None, "slow")])
    shop.wait_for(lambda: shop.seen("begun"), "the job to have begun")

    shop.machine.systemctl("stop", "--no-block", shop.unit)
    shop.wait_for(lambda: shop.told("EXTEND_TIMEOUT_USEC=") > 1, "the wish for more time to be said again")  # 5 s later
    assert shop.show("ActiveState") == "deactivating"
    shop.go()
    shop.wait_for(lambda: shop.show("ActiveState") == "inactive", "the end")

    assert shop.show("Result") == "success"
    assert shop.seen() == [(0, 0)]
    assert broker.committed(shop.name) == {(orders, 0): 1}


def test_a_stop_that_had_to_kill_fails_and_is_not_started_again(
    broker: Broker, topic: Callable[..., str], service: Callable[..., Service]
) -> None:
    """Exit 2, after the swarm's own limit: the unit shows as failed, and stays down."""
    orders = topic()
    shop = service(APP.replace("TOPIC", orders), {"swarm": {"shutdown_timeout": 1.0}}, unit="RestartSec=100ms")
    shop.systemctl("start")
    broker.produce(orders, [(None, "endless")])
    shop.wait_for(lambda: shop.seen("begun"), "the job to have begun")

    shop.signal("TERM", shop.main_pid)  # not through systemctl, whose stop is never followed by a start
    shop.wait_for(lambda: shop.show("ActiveState") == "failed", "the end")

    assert (shop.show("ExecMainStatus"), shop.show("NRestarts")) == ("2", "0")
    assert list((shop.state() / "incidents").iterdir()), "there is no incident of the kill"
    assert shop.processes() == set()
