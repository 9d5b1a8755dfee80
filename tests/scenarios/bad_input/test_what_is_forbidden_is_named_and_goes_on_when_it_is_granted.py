from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import ResourceType  # type: ignore[attr-defined]  # its re-exports are not marked as such

from tests.scenarios.supervision.explaining import mentioned, until
from tests.support.daemon import Daemon
from tests.support.recording import Recording
from tests.support.secured import GROUP, LOGIN, READ, TOPIC, WRITE, SecuredBroker

APP = """
    from swarm import App, Backoff, DeadLetter
    from recording import note, record

    app = App("shop")

    @app.each("open", dead_letter=DeadLetter("dead", max_attempts=1))
    def opened(message, consumer):
        record(message)
        if message.raw == b"bad":
            raise ValueError("no order")
        if message.raw == b"commit":
            note(f"commit-{{consumer.commit(message)}}")

    @app.each("closed")
    def closed(message):
        record(message)

    @app.each("open", group="{other}")
    def others(message):
        record(message, "other")
"""


@pytest.fixture
def secured() -> Iterator[SecuredBroker]:
    with SecuredBroker() as broker:
        yield broker


def test_what_is_forbidden_is_named_with_its_remedy_and_goes_on_as_soon_as_it_is_granted(
    secured: SecuredBroker, group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """A topic, a group, a dead letter topic, a commit: each is said, holds only itself, and needs no restart."""
    other = f"{group}-other"
    daemon = swarm_project(
        APP.format(other=other),
        {
            "swarm": {"workers": 1, "group_id": group},
            "kafka": {
                **LOGIN,
                "topic.metadata.refresh.interval.ms": 500,
            },
            "worker": {"commit_interval": 0.2},
        },
        bootstrap=secured.secured,
    )
    daemon.expect_errors("consume_failed", "dead_letter_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    for name, partitions in (("open", 2), ("closed", 1), ("dead", 1)):
        secured.create_topic(name, partitions)
        secured.produce(name, [(None, "good")] * 3 if name != "dead" else [], 0)
    secured.grant(READ, TOPIC, "open")
    secured.grant(READ, GROUP, group)

    daemon.start()
    daemon.wait_for(lambda: len(recording.all(topic="open")) == 3, what="the topic that is allowed")
    _said(daemon, "client_error", "closed", "Grant this user Read on the topic closed")
    _said(daemon, "client_error", other, f"Grant this user Read on the group {other}")
    assert other in mentioned(daemon, "refused")["text"]
    secured.grant(READ, TOPIC, "closed")
    secured.grant(READ, GROUP, other)
    daemon.wait_for(lambda: len(recording.all(topic="closed")) == 3, what="the topic that was granted")
    daemon.wait_for(lambda: len(recording.all("other")) == 3, what="the group that was granted")

    secured.produce("open", [(None, "bad"), (None, "good")], 0)
    _said(daemon, "dead_letter_failed", "dead", "Grant this user Write on the topic dead")
    assert "dead" in until(daemon, "dead_letter_undelivered", "open/0")["verdict"]
    secured.produce("open", [(None, "good")] * 2, 1)
    daemon.wait_for(lambda: len(recording.all(partition=1)) == 2, what="the other partition")
    secured.grant(WRITE, TOPIC, "dead")
    daemon.wait_for(lambda: recording.all(partition=0, offset=4), what="the message behind the dead letter")

    secured.revoke(READ, GROUP, group)
    secured.produce("open", [(None, "commit")], 1)
    daemon.wait_for(lambda: recording.all("commit-False"), what="the refused commit")
    _said(daemon, "commit_failed", group, f"Grant this user Read on the group {group}")
    refused = until(daemon, "commit_refused", "open/1")["verdict"]
    secured.grant(READ, GROUP, group)
    secured.revoke(READ, TOPIC, "closed")
    secured.produce("closed", [(None, "good")] * 2, 0)
    secured.produce("open", [(None, "good")], 1)
    daemon.wait_for(lambda: recording.all(topic="open", partition=1, offset=3), what="the topic that is still allowed")
    secured.grant(READ, TOPIC, "closed")
    everything = {("open", 0): 5, ("open", 1): 4, ("closed", 0): 5}
    daemon.wait_for(lambda: secured.committed(group) == everything, what="every offset")
    daemon.wait_for(lambda: len(recording.all("other")) == 9, what="the other group's messages")
    assert daemon.stop() == 0

    assert "a restart would repeat it" in refused
    assert recording.all("commit-True") == []
    assert [letter.value() for letter in secured.read_all("dead")] == [b"bad"]
    assert [event["restarts"] for event in daemon.events("worker_started")] == [0]
    assert {each.offset for each in recording.all(topic="open", partition=0)} == set(range(5))


def _said(daemon: Daemon, event: str, resource: str, remedy: str) -> None:
    daemon.wait_for(
        lambda: [line for line in daemon.events(event) if resource in line["error"] and remedy in line["error"]],
        what=f"{event} with {remedy!r}",
    )


EXACT = """
    from swarm import App, Backoff
    from recording import record

    app = App("shop")

    @app.subscribe("orders", delivery="exactly_once", backoff=Backoff(initial=0.2, maximum=0.5))
    def copy(messages, consumer):
        for message in messages:
            record(message)
            consumer.producer.produce("receipts", message.raw)
"""


def test_a_transaction_that_is_forbidden_is_said_and_happens_once_it_is_granted(
    secured: SecuredBroker, group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """The right to the transactional id, then the one to the topic of the outputs: nothing is lost meanwhile, and nothing comes out twice."""
    daemon = swarm_project(
        EXACT,
        {
            "swarm": {"workers": 1, "group_id": group},
            "kafka": LOGIN,
        },
        bootstrap=secured.secured,
    )
    daemon.expect_errors("consume_failed", "transactional_producer_replaced", "transaction_aborted")
    Recording(daemon.folder)
    for name in ("orders", "receipts"):
        secured.create_topic(name, 1)
    secured.produce("orders", [(None, str(number)) for number in range(5)], 0)
    secured.grant(READ, TOPIC, "orders")
    secured.grant(READ, GROUP, group)

    def said(what: str) -> bool:
        names = ("transactional_producer_replaced", "transaction_aborted", "client_error", "consume_failed")
        return any(what in line.get("error", "") for name in names for line in daemon.events(name))

    daemon.start()
    daemon.wait_for(lambda: said("Transactional Id authorization failed"), what="the transactional id to be said")
    assert "its transaction did not come about" in until(daemon, "transaction_refused", "orders/0")["verdict"]
    secured.grant(WRITE, ResourceType.TRANSACTIONAL_ID, "*")
    daemon.wait_for(lambda: said("Topic authorization failed"), what="the output topic to be said")
    until(daemon, "failing", "orders/0")
    assert secured.committed(group).get(("orders", 0), 0) == 0
    secured.grant(WRITE, TOPIC, "receipts")
    daemon.wait_for(lambda: secured.committed(group) == {("orders", 0): 5}, what="the end", within=60)
    assert daemon.stop() == 0

    outputs = [message.value() for message in secured.read_all("receipts", read_committed=True)]
    assert outputs == [b"%d" % number for number in range(5)]
    assert [event["restarts"] for event in daemon.events("worker_started")] == [0]


BEFORE = """
    from swarm import App, DeadLetter
    from recording import record

    app = App("shop")

    @app.each("orders", delivery="at_most_once", dead_letter=DeadLetter("dead"))
    def order(message):
        record(message)
        if message.raw == b"bad":
            raise ValueError("no order")
"""


def test_at_most_once_runs_nothing_while_its_commit_is_forbidden_and_all_of_it_once_it_is_granted(
    secured: SecuredBroker, group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """A commit that is refused is no commit: what would be handled now might be handled again. A dead letter that is refused is waited for,
    and what stands behind it."""
    daemon = swarm_project(
        BEFORE,
        {
            "swarm": {"workers": 1, "group_id": group},
            "kafka": LOGIN,
        },
        bootstrap=secured.secured,
    )
    daemon.expect_errors("consume_failed", "dead_letter_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    secured.create_topic("orders", 1)
    secured.create_topic("dead", 1)
    secured.grant(READ, TOPIC, "orders")
    secured.grant(READ, GROUP, group)
    secured.produce("orders", [(None, str(number)) for number in range(3)], 0)

    daemon.start()
    daemon.wait_for(lambda: len(recording.all()) == 3, what="what is allowed")
    secured.revoke(READ, GROUP, group)
    secured.produce("orders", [(None, str(number)) for number in range(3, 6)], 0)
    _said(daemon, "commit_failed", group, f"Grant this user Read on the group {group}")
    assert "its offset could not be committed first" in until(daemon, "commit_refused", "orders/0")["verdict"]
    assert len(recording.all()) == 3
    secured.grant(READ, GROUP, group)
    daemon.wait_for(lambda: secured.committed(group) == {("orders", 0): 6}, what="the rest", within=60)
    daemon.wait_for(lambda: len(recording.all()) == 6, what="the rest to be handled")
    secured.produce("orders", [(None, "bad"), (None, "good")], 0)
    _said(daemon, "dead_letter_failed", "dead", "Grant this user Write on the topic dead")
    assert recording.all(offset=7) == []
    secured.grant(WRITE, TOPIC, "dead")
    daemon.wait_for(lambda: recording.all(offset=7), what="the message behind the dead letter")
    assert daemon.stop() == 0

    assert [letter.value() for letter in secured.read_all("dead")] == [b"bad"]
    assert recording.offsets("orders")[0] == list(range(8))
    assert daemon.events("message_dropped") == []
    assert [event["restarts"] for event in daemon.events("worker_started")] == [0]
