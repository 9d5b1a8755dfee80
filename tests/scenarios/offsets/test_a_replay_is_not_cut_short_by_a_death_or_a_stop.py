from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from pathlib import Path
    from swarm import App, Consumer
    from recording import record

    app = App("shop")
    here = Path(__file__).parent

    @app.subscribe("{topic}", max_messages=5)
    class Orders(Consumer):
        def consume(self, messages):
            for message in messages:
                record(message)
            if messages.last_offset == 29 and not (here / "sought").exists():
                self.mark_as_consumed(messages[-1])
                self.commit()
                (here / "sought").touch()
                while not (here / "go").exists():
                    time.sleep(0.01)
                self.seek(0)
            elif (here / "sought").exists() and messages.last_offset == 14:
                (here / "half").touch()
                while not (here / "go-on").exists():
                    time.sleep(0.01)
"""


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_replay_is_not_cut_short_by_a_stop_before_it_begins_or_a_death_in_the_middle(
    end: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """The committed offset follows a handler's seek backwards: who comes next does the rest of what was asked for."""
    orders = topic()
    daemon = swarm_project(APP.format(topic=orders), {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.1}})
    recording = Recording(daemon.folder)
    sought, half, go, go_on = (daemon.folder / name for name in ("sought", "half", "go", "go-on"))
    broker.produce(orders, [(None, "x")] * 30, 0)

    daemon.start()
    daemon.wait_for(sought.exists, what="the seek")
    assert broker.committed(daemon.group) == {(orders, 0): 30}
    if end == "stop":
        os.kill(daemon.pid, signal.SIGTERM)
        daemon.wait_for_event("worker_stopping")
        go.touch()
        go_on.touch()
        daemon.wait_for(lambda: daemon.exit_code == 0, what="the stop")
        assert broker.committed(daemon.group) == {(orders, 0): 0}
        daemon.start()
    else:
        go.touch()
        daemon.wait_for(half.exists, what="half of the replay")
        daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 10}, what="the replay's commit")
        (worker,) = daemon.workers()
        os.kill(worker["pid"], signal.SIGKILL)
        go_on.touch()
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 30}, what="the whole replay")
    assert daemon.stop() == 0

    # What the dead worker had not committed of the replay comes once more.
    again = list(range(30)) if end == "stop" else [*range(15), *range(10, 30)]
    assert recording.offsets(orders)[0] == [*range(30), *again]
