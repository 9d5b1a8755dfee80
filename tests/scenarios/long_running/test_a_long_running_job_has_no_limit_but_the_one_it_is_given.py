from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from pathlib import Path
    from swarm import App
    from recording import record

    app = App("shop")
    end = Path(__file__).with_name("end")

    def wait_for_the_end(message):
        record(message)
        while not end.exists():
            time.sleep(0.01)
        record(message, "end")

    app.each("{free}", long_running=True)(wait_for_the_end)
    app.each("{limited}", long_running=True, consume_timeout=1.0)(wait_for_the_end)
"""


def test_a_long_running_job_is_left_alone_past_consume_timeout_unless_its_subscription_has_one(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """`supervision.consume_timeout` is for ordinary jobs; a limit that the subscription names holds also for long ones."""
    free, limited = topic(), topic()
    daemon = swarm_project(
        APP.format(free=free, limited=limited),
        {
            "swarm": {"workers": 1, "shutdown_timeout": 2.0},
            "supervision": {"consume_timeout": 1.0, "check_interval": 0.2},
        },
    )
    daemon.expect_errors("worker_killed")
    recording = Recording(daemon.folder)

    broker.produce(free, [(None, "x")], 0)
    daemon.start().until_running()
    daemon.wait_for(lambda: (daemon.workers()[0]["job_age"] or 0) > 3.0, what="three times the limit")
    (first,) = daemon.workers()
    assert daemon.events("worker_stopping") == []

    broker.produce(limited, [(None, "x")], 0)
    daemon.wait_for_event("worker_stopping", reason="consume_timeout")
    (daemon.folder / "end").touch()
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(free, 0): 1, (limited, 0): 1}, what="both, by somebody")
    assert daemon.stop() == 0

    assert recording.all(topic=free)[0].pid == first["pid"]
    assert all(event["pid"] == first["pid"] for event in daemon.events("worker_stopping", reason="consume_timeout"))
