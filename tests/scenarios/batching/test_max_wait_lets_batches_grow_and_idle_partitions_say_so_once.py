from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Record, Recording

APP = """
    from swarm import App, Consumer
    from recording import note, record

    app = App("shop")

    @app.subscribe("{topic}", max_messages=10, max_wait=1.0)
    class Orders(Consumer):
        def consume(self, messages):
            note("batch", self.topic, len(messages), messages.first_offset)
            for message in messages:
                record(message)

        def on_idle(self):
            note("idle")

        def on_tick(self):
            note("tick")
"""


def test_max_wait_lets_batches_grow_to_max_messages_and_an_idle_partition_says_so_once_each_time(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A full batch goes at once, a smaller one when its time has come; none is larger."""
    orders = topic()
    daemon = swarm_project(APP.format(topic=orders), {"swarm": {"workers": 1}, "worker": {"concurrency": 1}})
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, "x")] * 25)

    daemon.start()
    daemon.wait_for(lambda: recording.all("idle"), what="the first time that it has run dry")
    produced = time.monotonic()
    for _ in range(3):
        broker.produce(orders, [(None, "x")])
    daemon.wait_for(lambda: len(recording.all("idle")) == 2, what="the second time")
    ticks = len(recording.all("tick"))
    daemon.wait_for(lambda: len(recording.all("tick")) >= ticks + 2, what="a while without messages")
    assert daemon.stop() == 0

    batches = recording.all("batch")
    assert [(each.offset, each.partition) for each in batches] == [(0, 10), (10, 10), (20, 5), (25, 3)]
    assert _seconds(batches[1], batches[2]) > 0.8, "the rest did not wait for more"
    assert _seconds(batches[0], batches[1]) < 0.8, "a full batch has nothing to wait for"
    assert batches[3].at - produced > 0.8, "three messages went before their time"
    assert len(recording.all("idle")) == 2


def _seconds(first: Record, second: Record) -> float:
    return second.at - first.at


AT_ONCE = """
    from pathlib import Path
    import time
    from swarm import App
    from recording import note, record

    app = App("shop")

    @app.subscribe("{topic}", max_messages=10, max_wait=0)
    def orders(messages):
        note("batch", messages.topic, len(messages), messages.first_offset)
        for message in messages:
            record(message)
        while messages.first_offset == 2 and not Path("release").exists():
            time.sleep(0.01)
"""


def test_without_max_wait_a_batch_is_what_there_is_at_the_moment(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A single message goes at once and alone; what has come while the handler was busy goes together, up to max_messages."""
    orders = topic()
    daemon = swarm_project(AT_ONCE.format(topic=orders), {"swarm": {"workers": 1}})
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    for offset in range(3):
        broker.produce(orders, [(None, "x")])
        daemon.wait_for(partial(recording.all, offset=offset), what="the message")
    broker.produce(orders, [(None, "x")] * 25)
    daemon.wait_for(lambda: "25 in store" in daemon.run("why", f"{orders}/0").stdout, what="the rest to be there")
    (daemon.folder / "release").touch()
    daemon.wait_for(lambda: len(recording.all()) == 28, what="every message")
    assert daemon.stop() == 0

    batches = [(each.offset, each.partition) for each in recording.all("batch")]
    assert batches == [(0, 1), (1, 1), (2, 1), (3, 10), (13, 10), (23, 5)]
