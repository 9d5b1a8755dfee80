from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from pathlib import Path
    from swarm import App, Backoff
    from recording import record

    app = App("shop")
    healed = Path(__file__).with_name("healed")

    @app.{form}("{topic}", backoff=Backoff(initial=0.02, factor=2.0, maximum=0.1, jitter=0.25))
    def orders(item):
        for message in [item] if "{form}" == "each" else item:
            record(message)
            if message.raw == b"poison" and not healed.exists():
                raise ValueError("no order")
"""


@pytest.mark.parametrize("form", ["each", "subscribe"])
def test_a_poison_message_without_a_dead_letter_topic_is_tried_for_ever_and_holds_only_its_own_partition(
    form: str, broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """With one processing thread. The delays double up to the cap, spread by the jitter; nothing is committed past the message."""
    orders = topic(partitions=3)
    daemon = swarm_project(
        APP.format(form=form, topic=orders),
        {"swarm": {"workers": 1}, "worker": {"concurrency": 1, "commit_interval": 0.1}},
    )
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, "fine"), (None, "poison"), (None, "fine")], 0)
    for partition in (1, 2):
        broker.produce(orders, [(None, "fine")] * 20, partition)

    daemon.start()
    daemon.wait_for(lambda: recording.all(partition=0, offset=1, attempt=12), what="the twelfth attempt")
    for partition in (1, 2):
        broker.produce(orders, [(None, "fine")] * 20, partition)
    daemon.wait_for(
        lambda: [broker.committed(daemon.group).get((orders, partition)) for partition in (1, 2)] == [40, 40],
        what="the other partitions to be done",
    )
    held = broker.committed(daemon.group)[(orders, 0)]
    (latest, *_) = daemon.events("retry_scheduled")[-1:]
    daemon.wait_for_event("retry_scheduled", attempt=latest["attempt"] + 3)
    Path(daemon.folder, "healed").touch()
    daemon.wait_for(lambda: recording.all(partition=0, offset=2, attempt=1) or recording.all(partition=0, offset=2))
    assert daemon.stop() == 0

    assert held == (1 if form == "each" else 0)
    attempts = [each.attempt for each in recording.all(partition=0, offset=1)]
    assert attempts == list(range(1, len(attempts) + 1))
    assert [len(recording.offsets(orders)[partition]) for partition in (1, 2)] == [40, 40]
    delays = [(event["attempt"] - 2, event["seconds"]) for event in daemon.events("retry_scheduled")]
    for step, seconds in delays:
        plain = min(0.02 * 2**step, 0.1)
        assert 0.75 * plain <= seconds <= 1.25 * plain, f"delay {step} is {seconds}"
    assert len({seconds for _, seconds in delays}) == len(delays), "without jitter"
    assert broker.committed(daemon.group) == {(orders, 0): 3, (orders, 1): 40, (orders, 2): 40}
