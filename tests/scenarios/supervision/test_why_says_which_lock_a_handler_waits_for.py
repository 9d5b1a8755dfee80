from __future__ import annotations

import os
from collections.abc import Callable

from tests.scenarios.supervision.explaining import until
from tests.support.daemon import Daemon
from tests.support.kafka import Broker

APP = """
    import os, threading
    from pathlib import Path
    from swarm import App

    app = App("shop")
    GATE = Path(__file__).with_name("gate")
    LEDGER = threading.Lock()

    def book():
        with LEDGER:
            os.open(GATE, os.O_RDONLY)  # a pipe that nobody has opened for writing

    @app.subscribe("ORDERS")
    def orders(messages):
        book()
"""


def test_why_says_which_lock_a_handler_waits_for(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """The first has it and works in its block; the second waits for it, and the thread of the first is named."""
    orders = topic(partitions=2)
    daemon = swarm_project(APP.replace("ORDERS", orders), {"swarm": {"workers": 1}})
    os.mkfifo(daemon.folder / "gate")
    daemon.start().until_running()
    broker.produce(orders, [(None, "x")], partition=0)
    holding = until(daemon, "slow_job", f"{orders}/0")
    broker.produce(orders, [(None, "x")], partition=1)

    waiting = until(daemon, "slow_job", f"{orders}/1")

    assert f"on {orders}/0 (offset 0) and is in app.py line 11 (book -> os.open); " in holding["verdict"]
    thread = next(job["thread"] for job in waiting["facts"]["workers"][0]["jobs"] if job["partition"] == 0)
    assert (
        f"on {orders}/1 (offset 0) and waits at `with LEDGER:` (app.py line 10), perhaps held by thread {thread}, in "
        "app.py line 11 (book -> os.open); after 5 min"
    ) in waiting["verdict"]
    with (daemon.folder / "gate").open("w"):
        daemon.wait_for(lambda: daemon.workers()[0]["messages"] == 2, what="both handlers to return")
    assert daemon.stop() == 0
