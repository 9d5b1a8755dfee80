"""A stop has a deadline: after it the worker that holds it up is shown and killed, and the exit code tells."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.scenarios.supervision.incidents import incidents
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import threading
    from recording import note
    from swarm import App

    app = App("slow")

    @app.each("TOPIC")
    def handle(message):
        note("begun")
        threading.Event().wait()
"""


@pytest.mark.parametrize("limit", ["setting", "option"])
def test_busy_worker_is_killed_at_the_deadline(
    limit: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """`shutdown_timeout`, or `stop --timeout` in its place: exit 2, with the backtrace of the busy worker; the idle one goes well."""
    name = topic()
    daemon = swarm_project(
        APP.replace("TOPIC", name), {"swarm": {"shutdown_timeout": 60.0 if limit == "option" else 0.5}}
    )
    daemon.expect_errors("worker_killed")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    broker.produce(name, [(None, "endless")])
    [begun] = daemon.wait_for(lambda: recording.all("begun"), what="a job in hand")

    if limit == "option":
        done = daemon.run("stop", "--timeout", "0.5")
        assert (done.returncode, done.stderr) == (0, "")
        assert "had to be killed" in done.stdout
    else:
        daemon.stop()

    assert daemon.wait_for(lambda: daemon.exit_code, what="its exit code") == 2
    [dumped] = daemon.events("backtrace_dumped")
    assert dumped["pid"] == begun.pid
    assert "in handle" in dumped["text"]
    [incident] = incidents(daemon)
    assert incident["reason"] == "requested"
    assert incident["backtrace"] == dumped["text"]
    assert sorted(str(line["signal"]) for line in daemon.events("worker_exited")) == ["None", "SIGKILL"]
    assert broker.committed(daemon.group).get((name, 0), 0) == 0
