from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from pathlib import Path
    from swarm import App, Consumer
    from recording import note, record

    app = App("shop")
    here = Path(__file__).parent

    @app.subscribe("{orders}", delivery="{delivery}", max_messages=10)
    class Orders(Consumer):
        def on_assigned(self):
            note("found:" + str(self.offset_metadata))

        def consume(self, messages):
            for message in messages:
                record(message)
                while message.offset == 5 and (here / "back").exists() and not (here / "go on").exists():
                    time.sleep(0.02)
                self.mark_as_consumed(message, metadata=f"state-{{message.offset}}")
                if message.offset == 25 and not (here / "back").exists():
                    (here / "back").touch()
                    self.seek(5)
                    return
"""


def metadata(broker: Broker, group: str, topic: str) -> tuple[int, str | None]:
    """The committed offset of partition 0 and its text."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    try:
        (answer,) = consumer.committed([TopicPartition(topic, 0)], timeout=10)
        return answer.offset, answer.metadata
    finally:
        consumer.close()


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_commit_carries_a_short_text_to_the_next_holder_also_after_a_kill(
    delivery: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Given with a mark, committed with its offset, found by whoever gets the partition next; a seek backwards takes the committed offset
    along."""
    orders = topic()
    daemon = swarm_project(
        APP.format(orders=orders, delivery=delivery), {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.1}}
    )
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(30)])

    daemon.start()
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 5}, what="the offset that was sought")
    (daemon.folder / "go on").touch()
    daemon.wait_for(lambda: metadata(broker, daemon.group, orders) == (30, "state-29"), what="the end, with its text")
    os.kill(recording.all()[0].pid, signal.SIGKILL)
    daemon.wait_for(lambda: recording.all("found:state-29"), what="the text, found by the successor")
    assert daemon.stop() == 0

    assert recording.all("found:None")
    assert recording.offsets(orders)[0] == [*range(26), *range(5, 30)]
