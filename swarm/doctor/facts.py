"""What `doctor` looks at, as values: settings, application, machine, daemon, cluster, past. Gathers nothing and judges nothing.

Ages and times are in seconds, memory in bytes, offsets are next offsets, as everywhere. Whatever could not be found out is None or
missing, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from swarm.config import Settings

Place = tuple[str, int]
"""(topic, partition)."""
Seat = tuple[str, str, int]
"""(group, topic, partition)."""

LIBRDKAFKA_DEFAULTS: Final[Mapping[str, str]] = {
    "max.poll.interval.ms": "300000",
    "session.timeout.ms": "45000",
    "heartbeat.interval.ms": "3000",
    "group.protocol": "classic",
    "isolation.level": "read_committed",
    "acks": "-1",
}
"""Of the properties that rules read (CONFIGURATION.md of librdkafka 2.16)."""
STOCK: Final = "librdkafka's default"


@dataclass(frozen=True, slots=True)
class Value:
    """A librdkafka property in use, and where it was set."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Write:
    """A place in a handler's code that changes what several threads may see.

    kind: `global` (a module's name is rebound from its old value), `container` (a module's list, dict or set), `class` (one that the
    instances of a class share), `instance` (an attribute of an instance that several threads run, with virtual partitions).
    """

    kind: str
    name: str
    where: str
    code: str


@dataclass(frozen=True, slots=True)
class Handoff:
    """A place in a handler's code that hands messages to a `queue`, a `pool` or an event `loop` (kind), and waits for nothing.

    sure: false where the handler does something with them itself, or hands over what a function has made of them.
    """

    kind: str
    name: str
    where: str
    code: str
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription as the application declares it. limit: seconds that a job of it may run, 0.0: none. waits: whether messages
    of it may have to wait on purpose (`rate_limit=`, `not_before=`, `max_wait=`). bound: its partitions are bound to workers
    (`partitions=`)."""

    label: str
    topics: tuple[str, ...] = ()
    pattern: str | None = None
    max_messages: int = 500
    limit: float = 300.0
    long_running: bool = False
    exactly_once: bool = False
    waits: float = 0.0
    dead_letter: str | None = None
    writes: tuple[Write, ...] = ()
    handoffs: tuple[Handoff, ...] = ()
    bound: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group of the application. members: how many workers are in it. source: where its name comes from."""

    name: str
    source: str
    members: int
    subscriptions: tuple[Subscription, ...]
    properties: Mapping[str, Value] = field(default_factory=dict)

    def value(self, name: str) -> Value:
        """A property in use."""
        return self.properties.get(name) or Value(LIBRDKAFKA_DEFAULTS.get(name, ""), STOCK)

    def seconds(self, name: str) -> float:
        """A property in milliseconds, as seconds; infinite where it is no number, which is for librdkafka to refuse."""
        text = self.value(name).text
        return int(text) / 1000 if text.isascii() and text.isdigit() else float("inf")

    def said(self, name: str) -> str:
        """A property for people, with its source."""
        value = self.value(name)
        return f"{name} = {value.text} ({value.source})"

    @property
    def new_protocol(self) -> bool:
        """Whether the broker decides about sessions and assignments (KIP-848)."""
        return self.value("group.protocol").text.lower() == "consumer"

    @property
    def exactly_once(self) -> bool:
        """Whether its runs are transactions."""
        return any(each.exactly_once for each in self.subscriptions)

    @property
    def topics(self) -> frozenset[str]:
        """Topics that are subscribed by name."""
        return frozenset(topic for each in self.subscriptions for topic in each.topics)


@dataclass(frozen=True, slots=True)
class Application:
    """The application, loaded in a short-lived child. groups_again: the names that a second load, in another process, gave;
    again_failed: why there are none although it was tried."""

    name: str
    groups: tuple[Group, ...]
    groups_again: tuple[str, ...] = ()
    again_failed: str = ""
    import_bytes: int | None = None
    listeners: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine, and what is installed. environment: what bears upon the allocator, of `whose` process."""

    host: str
    python: str
    confluent_kafka: str
    librdkafka: str
    allocator: str = "glibc"
    environment: Mapping[str, str] = field(default_factory=dict)
    whose: str = "this process"


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches that really ran: how many, of how many messages, in how many seconds, and the longest. source: who measured it."""

    count: int
    messages: int
    seconds: float
    longest: float
    source: str
    where: str = ""
    """A topic; "" where it is of all topics together."""

    @property
    def mean(self) -> float:
        """Seconds for a batch."""
        return self.seconds / self.count if self.count else 0.0

    @property
    def each(self) -> float:
        """Seconds for a message."""
        return self.seconds / self.messages if self.messages else 0.0


