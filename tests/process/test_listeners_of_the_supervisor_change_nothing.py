"""Listeners of the supervisor's own events that raise, are slow, hang, or end their process: `status` and `doctor` say it, and nothing else happens."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

from tests.support.daemon import Daemon

NO_BROKER = "127.0.0.1:1"

APP = """
    import os, time
    from swarm import App, events

    app = App("shop")

    @app.subscribe("orders")
    def orders(messages):
        pass

    @app.on(events.WorkerStarted)
    def raises(event):
        raise ValueError("no ledger at https://me:planted@ledger/")

    @app.on(events.WorkerExited)
    def sleeps(event):
        time.sleep(1.1)

    @app.on(events.WorkerExited)
    def ends(event):
        if event.worker == 1:
            os._exit(9)
"""

HANGS = """
    import time
    from swarm import App, events

    app = App("shop")

    @app.subscribe("orders")
    def orders(messages):
        pass

    @app.on(events.PauseOrdered)
    def hangs(event):
        time.sleep(3600)
"""


def test_listeners_of_the_supervisor_change_nothing(swarm_project: Callable[..., Daemon]) -> None:
    """Workers are replaced as ever, and the stop is as fast."""
    daemon = swarm_project(APP, {"swarm": {"workers": 2}}, bootstrap=NO_BROKER)
    daemon.expect_errors("worker_exited")
    daemon.start()

    def found(rule: str = "listener_fails") -> dict[str, Any]:
        return {each["what"]: each for each in daemon.status()["findings"] if each["rule"] == rule}

    daemon.wait_for(lambda: "the listener raises raises" in found(), what="the one that raises to be shown")
    first = {worker["index"]: worker["pid"] for worker in daemon.workers()}
    os.kill(first[0], signal.SIGKILL)
    daemon.wait_for(lambda: "the listener sleeps is too slow" in found(), what="the one that is slow to be shown")
    os.kill(first[1], signal.SIGKILL)
    missed = "listeners of the supervisor's events miss some of them"
    daemon.wait_for(lambda: missed in found(), what="the death of their process to be shown")

    evidence = {what: each["evidence"] for what, each in found().items()}
    assert "last at worker_started: ValueError: no ledger at " in evidence["the listener raises raises"]
    assert "at worker_exited: it took 1.1 s" in evidence["the listener sleeps is too slow"]
    assert "the process of the supervisor's listeners ended (exit code 9)" in evidence[missed]
    assert "planted" not in str(daemon.status())
    examined = daemon.run("doctor", "--json", "--seconds", "0", within=90.0)
    said = {each["what"] for each in json.loads(examined.stdout)["findings"] if each["rule"] == "listener_fails"}
    assert said == set(evidence)
    assert "the listener raises raises" in daemon.run("status").stdout
    daemon.wait_for(
        lambda: all(each["pid"] not in (None, first[each["index"]]) for each in daemon.workers()),
        what="both workers to be replaced",
    )
    assert daemon.stop(within=10.0) == 0


def test_a_listener_that_does_not_return_is_named_while_it_does_not(swarm_project: Callable[..., Daemon]) -> None:
    """It costs a stop the two seconds that listeners have to hear the end."""
    daemon = swarm_project(HANGS, {"swarm": {"workers": 1}}, bootstrap=NO_BROKER)
    daemon.start()
    daemon.wait_for(lambda: daemon.workers()[0]["report_age"] is not None, what="its worker")
    assert not daemon.status()["findings"]

    daemon.run("pause", "orders/0")

    [found] = daemon.wait_for(lambda: daemon.status()["findings"], what="it to be shown")
    assert (found["rule"], found["what"]) == ("listener_fails", "the listener hangs does not return")
    assert found["evidence"].startswith("It was called over pause_ordered ")
    assert daemon.stop(within=10.0) == 0
