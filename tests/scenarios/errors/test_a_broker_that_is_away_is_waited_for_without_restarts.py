from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.ports import free_port
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App
    from recording import record

    app = App("shop")

    @app.subscribe("orders", max_messages=10)
    def orders(messages):
        for message in messages:
            record(message)
            time.sleep(0.002)  # the work
"""


def test_a_broker_that_is_away_at_the_start_and_later_is_waited_for_without_restarts(
    swarm_project: Callable[..., Daemon],
) -> None:
    """Up and healthy, not ready, the error said and folded; consumes when it comes; a restart of it loses nothing."""
    kafka = Broker(port=free_port())
    daemon = swarm_project(
        APP, {"swarm": {"workers": 2}, "worker": {"commit_interval": 0.2}}, bootstrap=kafka.bootstrap
    )
    recording = Recording(daemon.folder)
    try:
        daemon.start()
        daemon.wait_for_event("client_error", within=15)
        daemon.wait_for(lambda: _answer(daemon, "/healthz") == 200, what="/healthz")
        assert _answer(daemon, "/readyz") == 503
        assert [worker["state"] for worker in daemon.workers()] == ["starting", "starting"]

        kafka.start()
        kafka.create_topic("orders", 4)
        for partition in range(4):
            kafka.produce("orders", [(None, str(number)) for number in range(700)], partition)
        daemon.wait_for(lambda: len(recording.seen("orders")) > 200, what="the work to be under way")
        assert _answer(daemon, "/readyz") == 200

        kafka.stop()
        assert _answer(daemon, "/healthz") == 200
        kafka.start()
        for partition in range(4):
            kafka.produce("orders", [(None, str(number)) for number in range(700, 800)], partition)
        daemon.wait_for(lambda: len(recording.seen("orders")) == 4 * 800, what="every message")
        # At once after the broker's return a stop may find the client without its partitions (docs/delivery.md, refused commits).
        daemon.wait_for(lambda: set(kafka.committed(daemon.group).values()) == {800}, what="the ends to be committed")
        assert daemon.stop() == 0
        committed = kafka.committed(daemon.group)
    finally:
        kafka.close()

    assert committed == {("orders", partition): 800 for partition in range(4)}
    assert [event["restarts"] for event in daemon.events("worker_started")] == [0, 0]
    # Two workers, some 20 s with a broker away for a part of it: librdkafka alone says so 20 times a second.
    assert len(daemon.events("client_error")) < 40


def _answer(daemon: Daemon, path: str) -> int:
    try:
        with urllib.request.urlopen(daemon.url + path, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0
