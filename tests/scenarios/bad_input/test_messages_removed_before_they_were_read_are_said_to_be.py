from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    for topic, edge in {edges!r}.items():
        @app.each(topic, offset_out_of_range=edge, max_messages=1)
        def orders(message):
            record(message)
"""


def test_messages_that_were_removed_before_they_were_read_are_an_error_event_and_hold_only_their_partition(
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
    expect_violation: Callable[[str, str], None],
) -> None:
    """Retention overtakes a swarm that was stopped: each partition then does what its subscription says, and the others go on."""
    expect_violation("lost", "`latest` passes over what is still there, as its subscription asks")
    names = {name: topic() for name in ("pausing", "earliest", "latest", "untouched")}
    edges = {names["pausing"]: None, names["earliest"]: "earliest", names["latest"]: "latest", names["untouched"]: None}
    daemon = swarm_project(APP.format(edges=edges), {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.1}})
    daemon.expect_errors("offset_out_of_range")
    recording = Recording(daemon.folder)
    ends = {(name, 0): 3 for name in names.values()}
    for name in names.values():
        broker.produce(name, [(None, str(number)) for number in range(3)])
    daemon.start()
    daemon.wait_for(lambda: broker.committed(daemon.group) == ends, what="the first messages")
    assert daemon.stop() == 0
    for name in names.values():
        broker.produce(name, [(None, str(number)) for number in range(3, 9)])
    _remove(broker, {names[name]: 6 for name in ("pausing", "earliest", "latest")})

    daemon.start()
    daemon.wait_for_event("offset_out_of_range", count=3)
    daemon.wait_for(lambda: recording.all(topic=names["earliest"], offset=8), what="what is left")
    daemon.wait_for(lambda: recording.all(topic=names["untouched"], offset=8), what="the untouched topic")
    daemon.wait_for(lambda: broker.committed(daemon.group)[(names["latest"], 0)] == 9, what="the end to be committed")
    for name in names.values():
        broker.produce(name, [(None, "9")])
    for name in ("earliest", "latest", "untouched"):
        daemon.wait_for(lambda name=name: recording.all(topic=names[name], offset=9), what=f"{name} to go on")  # type: ignore[misc]
    assert daemon.stop() == 0

    read = {name: recording.offsets(names[name])[0] for name in names}
    assert read["pausing"] == [0, 1, 2]
    assert read["earliest"] == [0, 1, 2, 6, 7, 8, 9]
    assert read["latest"] == [0, 1, 2, 9]
    assert read["untouched"] == list(range(10))
    events = {event["topic"]: (event["offset"], event["action"]) for event in daemon.events("offset_out_of_range")}
    assert events == {names[name]: (3, name.replace("pausing", "pause")) for name in ("pausing", "earliest", "latest")}
    committed = {names["pausing"]: 3, names["earliest"]: 10, names["latest"]: 10, names["untouched"]: 10}
    assert broker.committed(daemon.group) == {(name, 0): offset for name, offset in committed.items()}


def _remove(broker: Broker, before: dict[str, int]) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    answers = admin.delete_records([TopicPartition(name, 0, offset) for name, offset in before.items()])
    for answer in answers.values():
        answer.result(timeout=15)
