"""What the supervisor makes of each signal, and that those of a terminal are the supervisor's alone to hear."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

# "wait" runs until the file `go` is there.
APP = """
    import os, time
    from recording import note, record
    from swarm import App

    app = App("signals")

    @app.each("TOPIC")
    def handle(message):
        note("begun")
        while message.raw == b"wait" and not os.path.exists("go"):
            time.sleep(0.01)
        record(message)
"""


def test_quiet_resume_backtraces_and_hangup(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """TSTP lets the job in hand end and takes no other until CONT; TTIN shows every process; HUP replaces the workers, one by one."""
    name = topic(2)
    daemon = swarm_project(APP.replace("TOPIC", name))
    recording = Recording(daemon.folder)
    before = [worker["pid"] for worker in daemon.start().until_running().workers()]

    daemon.signal(signal.SIGCONT)  # systemd sends it whenever it stops a unit: nothing was quiet
    daemon.signal(signal.SIGTTIN)
    daemon.wait_for_event("backtrace_dumped", count=2)
    daemon.wait_for_event("process_backtrace_dumped", count=2)
    assert daemon.events("swarm_resumed") == []
    assert [line["pid"] for line in daemon.events("backtrace_dumped")] == before
    others = {line["process"]: line["text"] for line in daemon.events("process_backtrace_dumped")}
    assert set(others) == {"supervisor", "observer"}
    assert "loop.py" in others["supervisor"]

    broker.produce(name, [(None, "wait")], partition=0)
    daemon.wait_for(lambda: recording.all("begun"), what="a job in hand")
    daemon.signal(signal.SIGTSTP)
    idle = daemon.wait_for(lambda: [w for w in daemon.workers() if w["state"] == "quiet"], what="the idle one quiet")
    assert len(idle) == 1
    assert daemon.status()["state"] == "running"
    (daemon.folder / "go").touch()
    daemon.wait_for_event("swarm_quiet")
    assert daemon.status()["state"] == "quiet"
    broker.produce(name, [(None, "later")], partition=1)
    assert len(recording.seen(name)) == 1

    daemon.signal(signal.SIGCONT)
    daemon.wait_for(lambda: len(recording.seen(name)) == 2, what="the swarm to go on")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_event("swarm_reloaded")
    assert not {worker["pid"] for worker in daemon.workers()} & set(before)
    assert [line["worker"] for line in daemon.events("worker_stopping")] == [0, 1]
    assert daemon.stop() == 0
    assert broker.committed(daemon.group) == {(name, 0): 1, (name, 1): 1}


@pytest.mark.parametrize(
    "signals",
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGQUIT,),
    ],
    ids=["TERM twice", "INT twice", "QUIT"],
)
def test_second_stop_signal_does_not_wait_for_a_handler(
    signals: tuple[signal.Signals, ...],
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
) -> None:
    """A second TERM or INT, or a QUIT, ends a stop at once: the busy worker is shown and killed, the exit code is 2."""
    name = topic()
    daemon = swarm_project(APP.replace("TOPIC", name), {"swarm": {"shutdown_timeout": 60.0}})
    daemon.expect_errors("worker_killed")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    broker.produce(name, [(None, "wait")])
    [begun] = daemon.wait_for(lambda: recording.all("begun"), what="a job in hand")

    daemon.signal(signals[0])
    daemon.wait_for_event("swarm_stopping")
    daemon.wait_for(lambda: ended_or_told_again(daemon, signals[1:]), what="its end")

    assert daemon.exit_code == 2
    names = [line["event"] for line in daemon.events(pid=begun.pid)]
    assert names.index("backtrace_dumped") < names.index("worker_killed")
    assert broker.committed(daemon.group).get((name, 0), 0) == 0


def ended_or_told_again(daemon: Daemon, signals: tuple[signal.Signals, ...]) -> bool:
    """Whether it has ended; if not, it gets the signals: one that comes right after the first is taken for the same."""
    if daemon.exit_code is None:
        for number in signals:
            daemon.signal(number)
    return daemon.exit_code is not None


def test_keys_of_a_terminal_reach_the_supervisor_only(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """^Z, fg, a hangup and ^C go to every process of the foreground group: workers keep their jobs and go in good order."""
    name = topic()
    daemon = swarm_project(APP.replace("TOPIC", name))
    recording = Recording(daemon.folder)
    before = [worker["pid"] for worker in daemon.start().until_running().workers()]
    (daemon.folder / "go").touch()

    os.killpg(daemon.pid, signal.SIGTSTP)
    daemon.wait_for_event("swarm_quiet")
    os.killpg(daemon.pid, signal.SIGHUP)
    os.killpg(daemon.pid, signal.SIGCONT)
    daemon.wait_for_event("swarm_resumed")
    daemon.wait_for_event("swarm_reloaded")
    daemon.until_running()
    assert [line["pid"] for line in daemon.events("worker_exited")] == before, (
        "a hangup means reload, and no more than that"
    )

    (daemon.folder / "go").unlink()
    broker.produce(name, [(None, "wait")])
    daemon.wait_for(lambda: recording.all("begun"), what="a job in hand")
    os.killpg(daemon.pid, signal.SIGINT)
    daemon.wait_for_event("worker_stopping", count=4)
    (daemon.folder / "go").touch()
    code = daemon.wait_for(lambda: (daemon.exit_code,) if daemon.exit_code is not None else None, what="its end")

    assert code == (0,)
    assert [line["code"] for line in daemon.events("worker_exited")] == [0, 0, 0, 0]
    assert broker.committed(daemon.group) == {(name, 0): 1}
