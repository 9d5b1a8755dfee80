from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, Backoff, Consumer
    from recording import record

    app = App("shop")

    @app.subscribe("{topic}", backoff=Backoff(initial=0.4, factor=2.0, jitter=0.0))
    class Orders(Consumer):
        def consume(self, messages):
            assert self.is_retrying == (self.attempt > 1)
            for message in messages:
                record(message)
                if self.partition == 0:
                    if message.offset == 4 and self.attempt < 3:
                        raise ValueError("not yet")
                    if message.offset < 3:
                        self.mark_as_consumed(message)
"""


def test_a_failed_batch_runs_again_from_its_first_unmarked_message_while_other_partitions_go_on(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """The same messages again, after the backoff, with `attempt` counted; what the handler had marked is not repeated."""
    orders = topic(partitions=2)
    daemon = swarm_project(APP.format(topic=orders), {"swarm": {"workers": 1}, "log": {"level": "debug"}})
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(8)], 0)

    daemon.start()
    daemon.wait_for_event("consume_failed")
    broker.produce(orders, [(None, str(number)) for number in range(20)], 1)
    daemon.wait_for(lambda: recording.all(partition=0, offset=7) and recording.all(partition=1, offset=19))
    assert daemon.stop() == 0

    runs = [(each.offset, each.attempt) for each in recording.all(partition=0)]
    first = [(offset, 1) for offset in range(5)]
    second = [(3, 2), (4, 2)]
    third = [(offset, 3) for offset in range(3, 8)]
    # What it had marked is progress: the count begins with the first run that made none.
    assert runs in ([*first, *second, *third], [*first, (3, 2), (4, 2), *third])
    assert recording.offsets(orders)[1] == list(range(20))
    began = {each.attempt: each.at for each in recording.all(partition=0, offset=3)}
    assert 0.4 <= began[2] - began[1] < 1.0
    assert 0.8 <= began[3] - began[2] < 1.6
    assert max(each.at for each in recording.all(partition=1)) < began[3], (
        "the other partition waited for the failing one"
    )
    assert [event["first_offset"] for event in daemon.events("consume_failed")] == [0, 3]
    assert [(event["offset"], event["attempt"]) for event in daemon.events("retry_scheduled")] == [(3, 2), (3, 3)]
    assert broker.committed(daemon.group) == {(orders, 0): 8, (orders, 1): 20}


AT_ONCE = """
    import threading
    import time
    from swarm import App, Backoff, Consumer
    from recording import note, record

    app = App("shop")
    inside = threading.Lock()

    @app.subscribe("{topic}", backoff=Backoff(initial=0.0), max_messages=5)
    class Orders(Consumer):
        def consume(self, messages):
            if not inside.acquire(blocking=False):
                note("together", self.topic, self.partition, messages[0].offset)
                return
            try:
                for message in messages:
                    record(message)
                if self.attempt < 30:
                    raise ValueError("again, at once")
            finally:
                inside.release()
"""


def test_a_partition_has_one_job_at_a_time_also_where_a_failed_one_is_repeated_at_once(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A backoff of zero hands the partition to another thread before the first one has left it."""
    orders = topic()
    daemon = swarm_project(AT_ONCE.format(topic=orders), {"swarm": {"workers": 1}})
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(25)])

    daemon.start()
    daemon.wait_for(lambda: recording.all(offset=24, attempt=30) or recording.all("together"), what="the last success")
    assert daemon.stop() == 0

    assert recording.all("together") == []
    attempts = [each.attempt for each in recording.all(offset=7)]
    assert attempts == list(range(1, 31))
    assert broker.committed(daemon.group) == {(orders, 0): 25}
