"""The supervisor dies by SIGKILL: nothing is lost by it, nothing stays behind, and the next start finds its way."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording, repeated

_PR_SET_CHILD_SUBREAPER = 36

APP = """
    import os, time
    from recording import note, record
    from swarm import App

    app = App("orphans")

    @app.each("TOPIC")
    def handle(message):
        note("begun")
        while not os.path.exists("go"):
            time.sleep(0.01)
        record(message)
"""


@pytest.fixture
def heir() -> Iterator[None]:
    """Orphans below this process become its children, so that their exit codes can be had."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.usefixtures("heir")
def test_job_in_hand_is_committed_and_not_repeated(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Orphans end and commit what they do, take nothing new and exit with 3; the next start trusts no stale pid or socket."""
    name = topic(2)
    daemon = swarm_project(APP.replace("TOPIC", name))
    recording = Recording(daemon.folder)
    workers = [worker["pid"] for worker in daemon.start().until_running().workers()]
    observer = daemon.wait_for_event("observer_started")[0]["pid"]
    for partition in (0, 1):
        broker.produce(name, [(None, "one"), (None, "two")], partition)
    daemon.wait_for(lambda: len(recording.all("begun")) == 2, what="two jobs in hand")

    daemon.signal(signal.SIGKILL)
    daemon.wait_for(lambda: len(daemon.events("orphaned")) == 2, what="orphans to know")
    (daemon.folder / "go").touch()
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]
    os.waitpid(observer, 0)

    assert codes == [3, 3]
    seen = recording.offsets(name)
    assert broker.committed(daemon.group) == {(name, number): len(offsets) for number, offsets in seen.items()}
    run_dir = Path(daemon.settings["swarm"]["run_dir"])
    assert (run_dir / "control.sock").exists()
    status = daemon.run("status")
    assert status.returncode == 1
    assert "not running" in status.stderr

    (run_dir / "swarm.pid").write_text(f"{os.getpid()}\n")  # a number that has another owner by now
    daemon.start().until_running()
    daemon.wait_for(lambda: len(recording.seen(name)) == 4, what="the rest to be processed")
    assert daemon.stop() == 0
    assert {p: repeated(offsets) for p, offsets in recording.offsets(name).items()} == {0: set(), 1: set()}
