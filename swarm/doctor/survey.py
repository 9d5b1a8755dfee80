"""The port over AdminClient for `doctor`: asks the cluster once for what stands, and at each look for what moves. Judges nothing.

Runs in the command's own process, or a test's; never in the supervisor. Everything blocks, `PATIENCE` seconds for an answer at most.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import ConsumerGroupState, IsolationLevel, KafkaError, KafkaException, TopicPartition, libversion
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its re-exports are not marked as such
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from swarm.client import Onlooker, common_properties
from swarm.doctor.facts import LiveGroup, Look, Member, Place, Seat, Topic

PATIENCE: Final = 5.0
"""Seconds for one answer."""
BUDGET: Final = 20.0
"""Seconds for all that is asked once; what has not been answered by then is left out."""
MOST_PARTITIONS: Final = 2000
"""Partitions whose offsets are asked for at most."""
MOST_STRANGERS: Final = 100
"""Other groups that are described at most."""
_TOPIC: Final = ("min.insync.replicas", "message.timestamp.type", "retention.ms")
_BROKER: Final = (
    "auto.create.topics.enable",
    "default.replication.factor",
    "group.max.session.timeout.ms",
    "group.min.session.timeout.ms",
    "min.insync.replicas",
    "offsets.retention.minutes",
)

_LATEST: Final[Any] = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_NEWEST: Final[Any] = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]

Positions = Callable[[], Mapping[Seat, int]]
"""How far the daemon's handlers are, by its own word; empty where none runs."""


def versions() -> tuple[str, str]:
    """Of confluent-kafka and of librdkafka, as installed."""
    return importlib.metadata.version("confluent-kafka"), libversion()[0]


class Unreachable(Exception):
    """No broker answers; the text is librdkafka's last word."""


class Refused(Exception):
    """librdkafka makes no client of these properties."""


