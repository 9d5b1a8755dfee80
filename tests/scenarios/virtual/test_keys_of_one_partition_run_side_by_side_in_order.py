from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Record, Recording

APP = """
    import asyncio
    import threading
    import time
    from swarm import App, Backoff, DeadLetter, VirtualPartitions
    from recording import note, record

    app = App("shop")
    together = threading.Barrier(3)  # three slices of the first batch have to run at once, or none goes on
    failures = {}

    @app.each("together", concurrency_key="key", max_wait=1.0, max_messages=30)
    def at_once(message):
        record(message)
        if message.offset < 3:
            together.wait(30)

    @app.each("async", concurrency_key=lambda message: message.key, max_wait=1.0)
    async def email(message):
        record(message, "begin")
        await asyncio.sleep(0.002)
        record(message)

    @app.subscribe("flaky", virtual_partitions=VirtualPartitions(by=lambda message: message.key, maximum=3),
                   max_wait=1.0, backoff=Backoff(initial=0.02), dead_letter=DeadLetter("flaky.dead", max_attempts=2))
    def flaky(messages, consumer):
        for message in messages:
            record(message)
            if message.offset == 10 and failures.setdefault(10, 0) == 0:
                failures[10] = 1
                raise ValueError("only once")
            if message.raw == b"poison":
                raise ValueError("always")
            consumer.mark_as_consumed(message)

    @app.each("odd", virtual_partitions=VirtualPartitions(by=lambda message: message.value["number"]), max_wait=0.2)
    def odd(message):
        record(message)
"""


def in_order_by_key(records: list[Record], keys: int) -> bool:
    """Whether the messages of each key (offset modulo the number of keys) were seen in their order."""
    return all(
        [each.offset for each in records if each.offset % keys == key]
        == sorted(each.offset for each in records if each.offset % keys == key)
        for key in range(keys)
    )


@pytest.fixture
def virtual(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str]
) -> Callable[..., tuple[Daemon, dict[str, str]]]:
    """A daemon whose four subscriptions run in slices; each of its topics has one partition."""

    def make() -> tuple[Daemon, dict[str, str]]:
        names = {name: topic() for name in ("together", "async", "flaky", "flaky.dead", "odd")}
        app = APP
        for name in sorted(names, key=len, reverse=True):
            app = app.replace(f'"{name}"', f'"{names[name]}"')
        daemon = swarm_project(app, {"swarm": {"workers": 1}, "worker": {"concurrency": 4, "commit_interval": 0.2}})
        return daemon, names

    return make


def test_keys_of_one_partition_run_side_by_side_and_each_in_its_order(
    virtual: Callable[..., tuple[Daemon, dict[str, str]]], broker: Broker
) -> None:
    """At the same time as other keys; in order per key; what was done is not repeated after another key's failure; a partitioner
    that raises puts the batch into one slice and says so."""
    daemon, names = virtual()
    daemon.expect_errors("consume_failed", "message_dead_lettered", "partitioner_failed")
    recording = Recording(daemon.folder)
    for name, count in (("together", 30), ("async", 60), ("flaky", 40), ("odd", 20)):
        broker.produce(
            names[name],
            [(f"key {number % 3}", "poison" if name == "flaky" and number == 23 else "x") for number in range(count)],
        )

    daemon.start()
    ends = {(names["together"], 0): 30, (names["async"], 0): 60, (names["flaky"], 0): 40, (names["odd"], 0): 20}
    daemon.wait_for(lambda: broker.committed(daemon.group) == ends, what="the ends")
    assert daemon.stop() == 0

    for name in ("together", "async", "odd"):
        seen = recording.all(topic=names[name])
        assert len(seen) == ends[(names[name], 0)], f"{name}: repeated"
        assert in_order_by_key(seen, 3), name
    begun = {each.offset: each.at for each in recording.all("begin", topic=names["async"])}
    ended = {each.offset: each.at for each in recording.all(topic=names["async"])}
    assert any(begun[offset + 1] < ended[offset] for offset in range(59)), "one at a time"

    flaky = recording.all(topic=names["flaky"])
    times = {offset: sum(1 for each in flaky if each.offset == offset) for offset in range(40)}
    assert {offset for offset, count in times.items() if count > 1} == {10, 23}, "a message that was marked ran again"
    # The retry of what failed first ran in one slice, in the order of the partition, up to what failed then.
    retry = [each.offset for each in flaky if each.attempt == 2]
    assert retry == sorted(retry)
    assert retry[0] == 10
    assert retry[-1] == 23
    assert [letter.offset() for letter in broker.read_all(names["flaky.dead"])] == [0]
    (letter,) = broker.read_all(names["flaky.dead"])
    assert dict(letter.headers() or [])["swarm.source.offset"] == b"23"
    (event,) = daemon.events("partitioner_failed")
    assert event["topic"] == names["odd"]
