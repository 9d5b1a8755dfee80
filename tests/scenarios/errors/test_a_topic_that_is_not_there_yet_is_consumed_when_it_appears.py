from __future__ import annotations

from collections.abc import Callable

from tests.scenarios.supervision.explaining import until
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("{there}")
    def there(message):
        record(message)

    @app.each("{later}")
    def later(message):
        record(message)
"""


def test_a_topic_that_is_not_there_yet_is_named_in_a_warning_and_consumed_when_it_appears(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """The other topic is consumed meanwhile."""
    there, later = topic(), topic(create=False)
    daemon = swarm_project(
        APP.format(there=there, later=later),
        {"swarm": {"workers": 1}, "kafka": {"topic.metadata.refresh.interval.ms": 500}},
    )
    recording = Recording(daemon.folder)
    broker.produce(there, [(None, str(number)) for number in range(10)])

    daemon.start()
    daemon.wait_for_event("topic_missing", topic=later)
    daemon.wait_for(lambda: len(recording.all(topic=there)) == 10, what="the topic that is there")
    said = until(daemon, "topic_missing")["verdict"]
    broker.create_topic(later)
    broker.produce(later, [(None, str(number)) for number in range(10)])
    daemon.wait_for(lambda: len(recording.all(topic=later)) == 10, what="the topic that has appeared")
    assert daemon.stop() == 0

    (missing,) = daemon.events("topic_missing")
    assert missing["level"] == "warning"
    assert f"topic {later} of group {daemon.group} does not exist" in said
    assert recording.offsets(there)[0] == list(range(10))
    assert recording.offsets(later)[0] == list(range(10))
    assert daemon.events("worker_exited", reason="requested") == daemon.events("worker_exited")
