from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from pathlib import Path
    from swarm import App, Consumer
    from recording import note, record

    app = App("shop")
    go = Path(__file__).with_name("go")

    @app.subscribe("{topic}")
    class Orders(Consumer):
        def consume(self, messages):
            for message in messages:
                record(message)
                if message.raw == b"slow":
                    while not go.exists():
                        time.sleep(0.01)
            if self.partition == 1:
                for _ in range(2):  # the second one has nothing new
                    note(f"commit-{{self.commit(messages[-1])}}")
"""

BY_INTERVAL = {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.2}}


def test_offsets_are_committed_by_interval_and_never_ahead_of_the_work(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Not before the handler returns, however often other partitions commit meanwhile; a commit with nothing new is True."""
    orders = topic(partitions=2)
    daemon = swarm_project(APP.format(topic=orders), BY_INTERVAL)
    recording = Recording(daemon.folder)

    def held(partition: int) -> int:
        return broker.committed(daemon.group).get((orders, partition), 0)

    broker.produce(orders, [(None, "fine")] * 3, 0)
    daemon.start()
    daemon.wait_for(lambda: held(0) == 3, what="the interval after the first messages")
    broker.produce(orders, [(None, "slow")], 0)
    daemon.wait_for(lambda: recording.all(partition=0, offset=3), what="the slow one to begin")
    for number in range(3):
        broker.produce(orders, [(None, "fine")], 1)
        daemon.wait_for(lambda number=number: held(1) == number + 1, what="the other partition's commits")  # type: ignore[misc]
    ahead = held(0)
    Path(daemon.folder, "go").touch()
    daemon.wait_for(lambda: held(0) == 4, what="the slow one's commit")
    assert daemon.stop() == 0

    assert ahead == 3
    assert len(recording.all("commit-True")) == 6
    assert recording.all("commit-False") == []


MARKING = """
    from swarm import App, Backoff, Consumer
    from recording import note, record

    app = App("shop")

    @app.subscribe("{topic}", backoff=Backoff(initial=0.5, jitter=0.0))
    class Orders(Consumer):
        def consume(self, messages):
            for message in messages:
                record(message)
            if self.attempt == 1:
                for index in (3, 1):
                    note(f"marked-{{self.mark_as_consumed(messages[index])}}", self.topic, 0, messages[index].offset)
                raise ValueError("not yet")
"""


def test_marking_an_older_message_rewinds_only_the_retry(
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
    expect_violation: Callable[[str, str], None],
) -> None:
    """What was marked before is committed although the run failed, and stays; the retry begins behind the older mark."""
    expect_violation(
        "commit_past_work", "the handler says that two messages are done, and then that it wants them again"
    )
    orders = topic()
    daemon = swarm_project(MARKING.format(topic=orders), BY_INTERVAL)
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, "x")] * 6, 0)

    daemon.start()
    daemon.wait_for_event("retry_scheduled", offset=2)
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 4}, what="the newer mark to be committed")
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 6}, what="all of them")
    assert daemon.stop() == 0

    assert [each.offset for each in recording.all("marked-True")] == [3, 1]
    assert recording.offsets(orders)[0] == [*range(6), *range(2, 6)]
    committed = [end for event in daemon.events("offsets_committed") for _, _, end in event["offsets"]]
    assert committed == sorted(committed), "an older mark never takes a commit back"
