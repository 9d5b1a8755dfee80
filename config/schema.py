"""The settings, section by section: names, kinds, defaults, meaning. Knows no file, no variable and no option.

A field's description is for people: what it means, what is expected (with the unit and range) and the default. Times are
seconds as float, sizes are bytes as int, whatever way they were written.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from swarm.config import kinds, units
from swarm.config.kinds import NAME_CHARACTERS, Kind
from swarm.config.machine import usable_cpus

MAX_WORKERS: Final = 256
LONGEST_NAME: Final = 100
LONGEST_HOST: Final = 140
"""Characters. NAME.HOST.INDEX has to fit into Kafka's limit of 249 for `group.instance.id`: 100 + 140 + 2 dots + 3 digits."""
WEEK: Final = 7 * 86400.0
"""Seconds; the longest timeout. epoll takes at most 24 days as an int of milliseconds."""
SMALLEST_MEMORY: Final = 1024**2
"""Bytes. Whoever writes less probably meant another unit, and would see every worker replaced at once."""

Property = str | int | float | bool
"""A value of a librdkafka property."""


class Section(BaseModel):
    """A frozen table of settings that knows no other keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Complete each description with what the field itself knows: its default, and what is expected."""
        super().__pydantic_init_subclass__(**kwargs)
        for field in cls.model_fields.values():
            kind = kind_of(field)
            if kind is not None:
                field.description = f"{field.description}{_default_of(field)}{_EXPECTED}{kind.expected}."


_EXPECTED: Final = " Expected: "


def setting(default: Any, meaning: str) -> Any:
    """A field with its default and its meaning (sentences)."""
    return Field(default=default, description=meaning)


def kind_of(field: FieldInfo) -> Kind | None:
    """The kind of a field; None for a table."""
    return next((mark for mark in field.metadata if isinstance(mark, Kind)), None)


def advice(field: FieldInfo) -> str:
    """What the setting means and its default, without what is expected."""
    return (field.description or "").partition(_EXPECTED)[0]


def _default_of(field: FieldInfo) -> str:
    """A sentence; empty where the default is worked out, which the meaning then says."""
    if "Default:" in (field.description or ""):
        return ""
    match field.get_default():
        case None:
            return ""
        case bool(value):
            return f" Default: {str(value).lower()}."
        case float(value) if not (kind := kind_of(field)) or kind.is_time:
            return f" Default: {units.time_text(value)}."
        case float(value):
            return f" Default: {value:g}."
        case value:
            return f" Default: {value}."


def safe_name(text: str, fallback: str, longest: int = LONGEST_NAME) -> str:
    """The text with what a name may not hold replaced by '-'; the fallback where nothing is left of it."""
    safe = re.sub(f"[^{NAME_CHARACTERS}]", "-", text)[:longest]
    return fallback if safe in {"", ".", ".."} else safe


