from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App, Backoff, Consumer
    from recording import note, record

    app = App("shop")
    failed = set()

    @app.subscribe("{orders}", max_messages=30, backoff=Backoff(initial=0.02))
    class Invoices(Consumer):
        def consume(self, messages):
            record(messages[0], "first")
            record(messages[0])
            self.mark_as_consumed(messages[0])  # outside: goes before the first transaction
            self.producer.produce("{plain}", value=messages[0].raw)
            for message in messages[1:]:
                with self.transaction() as transaction:
                    record(message, "inside")
                    record(message)
                    transaction.produce("{invoices}", value=message.raw)
                    self.mark_as_consumed(message)
                    time.sleep(0.002)
                    if message.offset % 23 == 7 and message.offset not in failed:
                        failed.add(message.offset)
                        raise ValueError("out of paper")
"""


REFUSED = """
    from swarm import App, Consumer
    from recording import note

    app = App("shop")

    def attempt(consumer, what):
        try:
            with consumer.transaction():
                if what == "nested":
                    with consumer.transaction():
                        pass
                elif what == "commit":
                    consumer.commit()
                else:
                    note("allowed:" + what)
        except Exception as error:
            note(what + ":" + type(error).__name__ + ":" + str(error).split(":")[0].replace(" ", "-"))

    @app.subscribe("{one}")
    def plain(messages, consumer):
        attempt(consumer, "nested")
        attempt(consumer, "commit")
        attempt(consumer, "plain")

    @app.subscribe("{two}")
    async def asynchronous(messages, consumer):
        attempt(consumer, "async")

    @app.subscribe("{three}", concurrency_key="key")
    def divided(messages, consumer):
        attempt(consumer, "virtual")
"""


def test_an_own_transaction_is_refused_where_it_has_no_thread_of_its_own(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """In another one, in an async handler and beside virtual partitions; so is commit() inside. Each is a ConfigurationError."""
    names = [topic(), topic(), topic()]
    daemon = swarm_project(
        REFUSED.format(**dict(zip(("one", "two", "three"), names, strict=True))), {"swarm": {"workers": 1}}
    )
    recording = Recording(daemon.folder)
    for name in names:
        broker.produce(name, [("key", "x")])

    daemon.start()
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(name, 0): 1 for name in names}, what="the ends")
    assert daemon.stop() == 0

    assert recording.all("allowed:plain")
    lines = (daemon.folder / "records").read_text().splitlines()
    for what in ("nested", "commit", "async", "virtual"):
        (said,) = [line for line in lines if line.startswith(what + ":")]
        assert said.startswith(what + ":ConfigurationError:"), said


def test_an_own_transaction_happens_wholly_or_not_at_all_also_when_killed(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """In at-least-once: what is produced and marked inside a block is there once although blocks raise and the worker is killed in
    the middle of some; its successor begins at once, and readers are not held up for the transaction's timeout."""
    orders, invoices, plain = topic(partitions=2), topic(), topic()
    daemon = swarm_project(
        APP.format(orders=orders, invoices=invoices, plain=plain),
        {"swarm": {"workers": 1}, "worker": {"concurrency": 2, "commit_interval": 0.05}},
    )
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    for partition in range(2):
        broker.produce(orders, [(None, f"{partition}/{number}") for number in range(90)], partition)

    daemon.start()
    for enough in (20, 70):
        daemon.wait_for(
            lambda: len(recording.all()) > enough,  # noqa: B023  # it is waited for here
            what="some messages",
        )
        os.kill(recording.all()[-1].pid, signal.SIGKILL)
    ends = {(orders, partition): 90 for partition in range(2)}
    daemon.wait_for(lambda: broker.committed(daemon.group) == ends, within=60, what="the ends")
    assert daemon.stop() == 0

    outputs = Counter(message.value() for message in broker.read_all(invoices, read_committed=True))
    inside = {f"{each.partition}/{each.offset}".encode() for each in recording.all("inside")}
    assert set(outputs) <= inside
    assert set(outputs.values()) == {1}, [value for value, count in outputs.items() if count > 1]
    first = {f"{each.partition}/{each.offset}".encode() for each in recording.all("first")}
    everything = {f"{partition}/{number}".encode() for partition in range(2) for number in range(90)}
    assert set(outputs) | first == everything
    assert {message.value() for message in broker.read_all(plain)} >= everything - set(outputs)