@dataclass(frozen=True, slots=True)
class Held:
    """A partition that a worker of the daemon holds. position: behind what was handed to handlers."""

    seat: Seat
    position: int
    committed: int | None
    paused: bool = False
    standing: float | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker of the running daemon."""

    index: int
    pid: int | None
    state: str
    health: str
    uptime: float | None
    job_age: float | None = None
    listener_errors: int = 0
    rebalances: int = 0
    memory: Mapping[str, int | None] = field(default_factory=dict)
    held: tuple[Held, ...] = ()

    @property
    def label(self) -> str:
        """How people call it."""
        return f"worker {self.index}" + (f" (pid {self.pid})" if self.pid is not None else "")


@dataclass(frozen=True, slots=True)
class Daemon:
    """The running daemon, as `status` shows it. findings: what it says by itself, in the form of a finding."""

    pid: int
    workers: tuple[Worker, ...]
    allocator: str = ""
    findings: tuple[Mapping[str, Any], ...] = ()
    unowned: tuple[tuple[Seat, float], ...] = ()
    reload_error: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a group, as the broker knows it."""

    client_id: str
    instance_id: str | None
    host: str
    held: frozenset[Place] = frozenset()

    @property
    def label(self) -> str:
        """How it is called in evidence."""
        name = f"{self.instance_id} (client.id {self.client_id})" if self.instance_id else f"client.id {self.client_id}"
        return f"{name} at {self.host.lstrip('/')}"


@dataclass(frozen=True, slots=True)
class LiveGroup:
    """A group on the broker. stable: not in the middle of a rebalance."""

    name: str
    stable: bool
    members: tuple[Member, ...] = ()

    def owner(self, place: Place) -> Member | None:
        """Who holds a partition."""
        return next((member for member in self.members if place in member.held), None)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic on the broker. newest: the latest timestamp of its records (s since the epoch)."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] = field(default_factory=dict)
    newest: float | None = None

    @property
    def min_insync(self) -> int | None:
        """`min.insync.replicas`."""
        text = self.config.get("min.insync.replicas", "")
        return int(text) if text.isdigit() else None


@dataclass(frozen=True, slots=True)
class Look:
    """One look at what moves. at: a monotonic instant; wall: s since the epoch. ends, stable: high watermarks and last stable
    offsets. done: how far each group is: what handlers got where the daemon tells it, else what is committed."""

    at: float
    wall: float
    ends: Mapping[Place, int] = field(default_factory=dict)
    stable: Mapping[Place, int] = field(default_factory=dict)
    done: Mapping[Seat, int] = field(default_factory=dict)
    groups: Mapping[str, LiveGroup] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cluster:
    """The live cluster. config: of a broker, empty where it may not be asked. strangers: groups with members of our name that are
    none of the application's. withheld: for how long the first record behind a last stable offset has been there (s).
    missing: what could not be asked, with the reason."""

    brokers: int
    config: Mapping[str, str] = field(default_factory=dict)
    topics: Mapping[str, Topic] = field(default_factory=dict)
    groups: Mapping[str, LiveGroup] = field(default_factory=dict)
    strangers: tuple[LiveGroup, ...] = ()
    looks: tuple[Look, ...] = ()
    withheld: Mapping[Place, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def number(self, name: str) -> int | None:
        """A whole number of the broker's configuration."""
        text = self.config.get(name, "")
        return int(text) if text.lstrip("-").isdigit() else None


@dataclass(frozen=True, slots=True)
class StopLimit:
    """How long whoever runs the daemon waits between TERM and KILL. seconds: infinite where it waits without end."""

    seconds: float
    name: str
    source: str


@dataclass(frozen=True, slots=True)
class Handovers:
    """How often a partition went from one worker to another in the last `span` seconds, as the journal tells."""

    seat: Seat
    times: int
    span: float


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it. Why a part is None is in `missing`, by its name."""

    settings: Settings
    machine: Machine
    sources: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[tuple[str, str, str, str], ...] = ()
    """What `swarmctl check` says: (where, source, what, fix)."""
    producer: Mapping[str, Value] = field(default_factory=dict)
    app: Application | None = None
    daemon: Daemon | None = None
    cluster: Cluster | None = None
    unreachable: str = ""
    """Why the cluster did not answer; "" where it did, or was not asked."""
    stop_limit: StopLimit | None = None
    batches: tuple[Batches, ...] = ()
    handovers: tuple[Handovers, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    def said(self, where: str) -> str:
        """A setting for people: `swarm.workers = 4 (swarm.toml)`. Of the sections, not of [kafka], whose values may be secret."""
        section, _, key = where.partition(".")
        value = getattr(getattr(self.settings, section), key)
        return f"{where} = {plain(value)} ({self.source(where)})"

    def source(self, where: str) -> str:
        """Where a setting comes from."""
        return self.sources.get(where, "default")

    def produced(self, name: str) -> Value:
        """A property of the producers in use."""
        return self.producer.get(name) or Value(LIBRDKAFKA_DEFAULTS.get(name, ""), STOCK)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The application's groups; none where it does not load."""
        return self.app.groups if self.app is not None else ()

    def live(self, group: Group) -> LiveGroup | None:
        """A group as the broker knows it."""
        return self.cluster.groups.get(group.name) if self.cluster is not None else None

    def subscribed(self) -> Iterator[tuple[Group, Subscription, Topic]]:
        """Topics of the cluster that are subscribed by name, with who subscribes them."""
        known = self.cluster.topics if self.cluster is not None else {}
        for group in self.groups:
            for each in group.subscriptions:
                yield from ((group, each, known[topic]) for topic in each.topics if topic in known)


def plain(value: object) -> str:
    """A value of a setting as one would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g} s"
    return str(value)


def listed(things: Iterable[str], most: int = 6) -> str:
    """Things for people; the first ones where they are many."""
    shown = list(dict.fromkeys(things))
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
