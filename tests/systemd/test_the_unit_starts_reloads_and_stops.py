from __future__ import annotations

import re
from collections.abc import Callable

from tests.support.kafka import Broker
from tests.support.service import Service

APP = """
    @app.each("TOPIC")
    def handle(message):
        saw(message, "WHAT")
"""


def test_systemctl_starts_reloads_and_stops_and_is_told_of_each(
    broker: Broker, topic: Callable[..., str], service: Callable[..., Service]
) -> None:
    """`start` returns with READY, STATUS has numbers, the watchdog is fed; `reload` brings new code in the same process; `stop` drains,
    and ends with success and without a process left."""
    orders = topic(partitions=2)
    shop = service(APP.replace("TOPIC", orders).replace("WHAT", "old"))

    shop.systemctl("start")
    assert (shop.show("ActiveState"), shop.show("SubState"), shop.told("READY=1")) == ("active", "running", 1)
    before, pid = shop.until_running(), shop.main_pid
    assert re.fullmatch(r"running: 2 of 2 workers running, 0 restarts", shop.show("StatusText"))
    shop.wait_for(lambda: shop.told("WATCHDOG=1"), "a sign of life")
    broker.produce(orders, [(None, str(n)) for n in range(20)])
    shop.wait_for(lambda: len(shop.seen("old")) == 20, "the old code to have seen all")

    shop.write_app(APP.replace("TOPIC", orders).replace("WHAT", "new"))
    shop.systemctl("reload")
    shop.wait_for(lambda: shop.events("swarm_reloaded"), "the workers to have been replaced")
    assert (shop.told("RELOADING=1"), shop.told("READY=1"), shop.main_pid) == (1, 2, pid)
    assert (shop.show("ActiveState"), shop.show("NRestarts")) == ("active", "0")
    assert not set(before) & set(shop.until_running())
    broker.produce(orders, [(None, str(n)) for n in range(20)])
    shop.wait_for(lambda: len(shop.seen("new")) == 20, "the new code to have seen the rest")

    shop.systemctl("stop")
    assert (shop.show("ActiveState"), shop.show("Result"), shop.show("ExecMainStatus")) == ("inactive", "success", "0")
    assert shop.told("STOPPING=1") == 1
    assert shop.processes() == set()
    assert broker.committed(shop.name) == {(orders, number): end for number, end in broker.ends(orders).items()}


def test_a_reload_that_is_refused_leaves_the_unit_as_it_was(
    topic: Callable[..., str], service: Callable[..., Service]
) -> None:
    """systemd is told READY again, and the journal says as an error what does not load."""
    orders = topic()
    shop = service(APP.replace("TOPIC", orders))
    shop.systemctl("start")
    before = shop.until_running()

    shop.write_app("raise RuntimeError('half of a deployment')")
    shop.systemctl("reload")

    [refused] = shop.wait_for(lambda: shop.events("reload_refused"), "the refusal")
    assert "half of a deployment" in refused["error"]
    shop.wait_for(lambda: shop.told("READY=1") == 2, "READY once more")
    assert (shop.show("ActiveState"), shop.show("SubState")) == ("active", "running")
    assert shop.worker_pids() == before