class SwarmSection(Section):
    """`[swarm]`: the daemon itself."""

    app: Annotated[
        str | None,
        kinds.text(
            'the application as "module:attribute"',
            r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*",
            fix='Write the module as in an import, a colon, and the App\'s name in it: "shop.app:app".',
        ),
    ] = setting(None, "The application: where to import its App from. Needed by start and check.")
    name: Annotated[str, kinds.name(LONGEST_NAME)] = setting(
        "swarm",
        "This daemon's name: part of titles, paths and static member ids. Default: the first part of the app's module, or swarm.",
    )
    host: Annotated[str, kinds.name(LONGEST_HOST)] = Field(
        default_factory=lambda: safe_name(os.uname().nodename, "localhost", LONGEST_HOST),
        description="This machine in static member ids; has to be stable over restarts. Default: the host name.",
    )
    group_id: Annotated[
        str | None, kinds.text("a consumer group's name, 1 to 249 characters", r"[^\x00-\x1f\x7f]{1,249}")
    ] = setting(None, "The consumer group; literal, never built from pid, random or host. Default: the App's name.")
    workers: Annotated[
        int,
        kinds.integer(
            1,
            MAX_WORKERS,
            auto=usable_cpus,
            fix="A swarm without workers consumes nothing; set it, or SWARM_WORKERS, to 1 or more.",
        ),
    ] = setting(4, 'Worker processes. "auto": the CPUs that this process may use (affinity and cgroup).')
    preload: Annotated[bool, kinds.flag()] = setting(
        True, "Import the application before forking, so that workers share its memory (copy-on-write)."
    )
    run_dir: Annotated[Path | None, kinds.directory()] = setting(
        None,
        "Holds the control socket and the pid file. Default: the first of $RUNTIME_DIRECTORY, /run/swarm/NAME, "
        "$XDG_RUNTIME_DIR/swarm/NAME, /tmp/swarm-UID/NAME that can be made. Relative: to the settings file.",
    )
    state_dir: Annotated[Path | None, kinds.directory()] = setting(
        None,
        "Holds the journal and incidents, which outlive a restart. Default: $STATE_DIRECTORY, else a run_dir that was set "
        "outside /run, else /var/lib/swarm/NAME (root) or $XDG_STATE_HOME/swarm/NAME. Relative: to the settings file.",
    )
    include_groups: Annotated[tuple[str, ...], kinds.patterns()] = setting(
        (), "Consume only these consumer groups of the application; * and ? match. Default: all."
    )
    exclude_groups: Annotated[tuple[str, ...], kinds.patterns()] = setting(
        (), "Do not consume these consumer groups; stronger than include_groups. Default: none."
    )
    include_topics: Annotated[tuple[str, ...], kinds.patterns()] = setting(
        (), "Consume only these topics; a subscription with a pattern is named by its pattern. Default: all."
    )
    exclude_topics: Annotated[tuple[str, ...], kinds.patterns()] = setting(
        (), "Do not consume these topics; stronger than include_topics. Default: none."
    )
    isolate: Annotated[str | None, kinds.text("TOPIC or TOPIC/PARTITION", r"[A-Za-z0-9._-]{1,249}(/[0-9]{1,9})?")] = (
        setting(
            None,
            "Consume only this topic, or this partition of it, one message at a time. Set by start --isolate. Default: off.",
        )
    )
    shutdown_timeout: Annotated[float, kinds.seconds(0.001, WEEK)] = setting(
        30.0, "How long a worker may take to finish its jobs and leave before it is killed."
    )

    @model_validator(mode="before")
    @classmethod
    def _name_after_the_app(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("app"), str):
            first = re.split("[.:]", data["app"], maxsplit=1)[0]
            return {**data, "name": safe_name(first, "swarm")}
        return data


class WorkerSection(Section):
    """`[worker]`: what runs inside each worker."""

    concurrency: Annotated[int, kinds.integer(1, 256)] = setting(
        4, "Processing threads in each worker; a partition has one job at a time whatever it is."
    )
    commit_interval: Annotated[float, kinds.seconds(0.01, 3600.0)] = setting(
        5.0, "How often stored offsets are committed. A crash repeats what was processed since."
    )
    max_messages: Annotated[int, kinds.integer(0, 10**15)] = setting(
        0, "Recycle a worker after this many messages, spread by some jitter; one worker at a time. 0: never."
    )


class RestartBackoff(Section):
    """`supervision.restart_backoff`: delays between the starts of a worker that keeps dying."""

    initial: Annotated[float, kinds.seconds(0.0, 3600.0)] = setting(0.0, "The delay before the first restart.")
    factor: Annotated[float, kinds.number(1.0, 100.0)] = setting(2.0, "What each further delay is multiplied by.")
    maximum: Annotated[float, kinds.seconds(0.1, 86400.0)] = setting(30.0, "The longest delay.")
    reset_after: Annotated[float, kinds.seconds(0.0, WEEK)] = setting(
        60.0, "A run of this length starts the count anew."
    )


