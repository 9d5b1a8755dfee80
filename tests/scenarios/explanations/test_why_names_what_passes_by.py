"""What is so for a moment only, and is asked for within it: each state is held, by a file that is not there yet, until `why` has named it."""

from __future__ import annotations

from collections.abc import Callable

from tests.scenarios.supervision.explaining import mentioned, until
from tests.support.daemon import Daemon
from tests.support.kafka import Broker

APP = """
    import os, time
    from pathlib import Path
    import swarm.client
    from swarm import App, Backoff

    app = App("shop")
    HERE = Path(__file__).parent

    def wait_for(name):
        while not (HERE / name).exists():
            time.sleep(0.02)

    @app.after_fork
    def slow_start(worker):
        if worker == 1:
            wait_for("start")

    @app.each("ORDERS", workers=[0], backoff=Backoff(initial=60.0, maximum=60.0))
    def order(message):
        said = message.raw.decode()
        if said == "brief":
            time.sleep(2.0)
        if said == "work":
            time.sleep(0.05)
        if said == "hold":
            wait_for("go")
        if said == "deadly":
            if not (HERE / "died").exists():
                (HERE / "died").touch()
                os._exit(9)
            raise ValueError("not again")
        if said == "deaf":
            fetch = swarm.client.Client.fetch
            def block(self, most, timeout):
                wait_for("hear")
                return fetch(self, most, timeout)
            swarm.client.Client.fetch = block
"""


def test_why_names_each_state_of_a_worker_that_comes_and_works_and_restarts(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Being set up, without a subscription, at work, moving, after a death, a restart that is under way, and a poller that does not come."""
    orders = topic(partitions=2)
    daemon = swarm_project(APP.replace("ORDERS", orders), {"swarm": {"workers": 2}, "worker": {"commit_interval": 0.2}})
    daemon.expect_errors("consume_failed")
    daemon.start()

    setting_up = until(daemon, "setting_up", "1")
    (daemon.folder / "start").touch()
    nothing = until(daemon, "nothing_placed", "1")
    broker.produce(orders, [(None, "brief")], 0)
    running = until(daemon, "running", f"{orders}/0")
    broker.produce(orders, [(None, "work")] * 200, 0)
    moves = until(daemon, "moves")
    (daemon.folder / "start").unlink()
    daemon.run("restart", "--no-wait")
    under_way = mentioned(daemon, "under_way")
    (daemon.folder / "start").touch()
    daemon.wait_for(lambda: daemon.status()["under_way"] is None, what="the end of the restart", within=60)
    broker.produce(orders, [(None, "deadly")], 1)
    suspect = until(daemon, "suspect", f"{orders}/1")
    broker.produce(orders, [(None, "deaf")], 0)
    deaf = until(daemon, "not_polling", "0")
    (daemon.folder / "hear").touch()
    daemon.stop()

    assert "worker 1 is being set up, for " in setting_up["verdict"]
    assert "no subscription is placed on worker 1" in nothing["verdict"]
    assert running["level"] == "fine"
    assert f"on {orders}/0 (offset 0) and is in app.py line " in running["verdict"]
    assert moves["verdict"].startswith("everything moves: ")
    assert "worker" in under_way["text"]
    assert (
        f"{orders}/1 offset 0 was in hand" in suspect["verdict"]
        or "were in hand when a worker died" in suspect["verdict"]
    )
    assert "has not polled for group" in deaf["verdict"]
    assert "max.poll.interval.ms" in deaf["verdict"]


def test_why_names_who_waits_for_the_rest_of_the_group(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """A newcomer waits for a member whose handler is busy."""
    orders = topic(partitions=2)
    old, new = (
        swarm_project(
            APP.replace("ORDERS", orders),
            {
                "swarm": {"workers": 1, "group_id": group, "host": host},
                # The eager protocol: there everybody has given all partitions back before the newcomer gets an answer.
                "kafka": {"heartbeat.interval.ms": 300, "partition.assignment.strategy": "range"},
            },
            name="shop",
        )
        for host in ("one", "two")
    )
    old.start().until_running()
    broker.produce(orders, [(None, "hold")], 0)
    broker.produce(orders, [(None, "hold")], 1)
    until(old, "running", f"{orders}/0")
    new.start()
    joining = until(new, "joining", "0")
    (old.folder / "go").touch()
    (new.folder / "go").touch()
    new.until_running()
    assert new.stop() == 0
    old.stop()

    assert f"worker 0 is joining group {group}, for " in joining["verdict"]
