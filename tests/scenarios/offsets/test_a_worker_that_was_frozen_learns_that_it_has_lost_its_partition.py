from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from pathlib import Path
    from swarm import App
    from recording import note, record

    app = App("shop")
    go = Path(__file__).with_name("go")

    @app.subscribe("{topic}", max_messages=1)
    def orders(messages, consumer):
        (message,) = messages
        record(message)
        while message.offset == 0 and not go.exists():
            time.sleep(0.01)
        if message.offset == 0 and go.read_text() == "frozen":
            note(f"at-once-{{consumer.commit(message)}}")
            while not consumer.is_revoked:
                time.sleep(0.01)
            note(f"later-{{consumer.mark_as_consumed(message)}}-{{consumer.commit()}}-{{consumer.commit(message)}}")
"""


def test_a_worker_that_was_frozen_past_its_session_learns_that_it_has_lost_its_partition(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """Its handler's commit and marks answer False and change nothing; its successor's offsets stay; then it is a member again."""
    orders = topic()
    frozen, other = (
        swarm_project(
            APP.format(topic=orders),
            {
                "swarm": {"workers": 1, "group_id": group, "host": host},
                "kafka": {"session.timeout.ms": 6000, "heartbeat.interval.ms": 300},
                "worker": {"commit_interval": 0.1},
            },
        )
        for host in ("one", "two")
    )
    before, after = Recording(frozen.folder), Recording(other.folder)
    Path(other.folder, "go").write_text("awake")
    broker.produce(orders, [(None, "x")] * 5)

    frozen.start()
    frozen.wait_for(lambda: before.all(offset=0), what="the first message to be in hand")
    pid = frozen.workers()[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    other.start()
    other.wait_for(lambda: broker.committed(group).get((orders, 0)) == 5, what="the successor to do all of it")
    Path(frozen.folder, "go").write_text("frozen")
    os.kill(pid, signal.SIGCONT)
    frozen.wait_for_event("partitions_lost")
    frozen.wait_for(lambda: before.all("later-False-False-False"), what="the answers after the loss")
    assert broker.committed(group) == {(orders, 0): 5}
    assert other.stop() == 0
    broker.produce(orders, [(None, "x")])
    frozen.wait_for(lambda: before.all(offset=5), what="the partition to come back")
    assert frozen.stop() == 0

    assert len(before.all("at-once-False")) == 1
    assert before.offsets(orders)[0] == [0, 5]
    assert after.offsets(orders)[0] == list(range(5))
    assert broker.committed(group) == {(orders, 0): 6}
    assert {event["pid"] for event in frozen.events("worker_started")} == {pid}

    answer = frozen.audit("--journal", str(frozen.folder / "state"), "--journal", str(other.folder / "state"))
    (repeated,) = answer["duplicates"]
    assert (repeated["cause"], repeated["first_offset"], repeated["last_offset"]) == ("rebalance", 0, 0)
    assert f"pid {pid}" in repeated["evidence"]
    assert (repeated["earlier"]["host"], repeated["later"]["host"]) == ("one", "two")
    assert answer["gaps"] == []
