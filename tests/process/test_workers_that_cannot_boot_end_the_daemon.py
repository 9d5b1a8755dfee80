"""Where no worker ever comes up, the daemon gives up and says why; one that came up once is tried for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon

NO_BROKER = "127.0.0.1:1"

HOOK = """
    from swarm import App

    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass

    @app.after_fork
    def connect(worker):
        raise ConnectionError("no such database")
"""

# It loads where `start` tries it, and no longer in a worker.
IMPORT = """
    import os
    from swarm import App

    if os.path.exists("state"):
        raise ConnectionError("no such database")
    os.mkdir("state")
    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass
"""


@pytest.mark.parametrize(("app", "preload"), [(HOOK, True), (IMPORT, False)], ids=["after_fork", "import"])
def test_three_tries_each_then_the_end(app: str, preload: bool, swarm_project: Callable[..., Daemon]) -> None:
    """`boot_error` each time, exit 1, the application's last error on stderr in one line for people."""
    daemon = swarm_project(
        app.replace('"state"', '"loaded"'),
        {
            "swarm": {"preload": preload},
            "supervision": {"check_interval": 0.1, "restart_backoff": {"initial": 0.01, "maximum": 0.2}},
        },
        bootstrap=NO_BROKER,
    )

    daemon.start()
    code = daemon.wait_for(lambda: daemon.exit_code, what="its end")

    assert code == 1
    exits = daemon.events("worker_exited")
    assert sorted(line["worker"] for line in exits) == [0, 0, 0, 1, 1, 1]
    assert {(line["code"], line["reason"]) for line in exits} == {(70, "boot_error")}
    assert all("no such database" in line["detail"] for line in exits)
    [failed] = daemon.events("swarm_failed")
    assert "no such database" in failed["reason"]
    [told] = [line for line in daemon.log.splitlines() if line.startswith("swarmctl: ")]
    assert "ConnectionError: no such database" in told
