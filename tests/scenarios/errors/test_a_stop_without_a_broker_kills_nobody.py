from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.ports import free_port
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("orders")
    def orders(message):
        record(message)
"""


def test_a_stop_without_a_broker_kills_nobody_and_the_rest_is_repeated(swarm_project: Callable[..., Daemon]) -> None:
    """A last commit that nobody answers is given up in good time: exit 0. Its messages come again, and none is lost."""
    kafka = Broker(port=free_port())
    settings = {"swarm": {"workers": 1, "shutdown_timeout": 20}, "worker": {"commit_interval": "10m"}}
    daemon = swarm_project(APP, settings, bootstrap=kafka.bootstrap)
    recording = Recording(daemon.folder)
    try:
        kafka.start()
        kafka.create_topic("orders", 1)
        daemon.start()
        daemon.until_running()
        kafka.produce("orders", [(None, str(number)) for number in range(50)], 0)
        daemon.wait_for(lambda: len(recording.seen("orders")) == 50, what="every message")

        kafka.kill()
        assert daemon.stop() == 0

        kafka.start()
        daemon.start()
        daemon.wait_for(lambda: len(recording.all("message")) == 100, what="all of them once more")
        assert daemon.stop() == 0
        assert kafka.committed(daemon.group) == {("orders", 0): 50}
        (repeated,) = daemon.audit()["duplicates"]
        assert (repeated["cause"], repeated["first_offset"], repeated["last_offset"]) == ("commit_failed", 0, 49)
    finally:
        kafka.close()
