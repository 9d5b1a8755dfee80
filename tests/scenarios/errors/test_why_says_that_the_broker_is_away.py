from __future__ import annotations

from collections.abc import Callable

from tests.scenarios.supervision.explaining import APP, until
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.proxy import Proxy


def test_why_says_that_the_broker_is_away(
    proxied: tuple[Broker, Proxy], swarm_project: Callable[..., Daemon], topic: Callable[..., str]
) -> None:
    """For how long, by whose word, and with the client's last error; when it is back, that is over."""
    broker, proxy = proxied
    orders = topic(create=False)
    broker.create_topic(orders, 1)
    daemon = swarm_project(APP.replace("ORDERS", orders), {"swarm": {"workers": 1}}, bootstrap=broker.bootstrap)
    daemon.start().until_running()
    until(daemon, "no_lag")

    proxy.cut()
    away = until(daemon, "broker_away")
    proxy.heal()

    assert "the broker has been away for " in away["verdict"]
    assert f"(none of {broker.bootstrap} answers); the last error was _" in away["verdict"]
    assert away["facts"]["brokers"][0]["answers"] is False
    assert until(daemon, "no_lag")["level"] == "fine"
    assert daemon.stop() == 0
