from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its re-exports are not marked as such
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App, DeadLetter
    from recording import record

    app = App("shop")

    @app.each("{topic}", dead_letter=DeadLetter("{dead}", max_attempts=1))
    def orders(message):
        time.sleep(0.02)  # the work: slower than the broker
        record(message)
        if message.raw.startswith(b"bad"):
            raise ValueError("no order")
"""

SIZE = 10_000_000
COUNT = 20  # in each partition
LARGE = {"max.message.bytes": str(12_000_000)}


def test_values_of_ten_megabytes_are_held_by_bytes_and_dead_lettered_when_the_topic_takes_them(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A worker's memory stays far below what waits; a letter that is too large is an error that names the topic's setting."""
    orders, dead = topic(partitions=2, config=LARGE), topic()
    daemon = swarm_project(APP.format(topic=orders, dead=dead), {"swarm": {"workers": 1}})
    daemon.expect_errors("consume_failed", "dead_letter_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "message.max.bytes": 12_000_000}
    )
    good, bad = b"g" * SIZE, b"bad" + b"b" * (SIZE - 3)
    for number in range(COUNT):
        for partition in range(2):
            producer.produce(orders, bad if number == partition == 1 else good, partition=partition)
        assert producer.flush(30) == 0

    daemon.start()
    (failed, *_) = daemon.wait_for_event("dead_letter_failed")
    daemon.wait_for(lambda: recording.all(partition=0, offset=COUNT - 1), what="the other partition")
    _configure(broker, dead, LARGE)
    daemon.wait_for(lambda: recording.all(partition=1, offset=COUNT - 1), what="the message behind it")
    peak = _peak_memory(daemon.workers()[0]["pid"])
    assert daemon.stop() == 0

    assert f"max.message.bytes of the topic {dead}" in failed["error"]
    assert [letter.value() == bad for letter in broker.read_all(dead)] == [True]
    assert recording.offsets(orders) == {0: list(range(COUNT)), 1: list(range(COUNT))}
    assert peak < 300 << 20, f"{peak >> 20} MiB for {2 * COUNT * SIZE // 1_000_000} MB of messages"
    assert broker.committed(daemon.group) == {(orders, 0): COUNT, (orders, 1): COUNT}


def _peak_memory(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def _configure(broker: Broker, name: str, config: dict[str, str]) -> None:
    entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in config.items()]
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})  # held until the answer is there
    admin.incremental_alter_configs([resource])[resource].result(timeout=15)
