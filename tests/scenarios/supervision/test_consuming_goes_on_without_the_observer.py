"""The observer may die without harm: its port is taken, or it is killed, and messages are processed all the same."""

from __future__ import annotations

import os
import signal
import socket
import urllib.request
from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from recording import record
    from swarm import App

    app = App("observed")

    @app.each("TOPIC")
    def handle(message):
        record(message)
"""


def test_taken_port_and_killed_observer(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Both are said, as `observer_failed` with the reason; it is there again by itself; no worker is touched by it."""
    name = topic()
    daemon = swarm_project(APP.replace("TOPIC", name))
    recording = Recording(daemon.folder)
    port = daemon.settings["observer"]["port"]
    with socket.create_server(("127.0.0.1", port)):
        daemon.start().until_running()
        broker.produce(name, [(None, "one")])
        daemon.wait_for(lambda: len(recording.seen(name)) == 1, what="consuming beside a taken port")
        [failed, *_] = daemon.wait_for_event("observer_failed")
    assert str(port) in failed["reason"]
    assert "in use" in failed["reason"]

    [started] = daemon.wait_for_event("observer_started")
    os.kill(started["pid"], signal.SIGKILL)
    again = daemon.wait_for_event("observer_started", count=2)[-1]
    broker.produce(name, [(None, "two")])
    daemon.wait_for(lambda: len(recording.seen(name)) == 2, what="consuming after its death")

    assert again["pid"] != started["pid"]
    assert "SIGKILL" in daemon.events("observer_failed")[-1]["reason"]
    with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=10.0) as answer:
        assert b"swarm_messages_total" in answer.read()
    assert [worker["restarts"] for worker in daemon.workers()] == [0, 0]
    assert daemon.stop() == 0
