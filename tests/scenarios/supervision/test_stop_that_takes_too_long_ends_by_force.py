"""A stop has a deadline: before it a worker whose job does not end says what holds it up and goes, or is killed; the exit code tells."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.scenarios.supervision.explaining import until
from tests.scenarios.supervision.incidents import incidents
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import ctypes, os, threading, time
    from recording import note
    from swarm import App

    app = App("slow")

    @app.each("TOPIC")
    def handle(message):
        note("begun")
        if message.raw == b"endless":
            threading.Event().wait()
        if message.raw == b"deaf":
            ctypes.PyDLL(None).sleep(60)  # with the GIL: no Python code runs in this process
        while not os.path.exists("go"):
            time.sleep(0.01)
"""


@pytest.mark.parametrize("limit", ["setting", "option"])
def test_busy_worker_says_what_holds_it_up_and_ends_itself_before_the_deadline(
    limit: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """`shutdown_timeout`, or `stop --timeout` in its place: exit 2, with job and backtrace of the busy worker; the idle one goes well."""
    name = topic()
    daemon = swarm_project(
        APP.replace("TOPIC", name), {"swarm": {"shutdown_timeout": 60.0 if limit == "option" else 0.5}}
    )
    daemon.expect_errors("worker_killed")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    broker.produce(name, [(None, "endless")])
    [begun] = daemon.wait_for(lambda: recording.all("begun"), what="a job in hand")
    [idle] = [worker["index"] for worker in daemon.workers() if not worker["assignment"]]
    assert until(daemon, "standby", str(idle))["level"] == "fine"

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
    assert (incident["reason"], incident["action"]) == ("requested", "ended itself")
    assert incident["backtrace"] == dumped["text"]
    assert any("drain_overdue" in line for line in incident["log"])
    [overdue] = daemon.events("drain_overdue", pid=begun.pid, then="exit")
    [job] = overdue["jobs"]
    assert job[:5] == [daemon.group, name, 0, 0, 0]
    assert overdue["partitions"] == [[daemon.group, name, 0]]
    assert any(thread.startswith("processing") for thread in overdue["threads"])
    [killed] = daemon.events("worker_killed")
    assert (killed["pid"], killed["by"]) == (begun.pid, "itself")
    ends = {line["pid"]: (line["code"], line["signal"], line["reason"]) for line in daemon.events("worker_exited")}
    assert ends.pop(begun.pid) == (72, None, "requested")
    assert list(ends.values()) == [(0, None, "requested")]
    assert broker.committed(daemon.group).get((name, 0), 0) == 0


def test_a_worker_that_cannot_even_say_what_holds_it_up_is_killed(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Its job holds the interpreter's lock in C: the backtrace comes all the same, then KILL."""
    name = topic()
    daemon = swarm_project(APP.replace("TOPIC", name), {"swarm": {"shutdown_timeout": 0.5}})
    daemon.expect_errors("worker_killed")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    broker.produce(name, [(None, "deaf")])
    [begun] = daemon.wait_for(lambda: recording.all("begun"), what="a job in hand")

    assert daemon.stop() == 2

    [killed] = daemon.events("worker_killed")
    assert (killed["pid"], killed["by"]) == (begun.pid, "supervisor")
    [incident] = incidents(daemon)
    assert (incident["action"], "in handle" in incident["backtrace"]) == ("killed", True)
    assert sorted(str(line["signal"]) for line in daemon.events("worker_exited")) == ["None", "SIGKILL"]


def test_what_ends_during_a_stop_is_committed_although_another_job_never_ends(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """The end by force repeats the job that held it up and nothing else."""
    name = topic(partitions=2)
    daemon = swarm_project(
        APP.replace("TOPIC", name),
        {"swarm": {"workers": 1, "shutdown_timeout": 3.0}, "worker": {"commit_interval": 0.2}},
    )
    daemon.expect_errors("worker_killed")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    broker.produce(name, [(None, "endless")], 0)
    broker.produce(name, [(None, "ends")], 1)
    daemon.wait_for(lambda: len(recording.all("begun")) == 2, what="both jobs in hand")

    daemon.signal(signal.SIGTERM)
    daemon.wait_for_event("worker_stopping")
    until(daemon, "stopping")
    until(daemon, "leaving", "0")
    (daemon.folder / "go").touch()
    assert daemon.wait_for(lambda: daemon.exit_code, what="its exit code") == 2

    assert broker.committed(daemon.group) == {(name, 0): 0, (name, 1): 1}