class SupervisionSection(Section):
    """`[supervision]`: when a worker is replaced."""

    check_interval: Annotated[float, kinds.seconds(0.01, 5.0)] = setting(
        1.0, "How often the supervisor looks without an event to wake it. /healthz expects it well within 10 s."
    )
    static_membership: Annotated[bool, kinds.flag()] = setting(
        True, "Give each worker the stable group.instance.id NAME.HOST.INDEX: its restart causes no rebalance."
    )
    refused_seat: Annotated[Literal["wait", "dynamic"], kinds.choice("wait", "dynamic")] = setting(
        "wait",
        "With group.protocol=consumer the broker refuses a worker whose predecessor was killed until that one's session is over (45 s by "
        "default): the worker waits for its seat, or joins under a fresh, dynamic identity (dynamic), which rebalances the group.",
    )
    on_stop: Annotated[Literal["leave", "keep"], kinds.choice("leave", "keep")] = setting(
        "leave",
        "A stop of the whole swarm hands its partitions over at once (leave) or holds the seats for a restart (keep).",
    )
    report_timeout: Annotated[float, kinds.seconds(0.5, WEEK)] = setting(
        30.0, "A worker whose loop has not come round for this long is replaced."
    )
    poll_timeout: Annotated[float, kinds.seconds(0.5, WEEK)] = setting(
        60.0, "A worker that has not polled for this long is replaced."
    )
    join_timeout: Annotated[float, kinds.seconds(1.0, WEEK, off=True)] = setting(
        600.0,
        "A worker that has not joined its group for this long, though the broker answers and no error explains it, is replaced, once. "
        "Above max.poll.interval.ms: so long a rebalance may take. 0: never.",
    )
    consume_timeout: Annotated[float, kinds.seconds(0.1, WEEK)] = setting(
        300.0, "A worker with a job that runs longer is replaced (long_running and consume_timeout= override it)."
    )
    standing_timeout: Annotated[float, kinds.seconds(2.0, WEEK, off=True)] = setting(
        60.0,
        "A partition that stands still for this long while its log grows and nothing of it is in hand is sought anew; after as long "
        "again its worker is replaced. 0: never.",
    )
    ownership_interval: Annotated[float, kinds.seconds(1.0, WEEK, off=True)] = setting(
        60.0,
        "How often the broker is asked whether every subscribed partition has an owner in its group. One that has none twice in a row "
        "is an alarm (partition_unowned). 0: never.",
    )
    reload_timeout: Annotated[float, kinds.seconds(0.1, WEEK)] = setting(
        120.0,
        "A reload whose code and settings have not loaded after this long is refused, and everything goes on as it was.",
    )
    memory_limit: Annotated[int | Literal["auto"], kinds.size(SMALLEST_MEMORY, 2**50)] = setting(
        "auto",
        "A worker above it is drained and replaced. auto: 80 % of the cgroup's or machine's memory over the workers.",
    )
    memory_kill: Annotated[int | Literal["auto"], kinds.size(SMALLEST_MEMORY, 2**50)] = setting(
        "auto", "A worker above it is killed and replaced, after an incident was written. auto: 125 % of memory_limit."
    )
    memory_metric: Annotated[Literal["rss", "uss", "pss"], kinds.choice("rss", "uss", "pss")] = setting(
        "uss", "What both limits are compared with: resident, private (uss) or proportional memory."
    )
    restart_backoff: RestartBackoff = Field(
        default_factory=RestartBackoff, description="Delays between the starts of a worker that keeps dying."
    )
    max_lifetime: Annotated[float, kinds.seconds(0.1, 365 * 86400.0, off=True)] = setting(
        0.0, "Recycle a worker after this long, spread by some jitter. 0: never."
    )