class Survey:
    """A client of the cluster for one examination. `missing` lists what could not be asked, and why."""

    def __init__(self, user: Mapping[str, Any]) -> None:
        """Raises Unreachable after `PATIENCE` seconds without an answer, Refused for properties of which no client can be made."""
        self._user = dict(user)
        self._why = ""
        self._deadline = time.monotonic() + BUDGET
        self._onlookers: dict[str, Onlooker] = {}
        self.missing: list[str] = []
        silent = logging.Logger("swarm.survey", level=logging.CRITICAL + 1)
        try:
            properties: dict[str, Any] = {**common_properties(user), "error_cb": self._on_error}
            self._admin = AdminClient(properties, logger=silent)
        except (KafkaException, ValueError, TypeError) as error:
            raise Refused(_text(error)) from None
        try:
            about = self._admin.list_topics(timeout=PATIENCE)
        except KafkaException as error:
            self._admin.poll(0)  # serves the callback
            raise Unreachable(self._why or _text(error)) from None
        self.brokers = len(about.brokers)
        self._broker = next(iter(about.brokers), None)
        self._about = {name: topic for name, topic in about.topics.items() if topic.error is None}

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # which says less than what came before it
            self._why = self._why or error.str()

    @property
    def names(self) -> list[str]:
        """All topics there are, as far as we may see them."""
        return list(self._about)

    # -- what stands -------------------------------------------------------------------------------------------------

    def broker_config(self) -> dict[str, str]:
        """Of one broker, what the rules read; empty where we may not ask (DescribeConfigs on the cluster)."""
        if self._broker is None:
            return {}
        resource = ConfigResource(ResourceType.BROKER, str(self._broker))
        found = self._configs("the brokers' configuration", [resource], _BROKER)
        return found.get(str(self._broker), {})

    def topics(self, names: Iterable[str]) -> dict[str, Topic]:
        """Those of the names that exist."""
        known = {name: self._about[name] for name in dict.fromkeys(names) if name in self._about}
        configs = self._configs("topics' configuration", [ConfigResource(ResourceType.TOPIC, n) for n in known], _TOPIC)
        newest = self._newest([(name, number) for name, topic in known.items() for number in topic.partitions])
        return {
            name: Topic(
                name,
                len(topic.partitions),
                min((len(p.replicas) for p in topic.partitions.values()), default=0),
                configs.get(name, {}),
                newest.get(name),
            )
            for name, topic in known.items()
        }

    def _configs(self, what: str, resources: list[ConfigResource], wanted: Sequence[str]) -> dict[str, dict[str, str]]:
        if not resources:
            return {}
        found = {}
        with self._tolerant(what):
            answers = self._admin.describe_configs(resources, request_timeout=self._left())
            for resource, answer in answers.items():
                with self._tolerant(what):
                    entries = answer.result(timeout=PATIENCE)
                    found[resource.name] = {n: str(entries[n].value) for n in wanted if n in entries}
        return found

    def _newest(self, places: Sequence[Place]) -> dict[str, float]:
        """The latest timestamp of each topic's records (KIP-734)."""
        newest: dict[str, float] = {}
        for (topic, _), info in self._offsets("the newest timestamps", places, _NEWEST).items():
            if info.timestamp >= 0:
                newest[topic] = max(newest.get(topic, 0.0), info.timestamp / 1000)
        return newest

    def strangers(self, ours: Iterable[str], is_ours: Callable[[Member], bool]) -> list[LiveGroup]:
        """Other groups that have members of our name."""
        known = set(ours)
        others: list[str] = []
        with self._tolerant("the list of groups"):
            listing = self._admin.list_consumer_groups(request_timeout=self._left()).result(timeout=PATIENCE)
            others = [
                each.group_id
                for each in listing.valid
                if each.group_id not in known and each.state != ConsumerGroupState.EMPTY
            ][:MOST_STRANGERS]
        return [group for group in self.groups(others).values() if any(is_ours(m) for m in group.members)]

    # -- what moves --------------------------------------------------------------------------------------------------

    def groups(self, names: Sequence[str]) -> dict[str, LiveGroup]:
        """Groups as their coordinators see them now."""
        found = {}
        for name, answer in self._described(names).items():
            with self._tolerant(f"the group {name}"):
                about = answer.result(timeout=PATIENCE)
                members = tuple(
                    Member(
                        member.client_id,
                        member.group_instance_id or None,
                        member.host,
                        frozenset((p.topic, p.partition) for p in member.assignment.topic_partitions),
                    )
                    for member in about.members
                )
                found[name] = LiveGroup(name, about.state == ConsumerGroupState.STABLE, members)
        return found

    def _described(self, names: Sequence[str]) -> Mapping[str, Future[Any]]:
        answers: Mapping[str, Future[Any]] = {}
        if names:
            with self._tolerant("the groups"):
                answers = self._admin.describe_consumer_groups(list(names), request_timeout=PATIENCE)
        return answers

    def look(
        self,
        groups: Mapping[str, Sequence[str]],
        positions: Positions,
        *,
        with_committed: bool,
        with_offsets: bool = True,
    ) -> Look:
        """One look. groups: name -> its topics. with_committed: also at partitions that no daemon of ours tells of.
        with_offsets: not only at who holds what."""
        at, wall = time.monotonic(), time.time()
        live = self.groups(list(groups))
        if not with_offsets:
            return Look(at, wall, groups=live)
        places = sorted({place for topics in groups.values() for place in self._places(topics)})[:MOST_PARTITIONS]
        done: dict[Seat, int] = {}
        if with_committed:
            for group, topics in groups.items():
                with self._tolerant(f"the offsets of the group {group}"):
                    found = self._onlooker(group).committed(self._places(topics)[:MOST_PARTITIONS], PATIENCE)
                    done |= {(group, *place): offset for place, offset in found.items()}
        done |= positions()  # before the ends are asked for: what is handled cannot be ahead of the log then
        return Look(
            at,
            wall,
            self._ends(places, committed=False),
            self._ends(places, committed=True),
            done,
            live,
        )

    def _places(self, topics: Iterable[str]) -> list[Place]:
        return [(name, number) for name in topics if name in self._about for number in self._about[name].partitions]

    def _ends(self, places: Sequence[Place], *, committed: bool) -> dict[Place, int]:
        isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        found = self._offsets("the ends of logs", places, _LATEST, isolation)
        return {place: info.offset for place, info in found.items() if info.offset >= 0}

    def _offsets(
        self, what: str, places: Sequence[Place], spec: Any, isolation: Any = IsolationLevel.READ_UNCOMMITTED
    ) -> dict[Place, Any]:
        if not places:
            return {}
        found = {}
        with self._tolerant(what):
            answers = self._admin.list_offsets(
                {TopicPartition(*place): spec for place in places[:MOST_PARTITIONS]},
                isolation_level=isolation,
                request_timeout=PATIENCE,
            )
            for where, answer in answers.items():
                with self._tolerant(what):
                    found[(where.topic, where.partition)] = answer.result(timeout=PATIENCE)
        return found

    def age(self, place: Place, offset: int, group: str) -> float | None:
        """For how long the record at an offset has been there (s), by its timestamp; None where that is not known."""
        made = None
        with self._tolerant("a record that is withheld"):
            made = self._onlooker(group).timestamp(*place, offset, PATIENCE)
        return None if made is None else max(0.0, time.time() - made)

    # -- behind it ---------------------------------------------------------------------------------------------------

    def _onlooker(self, group: str) -> Onlooker:
        if group not in self._onlookers:
            self._onlookers[group] = Onlooker(self._user, group)
        return self._onlookers[group]

    def _left(self) -> float:
        return max(0.1, min(PATIENCE, self._deadline - time.monotonic()))

    @contextlib.contextmanager
    def _tolerant(self, what: str) -> Iterator[None]:
        """What is refused or not answered is noted, and the rest goes on."""
        try:
            yield
        except (KafkaException, TimeoutError) as error:
            note = f"{what}: {_text(error)}"
            if note not in self.missing:
                self.missing.append(note)

    def close(self) -> None:
        """End the clients."""
        for onlooker in self._onlookers.values():
            onlooker.close()


def _text(error: BaseException) -> str:
    cause = error.args[0] if error.args else error
    return str(cause.str() if hasattr(cause, "str") else cause) or type(error).__name__
