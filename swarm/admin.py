"""The port over confluent-kafka's AdminClient: asks the cluster who holds which partition of a group. In workers only, after the fork.

Everything here blocks, for a few seconds at most, and is called by a thread of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from swarm.ownership import Census

PATIENCE: Final = 5.0
"""Seconds for each of two answers."""


def take_census(properties: Mapping[str, Any], group: str) -> Census:
    """What a group looks like to the broker now, and which topics there are; raises KafkaException where it does not say.

    Needs Describe on the group and its topics, which Read implies. Makes a client of its own, because confluent-kafka's consumers
    cannot ask this, and lets it go.
    """
    silent = logging.Logger("swarm.admin", level=logging.CRITICAL + 1)
    client = AdminClient({**properties, "log_level": 2}, logger=silent)
    about = client.list_topics(timeout=PATIENCE).topics
    described = client.describe_consumer_groups([group], request_timeout=PATIENCE)[group].result()
    return Census(
        described.state == ConsumerGroupState.STABLE,
        {name: len(each.partitions) for name, each in about.items() if each.error is None},
        frozenset((p.topic, p.partition) for m in described.members for p in m.assignment.topic_partitions),
        len(described.members),
    )
