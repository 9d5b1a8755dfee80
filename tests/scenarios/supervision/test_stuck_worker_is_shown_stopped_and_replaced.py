"""A worker that no longer gets on is shown first, stopped then, and its messages are done by its successor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.scenarios.supervision.incidents import incidents
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

# The first time that a message says so, something happens of which a worker does not recover.
APP = """
    import ctypes, os, threading
    import swarm.client
    from recording import note, record
    from swarm import App

    app = App("stuck")

    def first(name):
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def wait_without_end():
        threading.Event().wait()

    def stop_polling():
        fetch = swarm.client.Client.fetch
        swarm.client.Client.fetch = lambda self, most, timeout: threading.Event().wait() or []

    @app.each("TOPIC")
    def handle(message):
        said = message.raw.decode()
        if said != "done" and first(said):
            note(said)
            {
                "never_returns": wait_without_end,
                "holds_the_gil": lambda: ctypes.PyDLL(None).sleep(60),
                "stops_polling": stop_polling,
            }[said]()
        record(message)
"""


@dataclass(frozen=True)
class Fault:
    """What the handler does, which limit finds it, and what its backtrace shows."""

    name: str
    reason: str
    limit: str
    frame: str
    thread: str


FAULTS = (
    Fault("never_returns", "consume_timeout", "consume_timeout", "in wait_without_end", "processing"),
    Fault("holds_the_gil", "report_timeout", "report_timeout", "in handle", "processing"),
    Fault("stops_polling", "poll_timeout", "poll_timeout", "in <lambda>", "poller"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_stuck_handler_is_dumped_before_it_is_stopped(
    fault: Fault,
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
) -> None:
    """Backtrace first, then TERM, then KILL after `shutdown_timeout`; the incident says it all, the successor does the work."""
    name = topic(2)
    daemon = swarm_project(
        APP.replace("TOPIC", name),
        {
            "swarm": {"shutdown_timeout": 1.0},
            "supervision": {"check_interval": 0.2, fault.limit: 1.5},
        },
    )
    daemon.expect_errors("worker_killed")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    broker.produce(name, [(None, fault.name), (None, "done")], partition=0)

    [exited] = daemon.wait_for_event("worker_exited", reason=fault.reason)
    daemon.wait_for(lambda: len(recording.seen(name)) == 2, what="the successor to do what the stuck one had in hand")

    index, pid = exited["worker"], exited["pid"]
    mine = [line for line in daemon.events() if line.get("worker") == index and line["pid"] in (pid, daemon.pid)]
    order = [line["event"] for line in mine if line["event"] in ORDER]
    assert order[order.index("backtrace_dumped") :][: len(LATER)] == LATER
    [dumped] = daemon.events("backtrace_dumped", worker=index, pid=pid)
    assert fault.frame in dumped["text"]
    assert f'"{fault.thread}' in dumped["text"]
    [incident] = incidents(daemon, reason=fault.reason, action="killed")
    assert incident["pid"] == pid
    assert incident["backtrace"] == dumped["text"]
    assert [line for line in incident["log"] if '"event": "partitions_assigned"' in line and f'"pid": {pid}' in line]

    if fault.name != "stops_polling":
        [job] = incident["jobs"]
        assert (job["topic"], job["partition"], job["first_offset"]) == (name, 0, 0)
    [worker] = [each for each in daemon.workers() if each["index"] == index]
    assert worker["pid"] != pid
    assert worker["restarts"] == 1
    last = worker["last_exit"]
    assert (last["code"], last["signal"], last["reason"]) == (None, "SIGKILL", fault.reason)
    assert daemon.stop() == 0
    if fault.name != "stops_polling":
        [repeated] = daemon.audit()["duplicates"]
        assert (repeated["cause"], repeated["first_offset"]) == ("crash", 0)
        assert f"after it was killed for {fault.reason}" in repeated["evidence"]


LATER = ["backtrace_dumped", "worker_stopping", "worker_killed", "worker_exited"]
ORDER = {*LATER, "worker_started"}


def test_incident_of_a_frozen_process_says_that_it_could_not_answer(
    topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A process under SIGSTOP writes no backtrace and hears no TERM: both are said, it is killed, and the others go on."""
    daemon = swarm_project(
        APP.replace("TOPIC", topic(2)),
        {
            "swarm": {"shutdown_timeout": 0.5},
            "supervision": {"check_interval": 0.2, "report_timeout": 1.5},
        },
    )
    daemon.expect_errors("worker_killed")
    Recording(daemon.folder)
    frozen = daemon.start().until_running().workers()[0]
    os.kill(frozen["pid"], signal.SIGSTOP)

    [exited] = daemon.wait_for_event("worker_exited", reason="report_timeout")
    daemon.until_running()

    assert exited["pid"] == frozen["pid"]
    [incident] = incidents(daemon, action="killed")
    assert "stopped (SIGSTOP" in incident["backtrace"]
    restarts = [worker["restarts"] for worker in daemon.workers()]
    assert restarts == [1, 0]
    assert daemon.stop() == 0
