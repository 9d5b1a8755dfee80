from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import asyncio
    import json
    import threading
    from swarm import App, Message, Messages
    from recording import note, record

    app = App("shop")

    @app.each("{each}")
    def one(message):
        record(message, "each")

    @app.each("{each_async}", deserializer=json.loads)
    async def one_async(message, consumer):
        await asyncio.sleep(0)
        assert message.value == {{"number": int(message.key)}}, message.value
        assert (consumer.topic, consumer.partition) == (message.topic, message.partition)
        record(message, "each_async")

    @app.subscribe("{batch_async}", max_messages=7)
    async def batch_async(messages):
        await asyncio.sleep(0)
        assert len(messages) <= 7
        assert [m.offset for m in messages] == list(range(messages.first_offset, messages.last_offset + 1))
        for message in messages:
            record(message, "batch_async")

    @app.subscribe("{with_consumer}", max_wait=1.0, max_messages=50)
    def with_consumer(messages, consumer):
        note("batch", consumer.topic, consumer.worker, len(messages), consumer.attempt)
        for message in messages:
            record(message, "with_consumer")
"""

FORMS = ("each", "each_async", "batch_async", "with_consumer")


def test_handlers_come_in_every_form_of_function_side_by_side_in_one_group(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """each and batch, plain and async, with and without the Consumer: every message once, in order, committed."""
    topics = {form: topic(partitions=2) for form in FORMS}
    daemon = swarm_project(APP.format(**topics), {"swarm": {"workers": 2}})
    recording = Recording(daemon.folder)
    for name in topics.values():
        for partition in range(2):
            records = [(str(number), f'{{"number": {number}}}') for number in range(50)]
            broker.produce(name, records, partition)

    daemon.start()
    daemon.wait_for(lambda: sum(len(recording.all(form)) for form in FORMS) >= 4 * 2 * 50, what="every message")
    assert daemon.stop() == 0

    for form, name in topics.items():
        assert recording.offsets(name, form) == {0: list(range(50)), 1: list(range(50))}
    batches = [each.offset for each in recording.all("batch")]
    assert batches == [50, 50], "max_wait gathers full batches"
    assert broker.committed(daemon.group) == {(name, partition): 50 for name in topics.values() for partition in (0, 1)}
