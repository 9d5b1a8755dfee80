from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, Consumer
    from recording import note

    app = App("shop")

    @app.subscribe("{orders}", delivery="exactly_once", offsets="manual", max_messages=10)
    class Invoices(Consumer):
        def on_assigned(self):
            self.say("assigned", None)

        def consume(self, messages):
            for message in messages:
                with self.transaction() as transaction:
                    transaction.produce("{invoices}", value=message.raw)
                self.producer.produce("{copies}", value=message.raw)
                if message.offset < 17:
                    self.mark_as_consumed(message)
                last = message
            if messages.first_offset == 0:
                try:
                    self.commit()
                except Exception as error:
                    self.say("commit", str(error).encode())
            self.last = last

        def on_idle(self):
            self.say("idle", None)

        def on_tick(self):
            note("tick")
            self.say("tick", None)

        def on_shutdown(self):
            self.say("shutdown", None)
            self.mark_as_consumed(self.last)

        def say(self, what, value):
            self.producer.produce("{hooks}", key=what, value=value)
"""


def test_everything_that_a_consumer_does_belongs_to_its_transaction_also_in_hooks(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """`with self.transaction()` joins the run's; marks of the handler's own go with it; hooks produce and mark in one of their own; and
    commit() says that it has no place there."""
    orders, invoices, copies, hooks = topic(), topic(), topic(), topic()
    daemon = swarm_project(
        APP.format(orders=orders, invoices=invoices, copies=copies, hooks=hooks), {"swarm": {"workers": 1}}
    )
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(25)])

    daemon.start()
    daemon.wait_for(lambda: len(broker.read_all(invoices, read_committed=True)) == 25, what="the outputs")
    daemon.wait_for(lambda: recording.all("tick"), what="a tick")
    assert broker.committed(daemon.group) == {(orders, 0): 17}, "what the handler has not marked"
    assert daemon.stop() == 0

    assert broker.committed(daemon.group) == {(orders, 0): 25}, "what on_shutdown has marked"
    assert [message.value() for message in broker.read_all(copies, read_committed=True)] == [
        str(number).encode() for number in range(25)
    ]
    said = {message.key(): message.value() for message in broker.read_all(hooks, read_committed=True)}
    assert said.keys() == {b"assigned", b"idle", b"tick", b"shutdown", b"commit"}
    assert b"mark_as_consumed" in (said[b"commit"] or b"")
    assert not daemon.events("hook_failed")
