"""Starting twice, stopping nothing, starting in the background: who runs is always clear, and said with its pid."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from swarm.supervisor.backtraces import process_state
from tests.support.daemon import Daemon

NO_BROKER = "127.0.0.1:1"

APP = """
    from swarm import App

    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass
"""


def test_detached_daemon_is_up_and_refuses_a_second(swarm_project: Callable[..., Daemon]) -> None:
    """`--detach` returns when the daemon is up, without a broker too; the second start exits 1 with the pid of the first."""
    daemon = swarm_project(APP, bootstrap=NO_BROKER)

    for command in (("status",), ("stop",), ("backtrace",)):
        done = daemon.run(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert "not running" in done.stderr

    daemon.start("--detach")
    daemon.wait_for(lambda: (daemon.exit_code,) if daemon.exit_code is not None else None, what="start to return")
    assert daemon.exit_code == 0
    status = daemon.status()
    assert all(worker["report_age"] is not None for worker in status["workers"])
    assert f"pid {daemon.pid}" in (daemon.folder / "stdout").read_text()

    run_dir = Path(daemon.settings["swarm"]["run_dir"])
    assert stat.S_IMODE((run_dir / "control.sock").stat().st_mode) == 0o600
    assert (run_dir / "swarm.pid").read_text() == f"{daemon.pid}\n"
    for arguments in ((), ("--detach",)):
        second = daemon.run("start", *arguments)
        assert second.returncode == 1
        assert "running" in second.stderr
        assert f"pid {daemon.pid}" in second.stderr
        assert len(second.stderr.splitlines()) <= 6
    assert daemon.status()["pid"] == status["pid"]

    stopped = daemon.run("stop")
    assert stopped.returncode == 0
    assert process_state(daemon.pid) in ("", "Z")  # a zombie where this machine's first process does not reap
    assert os.listdir(run_dir) in ([], ["metrics"])


def test_failing_detached_start_says_why(swarm_project: Callable[..., Daemon]) -> None:
    """What goes wrong in the background before it is up is told by the command that was typed, and nothing stays behind."""
    app = APP + "\n    @app.before_fork\n    def prepare():\n        raise ConnectionError('no such database')\n"
    daemon = swarm_project(app, bootstrap=NO_BROKER)

    refused = daemon.run("start", "--detach")

    assert refused.returncode == 1
    assert "no such database" in refused.stderr
    assert "supervisor" not in refused.stderr
    assert not (Path(daemon.settings["swarm"]["run_dir"]) / "swarm.pid").exists()
    assert "not running" in daemon.run("status").stderr
