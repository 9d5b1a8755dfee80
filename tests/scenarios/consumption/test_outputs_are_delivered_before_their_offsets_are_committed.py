from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, Consumer
    from recording import record

    app = App("shop")

    @app.subscribe("{orders}", max_messages=5)
    class Orders(Consumer):
        def consume(self, messages):
            for message in messages:
                record(message)
                # Far more than fits into one request, so that deliveries are still under way when the run returns.
                self.producer.produce("{bills}", value=b"x" * 100_000, key=message.raw)
"""


def test_outputs_are_delivered_before_the_offsets_of_their_run_are_committed(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Whatever the broker holds as committed, it also holds the outputs of."""
    orders, bills = topic(), topic()
    daemon = swarm_project(
        APP.format(orders=orders, bills=bills),
        {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.02}, "kafka": {"linger.ms": 100}},
    )
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(60)])

    daemon.start()
    looks: list[tuple[int, int]] = []

    def over() -> bool:
        committed = broker.committed(daemon.group).get((orders, 0), 0)
        looks.append((committed, len({message.key() for message in broker.read_all(bills)})))
        return committed == 60

    daemon.wait_for(over, what="the end")
    assert daemon.stop() == 0

    assert [look for look in looks if look[1] < look[0]] == []
    assert recording.offsets(orders)[0] == list(range(60))
    assert [message.key() for message in broker.read_all(bills)] == [str(number).encode() for number in range(60)]


REFUSED = """
    from swarm import App, Backoff, DeadLetter
    from recording import record

    app = App("shop")

    @app.each("{orders}", backoff=Backoff(initial=0.1), dead_letter=DeadLetter("{dead}", max_attempts=2))
    def orders(message, consumer):
        record(message)
        too_large = message.offset == 5 or (message.offset == 1 and message.attempt == 1)
        consumer.producer.produce("{bills}", value=b"x" * (2_000_000 if too_large else 10), key=message.raw)
"""


def test_a_run_whose_output_the_broker_refuses_is_a_failed_attempt_of_the_message_that_produced_it(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Found out before the commit and tried again; set aside in the end is the message whose output it is, and no other."""
    orders, bills, dead = topic(), topic(), topic()
    daemon = swarm_project(
        REFUSED.format(orders=orders, bills=bills, dead=dead),
        {"swarm": {"workers": 1}, "kafka": {"message.max.bytes": 5_000_000}},
    )
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(8)])

    daemon.start()
    daemon.wait_for(
        lambda: daemon.events("message_dead_lettered") and recording.all(offset=7, attempt=1), what="the end"
    )
    assert daemon.stop() == 0

    assert "MSG_SIZE_TOO_LARGE" in daemon.events("consume_failed")[0]["error"]
    assert recording.all(offset=1, attempt=2), "its second attempt is counted although another message began the run"
    assert [message.value() for message in broker.read_all(dead)] == [b"5"]
    assert {message.key() for message in broker.read_all(bills)} == {b"0", b"1", b"2", b"3", b"4", b"6", b"7"}
    assert broker.committed(daemon.group) == {(orders, 0): 8}
