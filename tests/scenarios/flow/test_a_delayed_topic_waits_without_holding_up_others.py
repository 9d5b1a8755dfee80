from __future__ import annotations

import time
from collections.abc import Callable

from confluent_kafka import Producer

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App
    from recording import note, record

    app = App("shop")

    @app.each("{delayed}", not_before=3.0)
    def delayed(message):
        record(message)
        if message.timestamp is not None and abs(time.time() * 1000 - message.timestamp) < 2900:
            note("early", message.topic, message.partition, message.offset)

    @app.each("{direct}")
    def direct(message):
        record(message)
"""

DAY = 24 * 3_600_000


def test_a_delayed_topic_waits_without_holding_up_others(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A message is handled no earlier than its timestamp and the delay; a partition whose messages are old enough goes on, so does
    another topic, with a single processing thread; a timestamp years ahead holds up nothing; the worker stays healthy."""
    delayed = topic(partitions=3, config={"message.timestamp.after.max.ms": str(2**62)})
    direct = topic()
    daemon = swarm_project(
        APP.format(delayed=delayed, direct=direct),
        {"swarm": {"workers": 1}, "worker": {"concurrency": 1, "commit_interval": 0.2}},
    )
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    now = int(time.time() * 1000)
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for number in range(10):
        producer.produce(delayed, str(number), partition=0, timestamp=now)
        producer.produce(delayed, str(number), partition=1, timestamp=now - DAY)
        producer.produce(delayed, str(number), partition=2, timestamp=now + 2000 * DAY)
        producer.produce(direct, str(number))
    assert producer.flush(10) == 0

    ends = {(delayed, 0): 10, (delayed, 1): 10, (delayed, 2): 10, (direct, 0): 10}
    daemon.wait_for(lambda: broker.committed(daemon.group) == ends, what="the ends")
    (worker,) = daemon.workers()
    assert daemon.stop() == 0

    assert not recording.all("early", partition=0)
    waited = min(each.at for each in recording.all(topic=delayed, partition=0))
    for others in ({"topic": delayed, "partition": 1}, {"topic": delayed, "partition": 2}, {"topic": direct}):
        assert max(each.at for each in recording.all(**others)) < waited, f"{others} waited too"
    assert worker["health"] == "ok"
    assert worker["restarts"] == 0
    for partition, offsets in recording.offsets(delayed).items():
        assert offsets == list(range(10)), partition
