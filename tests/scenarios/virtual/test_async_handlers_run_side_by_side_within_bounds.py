from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import asyncio
    import time
    from swarm import App, Backoff, DeadLetter
    from recording import note, record

    app = App("shop")
    at_once = 0

    @app.subscribe("{orders}", max_messages=5)
    async def order(messages):
        global at_once
        at_once += 1
        note("together", attempt=at_once)
        for message in messages:
            record(message)
            await asyncio.sleep(0.01)
        at_once -= 1

    keys_at_once = 0

    @app.each("{keyed}", concurrency_key="key", max_messages=30)
    async def by_key(message):
        global keys_at_once
        keys_at_once += 1
        note("keys-together", attempt=keys_at_once)
        record(message)
        await asyncio.sleep(0.005)
        keys_at_once -= 1

    ENDS = {{1: asyncio.CancelledError("by a timeout of its own"), 3: SystemExit(3), 5: KeyboardInterrupt(), 7: ValueError("no")}}

    @app.each("{ends}", backoff=Backoff(initial=0.02), dead_letter=DeadLetter("{letters}", max_attempts=2))
    async def end(message):
        record(message)
        await asyncio.sleep(0)
        if message.offset in ENDS:
            raise ENDS[message.offset]

    @app.each("{blocking}")
    async def block(message):
        record(message)
        time.sleep(4.0)  # what an async handler must not do
"""


def test_async_handlers_run_side_by_side_within_bounds_and_any_end_is_a_failed_attempt(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """No more at once than processing threads, be it partitions or keys of one, each in its order; CancelledError, SystemExit and KeyboardInterrupt are
    failures like others; and one that blocks the loop for longer than the session lasts costs no membership."""
    orders, keyed, ends, letters, blocking = topic(partitions=6), topic(), topic(), topic(), topic()
    daemon = swarm_project(
        APP.format(orders=orders, keyed=keyed, ends=ends, letters=letters, blocking=blocking),
        {
            "swarm": {"workers": 1},
            "worker": {"concurrency": 3, "commit_interval": 0.2},
            "kafka": {"session.timeout.ms": 2000, "heartbeat.interval.ms": 300, "max.poll.interval.ms": 3000},
        },
    )
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    for partition in range(6):
        broker.produce(orders, [(None, str(number)) for number in range(20)], partition)
    broker.produce(keyed, [(f"key {number % 12}", str(number)) for number in range(60)])
    broker.produce(ends, [(None, str(number)) for number in range(10)])

    daemon.start()
    done = {(orders, partition): 20 for partition in range(6)} | {(ends, 0): 10, (keyed, 0): 60}
    daemon.wait_for(lambda: broker.committed(daemon.group).items() >= done.items(), what="the ends")
    broker.produce(blocking, [(None, "x")])
    daemon.wait_for(lambda: broker.committed(daemon.group).get((blocking, 0)) == 1, what="the end of the blocking one")
    assert daemon.stop() == 0

    at_once = {each.attempt for each in recording.all("together")}
    assert 1 < max(at_once) <= 3, at_once
    keys_at_once = {each.attempt for each in recording.all("keys-together")}
    assert 1 < max(keys_at_once) <= 3, keys_at_once
    of_key = [[offset for offset in recording.offsets(keyed)[0] if offset % 12 == key] for key in range(12)]
    assert of_key == [list(range(key, 60, 12)) for key in range(12)]
    for partition, offsets in recording.offsets(orders).items():
        assert offsets == list(range(20)), partition
    written: list[dict[str, Any]] = [dict(letter.headers() or []) for letter in broker.read_all(letters)]
    assert [letter["swarm.source.offset"] for letter in written] == [b"1", b"3", b"5", b"7"]
    assert [letter["swarm.error"].partition(b":")[0] for letter in written] == [
        b"CancelledError",
        b"SystemExit",
        b"KeyboardInterrupt",
        b"ValueError",
    ]
    assert not daemon.events("partitions_lost")
    assert not daemon.events("worker_started", restarts=1)
    assert len(recording.all(topic=blocking)) == 1
