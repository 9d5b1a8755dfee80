"""The port over confluent-kafka's AdminClient: asks the cluster about topics, groups and offsets. In short-lived children, and in commands.

Everything here blocks, for a few seconds at most: it is called in a child of the supervisor (`supervisor/census.py`), and in a command
after everything that forks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import (
    ConsumerGroupState,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # said in __all__ nowhere
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from swarm.client import common_properties
from swarm.errors import describe
from swarm.ownership import Census, unowned
from swarm.plan import Plan

PATIENCE: Final = 5.0
"""Seconds for the answer to a simple question."""


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


def tell_owners(
    groups: Callable[[], Mapping[str, Sequence[Plan]]], kafka: Mapping[str, Any], tell: Callable[[dict[str, Any]], None]
) -> None:
    """Find out which partitions of these groups nobody has. In the child. `groups` is called there, for it may have to import the app; kafka:
    as set. Blocks for some 10 s a group at most."""
    try:
        asked = groups()
    except BaseException as error:
        tell({"group": "", "error": describe(error)})
        return
    for group, plans in asked.items():
        properties = dict(kafka)
        for plan in plans:
            properties.update(plan.kafka)
        try:
            found = unowned(take_census(common_properties(properties), group), plans)
        except Exception as error:
            tell({"group": group, "error": describe(error)})
        else:
            tell({"group": group, "unowned": found})


Place = tuple[str, int]
"""Topic and partition."""
LONG_PATIENCE: Final = 15.0
"""Seconds for an answer about many partitions."""
_SETTINGS: Final = (
    "retention.ms",
    "retention.bytes",
    "cleanup.policy",
    "message.timestamp.type",
    "min.insync.replicas",
)


class Cluster:
    """What commands ask of a cluster. Methods block, and raise KafkaException; one thread."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self.last_error: KafkaError | None = None
        """What librdkafka said last by itself: why nobody answers, say."""
        silent = logging.Logger("swarm.admin", level=logging.CRITICAL + 1)
        made: dict[str, Any] = {**properties, "log_level": 2, "error_cb": self._on_error}
        self._raw = AdminClient(made, logger=silent)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # which says less than what came before it
            self.last_error = error

    def close(self) -> None:
        """End the client, whose thread calls into Python: met once, a process that ended before it ended by SIGSEGV."""
        del self._raw

    def topics(self) -> dict[str, dict[int, tuple[int, int, int]]]:
        """Every topic that we may see: partition -> (leader's id, negative: none; replicas; those in sync).

        The question that commands ask first: where no broker is there, they need not wait for long to say so.
        """
        answer = self._raw.list_topics(timeout=PATIENCE).topics
        return {
            name: {number: (p.leader, len(p.replicas), len(p.isrs)) for number, p in about.partitions.items()}
            for name, about in answer.items()
            if about.error is None
        }

    def settings(self, topics: Iterable[str]) -> dict[str, dict[str, str]]:
        """Some settings of topics; of those that we may not ask about: none. Needs DescribeConfigs."""
        asked = self._raw.describe_configs(
            [ConfigResource(ResourceType.TOPIC, name) for name in topics], request_timeout=LONG_PATIENCE
        )
        found = {}
        for resource, future in asked.items():
            try:
                entries = future.result()
            except KafkaException as error:
                if error.args[0].code() in _NOT_ALLOWED:
                    continue
                raise
            found[resource.name] = {name: str(entries[name].value) for name in _SETTINGS if name in entries}
        return found

    def offsets(self, places: Iterable[Place], which: str, *, stable: bool = False) -> dict[Place, tuple[int, int]]:
        """An offset of each partition, and its timestamp (ms; negative: none), of those whose leader answers.

        which: "first", "end" (the next one to be written; with `stable`: the end of what is committed), or "newest" (that of the largest
        timestamp; -1 where there is none).
        """
        spec: Callable[[], Any] = {
            "first": OffsetSpec.earliest,
            "end": OffsetSpec.latest,
            "newest": OffsetSpec.max_timestamp,
        }[which]
        places = list(places)
        if not places:
            return {}
        isolation = IsolationLevel.READ_COMMITTED if stable else IsolationLevel.READ_UNCOMMITTED
        asked = self._raw.list_offsets(
            {TopicPartition(*place): spec() for place in places},
            isolation_level=isolation,
            request_timeout=LONG_PATIENCE,
        )
        found = {}
        for place, future in asked.items():
            try:
                answer = future.result()
            except KafkaException as error:
                if error.args[0].code() in _UNKNOWN:
                    continue
                raise
            found[(place.topic, place.partition)] = (answer.offset, answer.timestamp)
        return found

    def holders(self, group: str) -> tuple[str, dict[Place, str]]:
        """The group's state in Kafka's word, and who holds which partition: the member's static id, else its client's id and host."""
        described = self._raw.describe_consumer_groups([group], request_timeout=LONG_PATIENCE)[group].result()
        holders = {}
        for member in described.members:
            name = member.group_instance_id or f"{member.client_id} at {str(member.host).lstrip('/')}"
            for place in member.assignment.topic_partitions:
                holders[(place.topic, place.partition)] = name
        return described.state.name.lower(), holders


_NOT_ALLOWED: Final = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
_UNKNOWN: Final = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError._NOENT,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)
