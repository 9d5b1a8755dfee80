"""Memory: above `memory_limit` a worker is drained and replaced, above `memory_kill` it is killed and replaced."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.scenarios.supervision.incidents import incidents
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording, repeated

# Private memory, once: a successor that met the same message again stays lean.
APP = """
    import os, threading
    from recording import record
    from swarm import App

    app = App("fat")
    kept = []

    @app.each("TOPIC")
    def handle(message):
        if message.raw.startswith(b"grow") and not os.path.exists("grown"):
            open("grown", "w").close()
            kept.append(b"x" * (256 << 20))
            if message.raw == b"grow and stay":
                threading.Event().wait()
        record(message)
"""


@pytest.mark.parametrize("metric", ["rss", "uss", "pss"])
def test_soft_limit_replaces_without_a_repetition(
    metric: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Drained: its messages are committed, it exits with 0, no backoff follows, the reason is `memory_limit`."""
    name = topic()
    daemon = swarm_project(
        APP.replace("TOPIC", name),
        {
            "swarm": {"workers": 1},
            "supervision": {
                "check_interval": 0.1,
                "memory_limit": "200MiB",
                "memory_kill": "10GiB",
                "memory_metric": metric,
            },
        },
    )
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    broker.produce(name, [(None, "grow"), (None, "more")])

    [exited] = daemon.wait_for_event("worker_exited")
    broker.produce(name, [(None, "after")])
    daemon.wait_for(lambda: len(recording.seen(name)) == 3, what="the successor at work")

    assert (exited["code"], exited["reason"]) == (0, "memory_limit")
    assert daemon.workers()[0]["last_exit"]["reason"] == "memory_limit"
    assert daemon.events("worker_backoff") == []
    assert repeated(recording.offsets(name)[0]) == set()
    assert daemon.stop() == 0


def test_hard_limit_kills_after_an_incident(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Not drained: its handler may be what grows. Backtrace and incident first; the successor gets the message again."""
    name = topic()
    daemon = swarm_project(
        APP.replace("TOPIC", name),
        {
            "swarm": {"workers": 1, "shutdown_timeout": 60.0},
            "supervision": {"check_interval": 0.1, "memory_limit": "150MiB", "memory_kill": "200MiB"},
        },
    )
    daemon.expect_errors("worker_killed")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    broker.produce(name, [(None, "grow and stay")])

    daemon.wait_for(lambda: recording.seen(name), what="the successor's success")

    [last] = [worker["last_exit"] for worker in daemon.workers()]
    assert (last["signal"], last["reason"]) == ("SIGKILL", "memory_kill")
    [incident] = incidents(daemon, action="killed")
    assert incident["reason"] == "memory_kill"
    assert incident["memory"] > 200 << 20
    assert "in handle" in incident["backtrace"]
    assert daemon.stop() == 0