class ObserverSection(Section):
    """`[observer]`: the process that serves /metrics, /healthz, /readyz and a page for people at /."""

    host: Annotated[str, kinds.text("an address or host name", r"[^\s/\x00]{1,253}")] = setting(
        "127.0.0.1", "The address it listens on; 0.0.0.0 for all."
    )
    port: Annotated[int, kinds.integer(0, 65535)] = setting(9464, "Its TCP port. 0: no observer.")


class JournalSection(Section):
    """`[journal]`: what workers keep of what they processed, for `swarmctl audit`."""

    enabled: Annotated[bool, kinds.flag()] = setting(
        True, "Keep a journal of what was processed, committed and handed over, in STATE_DIR/journal."
    )
    size: Annotated[int, kinds.capacity(1024**2, 2**40)] = setting(
        32 * 1024**2,
        "What each worker's journal takes up on disk at most; the oldest of it is dropped. Default: 32MiB.",
    )
    age: Annotated[float, kinds.seconds(60.0, 10 * 365 * 86400.0)] = setting(7 * 86400.0, "What is older is dropped.")


class LogSection(Section):
    """`[log]`: what is written to stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], kinds.choice("debug", "info", "warning", "error")
    ] = setting("info", "The least severe level that is written.")
    format: Annotated[Literal["console", "json"], kinds.choice("console", "json")] = setting(
        "console", "Lines for people, or a JSON object per line."
    )


class InstrumentationSection(Section):
    """`[instrumentation]`: who hears of what happens."""

    traces: Annotated[Literal["off", "otlp", "app"], kinds.choice("off", "otlp", "app")] = setting(
        "off",
        "OpenTelemetry spans: to a collector by OTLP over HTTP (OTEL_EXPORTER_OTLP_ENDPOINT), or to the provider that the app sets in "
        "an after_fork hook. Needs kafka-swarm[opentelemetry].",
    )
    listeners: Annotated[bool, kinds.flag()] = setting(
        True, "Call the application's own listeners. false: none of them, to see whether one of them is the trouble."
    )


class Settings(Section):
    """All settings. Frozen; `Settings()` holds the defaults. Normally made by `load_settings`."""

    swarm: SwarmSection = Field(default_factory=SwarmSection, description="The daemon itself.")
    kafka: dict[str, Property] = Field(
        default_factory=dict, description="librdkafka properties, verbatim, for every client of the swarm."
    )
    worker: WorkerSection = Field(default_factory=WorkerSection, description="What runs inside each worker.")
    supervision: SupervisionSection = Field(
        default_factory=SupervisionSection, description="When a worker is replaced."
    )
    observer: ObserverSection = Field(default_factory=ObserverSection, description="Metrics and health over HTTP.")
    journal: JournalSection = Field(
        default_factory=JournalSection, description="What workers keep of what they processed."
    )
    log: LogSection = Field(default_factory=LogSection, description="What is written to stderr.")
    instrumentation: InstrumentationSection = Field(
        default_factory=InstrumentationSection, description="Who hears of what happens."
    )


def table_of(field: FieldInfo) -> type[Section] | None:
    """The model of a field that is a table of settings; None for a value."""
    found = field.annotation
    return found if isinstance(found, type) and issubclass(found, Section) else None


def keys(model: type[Section] = Settings, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every setting, in the order of the schema: ("swarm", "app"), … Kafka's properties are not listed."""
    found: list[tuple[str, ...]] = []
    for key, field in model.model_fields.items():
        inner = table_of(field)
        if inner is not None:
            found += keys(inner, (*prefix, key))
        elif (*prefix, key) != ("kafka",):
            found.append((*prefix, key))
    return found


def field_at(path: tuple[str, ...]) -> FieldInfo:
    """The field of a path from `keys`; KeyError for any other."""
    model: type[Section] | None = Settings
    for key in path[:-1]:
        if model is None:
            raise KeyError(path)
        model = table_of(model.model_fields[key])
    if model is None:
        raise KeyError(path)
    return model.model_fields[path[-1]]
