from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from pathlib import Path
    from swarm import App
    from recording import record

    app = App("shop")
    here = Path(__file__).parent

    def hang_in_a_slice():
        while True:
            time.sleep(0.1)

    @app.each("{orders}", concurrency_key="key", consume_timeout=1.0, max_wait=1.0, max_messages=30)
    def order(message):
        record(message)
        if message.offset == 7 and not (here / "stuck").exists():
            (here / "stuck").touch()
            hang_in_a_slice()
"""


def test_a_stuck_slice_is_shown_in_the_incident_and_its_worker_replaced(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """`consume_timeout` counts for each slice: the backtrace names the function that hangs, the batch in hand is the slice's, and the
    successor repeats the messages from the first that was not committed."""
    orders = topic()
    daemon = swarm_project(
        APP.format(orders=orders),
        {
            "swarm": {"workers": 1, "shutdown_timeout": 1.0},
            "worker": {"concurrency": 3},
            "supervision": {"check_interval": 0.1},
        },
    )
    daemon.expect_errors("worker_killed")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(f"key {number % 3}", "x") for number in range(30)])

    daemon.start()
    (killed,) = daemon.wait_for_event("worker_killed", reason="consume_timeout")
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 30}, what="the end")
    assert daemon.stop() == 0

    assert "hang_in_a_slice" in Path(killed["incident"]).read_text()
    assert len(recording.seen(orders)) == 30
    first_life = {each.offset for each in recording.all(pid=recording.all()[0].pid)}
    assert {offset for offset in range(30) if offset % 3 != 1} <= first_life, "the other slices had to wait"
