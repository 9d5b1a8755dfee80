from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("{early}", initial_offset="earliest")
    def early(message):
        record(message)

    @app.each("{late}", initial_offset="latest")
    def late(message):
        record(message)
"""


def test_initial_offset_says_where_a_group_without_offsets_starts_and_is_committed_at_once(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """earliest and latest hold for the first start only; a partition that is added later starts at its beginning."""
    early, late = topic(), topic()
    daemon = swarm_project(
        APP.format(early=early, late=late),
        {"swarm": {"workers": 1}, "kafka": {"topic.metadata.refresh.interval.ms": 500}},
    )
    recording = Recording(daemon.folder)
    for name in (early, late):
        broker.produce(name, [(None, "old")] * 3)

    daemon.start().until_running()
    assert broker.committed(daemon.group)[(late, 0)] == 3, "the start is committed before anything was processed"
    assert daemon.stop() == 0
    for name in (early, late):
        broker.produce(name, [(None, "while it was down")] * 2)
    daemon.start()
    daemon.wait_for(lambda: len(recording.seen(late)) == 2, what="what came while it was down")
    broker.add_partitions(late, 2)
    broker.produce(late, [(None, "on a new partition")] * 4, 1)
    daemon.wait_for(lambda: len(recording.seen(late)) == 6, what="the new partition")
    assert daemon.stop() == 0

    assert recording.offsets(early) == {0: [0, 1, 2, 3, 4]}
    assert recording.offsets(late) == {0: [3, 4], 1: [0, 1, 2, 3]}
