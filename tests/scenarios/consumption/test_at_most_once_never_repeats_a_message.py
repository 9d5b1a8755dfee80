from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.proxy import Proxy
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App
    from recording import record

    app = App("shop")

    @app.{form}("{topic}", delivery="at_most_once", max_messages=50)
    def order(item):
        for message in [item] if "{form}" == "each" else item:
            record(message)
            time.sleep(0.01)  # the work
            if message.value in (b"3", b"103"):
                raise ValueError("no such customer")
"""


@pytest.mark.parametrize(("form", "protocol"), [("subscribe", "classic"), ("each", "classic"), ("each", "consumer")])
def test_at_most_once_never_repeats_a_message_neither_after_a_failure_nor_after_a_kill(
    form: str, protocol: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Offsets are committed before the run: what failed is dropped with an event, what a kill cut short is not run again."""
    orders = topic()
    daemon = swarm_project(
        APP.format(topic=orders, form=form),
        {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.05}, "kafka": {"group.protocol": protocol}},
    )
    daemon.expect_errors("consume_failed", "message_dropped")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(200)])

    daemon.start()
    daemon.wait_for(lambda: len(recording.all()) > 70, what="some messages")
    os.kill(recording.all()[0].pid, signal.SIGKILL)
    daemon.wait_for_event("worker_started", restarts=1)
    broker.produce(orders, [(None, "the last")])
    daemon.wait_for(lambda: recording.all(offset=200), what="the last message")
    assert daemon.stop() == 0

    offsets = recording.offsets(orders)[0]
    assert offsets == sorted(set(offsets)), "repeated, or out of order"
    dropped = [(line["first_offset"], line["last_offset"]) for line in daemon.events("message_dropped")]
    if form == "each":
        assert dropped[0] == (3, 3)
        assert len(set(range(201)) - set(offsets)) < 50, "only the killed batch is not run"
    else:
        assert dropped[0][0] == 0, "all of the failed batch is dropped: nobody knows what was done of it"
    assert {each.attempt for each in recording.all()} == {1}


STOPPED = """
    import time
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("{topic}", delivery="at_most_once", max_messages=20)
    def order(message):
        record(message)
        time.sleep(0.02)  # the work
"""


def test_at_most_once_loses_nothing_by_a_graceful_stop(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """The batch in hand, which is committed already, is run to its end; the rest comes after the next start."""
    orders = topic()
    daemon = swarm_project(STOPPED.format(topic=orders), {"swarm": {"workers": 1}})
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(150)])

    daemon.start()
    daemon.wait_for(lambda: len(recording.all()) > 10, what="some messages")
    assert daemon.stop() == 0
    at_the_stop = len(recording.all())
    daemon.start()
    daemon.wait_for(lambda: recording.all(offset=149), what="the last message")
    assert daemon.stop() == 0

    assert at_the_stop < 150
    assert recording.offsets(orders)[0] == list(range(150))


LETTERS = """
    from swarm import App, DeadLetter
    from recording import record

    app = App("shop")

    @app.subscribe("{topic}", delivery="at_most_once", max_messages=10, dead_letter=DeadLetter("{dead}"))
    def orders(messages):
        for message in messages:
            record(message)
            if message.raw == b"3":
                raise ValueError("no such customer")
"""


def test_at_most_once_sets_aside_all_of_a_failed_batch_that_may_be_undone(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Nothing runs again, so nobody can look for the message that failed: letters of the whole batch are better than a loss."""
    orders, dead = topic(), topic()
    daemon = swarm_project(LETTERS.format(topic=orders, dead=dead), {"swarm": {"workers": 1}})
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(10)])

    daemon.start()
    daemon.wait_for(lambda: len(broker.read_all(dead)) == 10, what="the letters")
    broker.produce(orders, [(None, "after")])
    daemon.wait_for(lambda: recording.all(offset=10), what="the next message")
    assert daemon.stop() == 0

    offsets = {dict(letter.headers() or [])["swarm.source.offset"] for letter in broker.read_all(dead)}
    assert offsets == {b"%d" % number for number in range(10)}
    assert recording.offsets(orders) == {0: [0, 1, 2, 3, 10]}


UNANSWERED = """
    import time
    from swarm import App
    from recording import record

    app = App("shop")

    @app.subscribe("{topic}", delivery="at_most_once", max_messages=20)
    def orders(messages):
        for message in messages:
            record(message)
            time.sleep(0.01)  # the work
"""


def test_at_most_once_runs_nothing_while_its_commit_has_no_answer(
    proxied: tuple[Broker, Proxy], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """Nobody knows then whether it is committed. When the network is back, all go on where the broker says; what it had taken without our
    hearing of it is not run, and that is said."""
    broker, proxy = proxied
    topic = f"orders-of-{group}"
    broker.create_topic(topic)
    daemon = swarm_project(UNANSWERED.format(topic=topic), {"swarm": {"workers": 1}}, bootstrap=broker.bootstrap)
    daemon.expect_errors("message_dropped")
    recording = Recording(daemon.folder)
    broker.produce(topic, [(None, str(number)) for number in range(400)])

    daemon.start()
    daemon.wait_for(lambda: len(recording.all()) > 50, what="some messages")
    proxy.hold()
    held = len(recording.all())
    daemon.wait_for(lambda: time.monotonic() - recording.all()[-1].at > 2.0, what="the work to stand still")
    done = len(recording.all())
    proxy.heal()
    daemon.wait_for(lambda: recording.all(offset=399), what="the last message")
    assert daemon.stop() == 0

    assert done < held + 2 * 20 + 1, "it went on without the broker's word"
    offsets = recording.offsets(topic)[0]
    assert offsets == sorted(set(offsets)), "repeated, or out of order"
    dropped = {
        offset
        for line in daemon.events("message_dropped")
        for offset in range(line["first_offset"], line["last_offset"] + 1)
    }
    assert set(offsets) | dropped == set(range(400))
    assert [event["restarts"] for event in daemon.events("worker_started")] == [0]
