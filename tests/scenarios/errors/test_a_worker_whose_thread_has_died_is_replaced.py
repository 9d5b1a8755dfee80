from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import ctypes
    import os
    import threading
    import time
    from pathlib import Path
    from swarm import App
    from recording import note, record

    app = App("shop")

    def kill_thread(name):
        for thread in threading.enumerate():
            if thread.name.startswith(name):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))

    def first_time():
        try:
            Path(__file__).with_name("once").touch(exist_ok=False)
            return True
        except FileExistsError:
            return False

    @app.subscribe("{topic}", max_messages=1)
    def orders(messages):
        record(messages[0])
        if messages[0].raw == b"deadly" and first_time():
            {death}
"""

DEATHS = {
    "processing": "ctypes.CDLL(None).pthread_exit(None)",
    "poller": 'kill_thread("poller"); time.sleep(60)',
}


@pytest.mark.parametrize("thread", DEATHS)
def test_a_worker_whose_thread_has_died_is_replaced_and_nothing_is_committed_past_what_it_held(
    thread: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """The poller, or a processing thread that ended without an exception: another process repeats what was in hand."""
    orders = topic(partitions=2)
    daemon = swarm_project(
        APP.format(topic=orders, death=DEATHS[thread]),
        {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.05}},
    )
    daemon.expect_errors("thread_died", "worker_gives_up")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, "fine"), (None, "deadly"), (None, "fine")], 0)
    broker.produce(orders, [(None, "fine")] * 10, 1)

    daemon.start()
    daemon.wait_for(lambda: len(recording.seen(orders)) == 13, what="every message")
    (worker,) = daemon.workers()
    assert daemon.stop() == 0

    first, second = recording.all(partition=0, offset=1)
    assert (first.pid != second.pid, worker["pid"]) == (True, second.pid)
    assert worker["restarts"] == 1
    assert worker["last_exit"]["reason"] == "crashed"
    (died, *_) = daemon.events("thread_died")
    assert died["thread"].startswith(thread)
    assert thread in daemon.events("worker_exited")[0]["detail"]
    assert broker.committed(daemon.group) == {(orders, 0): 3, (orders, 1): 10}
