from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

from confluent_kafka.admin import AdminClient

from swarm.client import Client, consumer_properties
from tests.support.proxy import proxied_broker
from tests.support.waiting import wait_for

CONFIG = {
    "group.consumer.heartbeat.interval.ms": "500",
    "group.consumer.min.heartbeat.interval.ms": "500",
}
UNKNOWN = -1001
WITHIN = 60.0  # s; some seconds on an idle machine


class Member(threading.Thread):
    """A member of the new protocol that does as `Group.on_assigned` does, and may need long to learn where its partitions begin."""

    def __init__(self, bootstrap: str, topic: str, learn: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        properties = {"bootstrap.servers": bootstrap, "group.protocol": "consumer", "log_level": 0}
        self._client: Client | None = None
        self._learn = learn
        self.held: set[int] = set()
        self.left = threading.Event()
        self._client = Client(consumer_properties(properties, "g", None), [topic], cast(Any, self))

    def run(self) -> None:
        assert self._client is not None
        while not self.left.is_set():
            self._client.fetch(1, 0.02)
        self._client.close(leave=True, alive=lambda: None)

    def on_assigned(self, partitions: Sequence[tuple[str, int]]) -> None:
        assert self._client is not None
        self._client.take_up((*key, UNKNOWN) for key in partitions)
        if partitions:
            self._learn()
        self._client.begin((*key, 0) for key in partitions)
        self.held |= {partition for _, partition in partitions}

    def on_revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        self.held -= {partition for _, partition in partitions}

    def ignore(self, *_: object) -> None:
        """Committed, error: not what this is about."""

    on_lost = on_revoked
    on_committed = on_error = ignore


def test_partitions_that_are_taken_up_at_once_are_nobody_elses_although_the_connection_breaks() -> None:
    """librdkafka repeats a heartbeat in full after a broken connection, and in the middle of an assignment it names only what was held
    before: the broker gives what is not named to others, who had it for as long as the first member went on asking."""
    learning, learnt = threading.Event(), threading.Event()

    def learn() -> None:
        learning.set()
        learnt.wait(2 * WITHIN)

    with proxied_broker(CONFIG) as (broker, proxy):
        broker.create_topic("t", 4)
        first = Member(broker.bootstrap, "t", learn)
        first.start()
        wait_for(learning.is_set, WITHIN, "the first member's assignment")
        second = Member(broker.direct, "t", lambda: None)
        second.start()
        wait_for(lambda: _members(broker.direct) == 2, WITHIN, "the second member in the group")
        proxy.hold()
        learnt.wait(1.0)  # a heartbeat is under way
        proxy.cut()
        proxy.heal()
        learnt.wait(3.0)  # in which the second one got them, where they were taken up too late
        before = set(second.held)
        learnt.set()
        wait_for(lambda: len(second.held) == len(first.held) == 2, WITHIN, "each member with its half")
        for member in (first, second):
            member.left.set()
        for member in (first, second):
            member.join(WITHIN)

    assert before == set()
    assert not first.is_alive()
    assert not second.is_alive()


def _members(bootstrap: str) -> int:
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    return len(client.describe_consumer_groups(["g"])["g"].result(10).members)
