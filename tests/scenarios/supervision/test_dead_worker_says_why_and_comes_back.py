"""A worker that dies, by whatever hand, is there again; `last_exit` says how it went, and who keeps dying is made to wait."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from tests.scenarios.supervision.explaining import until
from tests.scenarios.supervision.incidents import incidents
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

# Each message is deadly once.
DYING = """
    import ctypes, os, signal
    from recording import record
    from swarm import App

    app = App("dying")

    def first(name):
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def crash_in_c():
        ctypes.string_at(0)

    @app.each("TOPIC")
    def handle(message):
        said = message.raw.decode()
        if first(said):
            match said.partition("-")[0]:
                case "exit": os._exit(7)
                case "segv": crash_in_c()
                case "kill": os.kill(os.getpid(), signal.SIGKILL)
        record(message)
"""


def test_last_exit_tells_a_crash_from_a_kill_from_a_farewell(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Code, signal and reason are those of the death; the successor starts at once, for the one before had run long enough."""
    name = topic()
    settings: dict[str, Any] = {
        "swarm": {"workers": 1},
        "supervision": {"restart_backoff": {"reset_after": 0.1}},
    }
    daemon = swarm_project(DYING.replace("TOPIC", name), settings)
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    expected = {
        "exit": (7, None, "crashed"),
        "segv-1": (None, "SIGSEGV", "killed"),
        "segv-2": (None, "SIGSEGV", "killed"),
        "kill": (None, "SIGKILL", "killed"),
    }

    for number, (death, (code, signum, reason)) in enumerate(expected.items(), 1):
        broker.produce(name, [(None, death)])
        daemon.wait_for(lambda: len(recording.seen(name)) == number, what=f"the successor of {death}")  # noqa: B023
        [worker] = daemon.workers()
        last = worker["last_exit"]
        assert (last["code"], last["signal"], last["reason"]) == (code, signum, reason), death
        assert last["detail"]
        assert worker["restarts"] == number

    daemon.until_running()
    os.kill(daemon.workers()[0]["pid"], signal.SIGTERM)
    last = daemon.wait_for_event("worker_exited", count=5)[-1]
    assert (last["code"], last["signal"], last["reason"]) == (0, None, "finished")

    daemon.until_running()
    assert daemon.events("worker_backoff") == []
    crashes = incidents(daemon)
    assert [each["jobs"][0]["first_offset"] for each in crashes] == [1, 2]
    assert all(each["backtrace"].count("Segmentation fault") == 1 for each in crashes)
    assert all("in crash_in_c" in each["backtrace"] for each in crashes)
    assert daemon.stop() == 0


def test_who_keeps_dying_waits_longer_each_time(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """The first restart is at once, the next after 1 s, then 2 s; meanwhile the worker is listed, without a pid."""
    name = topic()
    app = """
        import os
        import threading
        from recording import record
        from swarm import App

        app = App("dying")

        @app.after_fork
        def live_shortly(worker):
            if not os.path.exists("mended"):  # no message is to blame: none is in hand
                threading.Timer(0.2, os._exit, (7,)).start()

        @app.each("TOPIC")
        def handle(message):
            if os.path.exists("mended"):
                record(message)
    """
    daemon = swarm_project(app.replace("TOPIC", name), {"swarm": {"workers": 1}})
    recording = Recording(daemon.folder)
    daemon.start()

    waits = daemon.wait_for_event("worker_backoff", count=2)
    said = until(daemon, "crash_loop")["verdict"]
    [worker] = daemon.workers()
    (daemon.folder / "mended").touch()
    broker.produce(name, [(None, "at last")])
    daemon.wait_for(lambda: recording.seen(name), what="a message to be processed at last")

    assert "has no process: it ended " in said
    assert [wait["seconds"] for wait in waits] == [1.0, 2.0]
    assert (worker["state"], worker["pid"], worker["restarts"]) == ("backoff", None, 2)
    deaths = daemon.events("worker_exited")
    births = daemon.events("worker_started")
    assert [death["code"] for death in deaths] == [7, 7, 7]
    assert [birth["restarts"] for birth in births] == [0, 1, 2, 3]
    assert daemon.stop() == 0
