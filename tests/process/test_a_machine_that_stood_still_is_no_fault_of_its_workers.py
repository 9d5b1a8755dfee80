"""Everything stops and goes on: a suspended machine, a paused virtual one, a frozen cgroup. No broker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from tests.support.daemon import Daemon

NO_BROKER = "127.0.0.1:1"
STANDSTILL = 6.0  # s

APP = """
    from swarm import App

    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass
"""


def test_workers_that_stood_still_with_the_whole_machine_are_left_alone(swarm_project: Callable[..., Daemon]) -> None:
    """Twice as long as `report_timeout`, the supervisor too: it says so, nobody is replaced; one that stops alone is, afterwards."""
    daemon = swarm_project(
        APP, {"swarm": {"workers": 3}, "supervision": {"report_timeout": STANDSTILL / 2}}, bootstrap=NO_BROKER
    )
    daemon.start()
    daemon.wait_for(lambda: all(w["report_age"] is not None for w in daemon.workers()), what="its workers")
    before = [worker["pid"] for worker in daemon.workers()]

    for pid in (daemon.pid, *before):
        os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + STANDSTILL
    while time.monotonic() < until:
        signal.sigtimedwait([], until - time.monotonic())
    for pid in (daemon.pid, *before):
        os.kill(pid, signal.SIGCONT)
    (said,) = daemon.wait_for_event("supervisor_warning")
    seen = time.monotonic()
    daemon.wait_for(lambda: time.monotonic() > seen + STANDSTILL / 2 + 2.0, what="another timeout to pass")
    after = [worker["pid"] for worker in daemon.workers()]
    os.kill(after[1], signal.SIGSTOP)
    (killed,) = daemon.wait_for_event("worker_stopping")
    os.kill(after[1], signal.SIGCONT)
    daemon.stop()

    assert after == before
    assert "stood still" in said["what"]
    assert (killed["worker"], killed["reason"]) == (1, "report_timeout")
