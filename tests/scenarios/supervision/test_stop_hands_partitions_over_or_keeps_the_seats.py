"""What a stop of the whole swarm means for its consumer group: `supervision.on_stop`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient

from tests.support.daemon import Daemon
from tests.support.kafka import Broker

APP = """
    from swarm import App

    app = App("seats")

    @app.subscribe("TOPIC")
    def handle(messages):
        pass
"""


@pytest.fixture
def swarms(
    topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> Callable[[str], tuple[Daemon, Daemon]]:
    """`swarms(on_stop)` -> two that run in one group as if on two machines, with Kafka's default session of 45 s."""

    def start(on_stop: str) -> tuple[Daemon, Daemon]:
        app = APP.replace("TOPIC", topic(4))
        both = [
            swarm_project(
                app,
                {"swarm": {"host": host, "group_id": group, "workers": 1}, "supervision": {"on_stop": on_stop}},
            ).start()
            for host in ("here", "there")
        ]
        for daemon in both:
            daemon.until_running()
            daemon.wait_for(lambda: len(partitions(daemon)) == 2, what="half of the partitions")  # noqa: B023
        return both[0], both[1]

    return start


def test_partitions_go_to_another_machine_at_once(
    swarms: Callable[[str], tuple[Daemon, Daemon]], broker: Broker
) -> None:
    """`leave`: the others have everything long before a session could have timed out, and nobody was evicted for it."""
    here, there = swarms("leave")

    assert here.stop() == 0
    there.wait_for(lambda: len(partitions(there)) == 4, within=20.0, what="all partitions")

    assert members(broker, here.group) == {"shop.there.0"}
    assert here.events("partitions_lost") + there.events("partitions_lost") == []


def test_seats_are_kept_for_a_restart(swarms: Callable[[str], tuple[Daemon, Daemon]], broker: Broker) -> None:
    """`keep`: the stopped swarm is still a member, finds its partitions again, and the others notice nothing."""
    here, there = swarms("keep")
    before = partitions(here)
    noticed = len(there.events("partitions_assigned") + there.events("partitions_revoked"))

    assert here.stop() == 0
    assert members(broker, here.group) == {"shop.here.0", "shop.there.0"}
    here.start().until_running()
    here.wait_for(lambda: partitions(here) == before, what="its partitions")

    assert len(there.events("partitions_assigned") + there.events("partitions_revoked")) == noticed


def partitions(daemon: Daemon) -> list[int]:
    """Those that the daemon's workers hold."""
    return sorted(each["partition"] for worker in daemon.workers() for each in worker["assignment"])


def members(broker: Broker, group: str) -> set[str]:
    """The static ids of the group's members, as the broker knows them."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    described = admin.describe_consumer_groups([group])[group].result(timeout=15.0)
    return {str(member.group_instance_id) for member in described.members}
