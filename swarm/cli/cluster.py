"""`swarmctl lag`, `topics` and `peek`: they ask the cluster itself, whichever daemon runs or none. Join no group, commit nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarm.cli.options import dump, json_option, load, moment_of, place_of, tell, with_settings
from swarm.cli.root import cli
from swarm.errors import SwarmError

if TYPE_CHECKING:
    from swarm.config import Loaded
    from swarm.lag import Facts

_app_option = click.option("--app", metavar="M:A", help="The application, as module:attribute.")
_groups_option = click.option("--group", "groups", multiple=True, metavar="G", help="A consumer group; may be repeated. Default: the app's.")  # fmt: skip


Subscribed = dict[str, dict[str, list[str]]]
"""Group -> the topics and patterns that the app subscribes to in it."""


def _subscribed(loaded: Loaded) -> tuple[Subscribed, list[str]]:
    """What the app reads, and its dead letter topics. Forks, so no client may be there yet. Without an app: the group alone."""
    swarm = loaded.settings.swarm
    if swarm.app is None:
        return ({swarm.group_id: {}} if swarm.group_id is not None else {}), []
    from swarm import preflight

    return preflight.subscriptions(loaded)


def _stable(loaded: Loaded) -> bool:
    """Whether the groups read only what is committed, as librdkafka does by default."""
    return str(loaded.settings.kafka.get("isolation.level", "read_committed")) == "read_committed"


# -- lag -------------------------------------------------------------------------------------------------------------


@cli.command(short_help="Show how far the groups are behind, in messages and in time.")
@with_settings
@_app_option
@_groups_option
@click.option("--topic", "topics", multiple=True, metavar="T", help="Only this topic; may be repeated.")
@json_option
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0.5), default=2.0, metavar="S", help="… every S seconds; default: 2."
)
def lag(
    config: Path | None,
    overrides: tuple[str, ...],
    app: str | None,
    groups: tuple[str, ...],
    topics: tuple[str, ...],
    interval: float,
    *,
    as_json: bool,
    watch: bool,
) -> int:
    """Show how far the groups are behind on each partition, also on those that nobody holds. Asks the broker: no daemon needs to run.

    \b
      swarmctl lag
      swarmctl lag --watch --topic orders
      swarmctl lag --group billing --json | jq '.total.lag'

    Messages: the end of the log (of what is committed, unless isolation.level=read_uncommitted) minus the committed offset. Seconds: the
    age of the oldest message that is not committed, by its timestamp; 0 where nothing waits. "-" is unknown, which is not 0.
    """
    from swarm import lag as behind
    from swarm.admin import Cluster
    from swarm.cli import cluster_display
    from swarm.client import Onlooker, TopicReader, common_properties

    loaded = load(config, overrides, app=app, require_app=False)
    subscribed = {} if groups and loaded.settings.swarm.app is None else _subscribed(loaded)[0]
    if groups:
        subscribed = {group: subscribed.get(group, {}) for group in groups}
    if not subscribed:
        raise SwarmError("whose lag? Name a group with --group, or set app or group_id in swarm.toml, or --app.")
    kafka, stable = dict(loaded.settings.kafka), _stable(loaded)
    with (
        contextlib.closing(Cluster(common_properties(kafka))) as cluster,
        contextlib.closing(
            TopicReader(kafka, "", next(iter(subscribed)), everything=not stable, thrifty=True)
        ) as reader,
        contextlib.ExitStack() as stack,
    ):
        onlookers: dict[str, Onlooker] = {}

        def onlooker(group: str) -> Onlooker:
            if group not in onlookers:
                onlookers[group] = stack.enter_context(contextlib.closing(Onlooker(kafka, group)))
            return onlookers[group]

        while True:
            with _readable(kafka, "lag", lambda: cluster.last_error):
                facts = behind.gather(cluster, reader, onlooker, subscribed, stable=stable)
            answer = _lag_answer(facts, topics)
            if as_json:
                dump(answer, indent=None if watch else 2)
            else:
                click.echo(cluster_display.lag(answer) + ("\n" if watch else ""))
            if not watch:
                return 0
            sys.stdout.flush()
            time.sleep(interval)


def _lag_answer(facts: Facts, topics: Sequence[str]) -> dict[str, Any]:
    from swarm import lag as behind

    rows = [row for row in behind.rows(facts, time.time()) if not topics or row["topic"] in topics]
    return {
        "groups": [
            {
                "group": group.group,
                "state": group.state,
                "missing_topics": list(group.missing),
                **behind.total(row for row in rows if row["group"] == group.group),
            }
            for group in facts.groups
        ],
        "partitions": rows,
        "total": behind.total(rows),
    }


# -- topics ----------------------------------------------------------------------------------------------------------


@cli.command(short_help="Show the topics: partitions, replicas, messages, retention, who reads them.")
@click.argument("names", nargs=-1, metavar="[TOPIC]…")
@with_settings
@_app_option
@click.option("--all", "everything", is_flag=True, help="All topics that can be seen; default: those of the app.")
@json_option
def topics(
    names: tuple[str, ...],
    config: Path | None,
    overrides: tuple[str, ...],
    app: str | None,
    *,
    everything: bool,
    as_json: bool,
) -> int:
    """Show topics: partitions, replicas and those in sync, messages, retention, the newest timestamp, and which groups of the app read them.

    \b
      swarmctl topics
      swarmctl topics orders clicks
      swarmctl topics --all --json

    Without names: what the app reads, and its dead letter topics. Messages are the offsets between the ends of the logs, which is more
    than the messages in compacted topics and in those with transactions.
    """
    from swarm import overview
    from swarm.admin import Cluster
    from swarm.cli import cluster_display
    from swarm.client import common_properties

    loaded = load(config, overrides, app=app, require_app=False)
    subscribed, letters = _subscribed(loaded)
    if not (names or everything or subscribed):
        raise SwarmError("which topics? Name them, or all of them with --all, or set app in swarm.toml, or --app.")
    kafka = dict(loaded.settings.kafka)
    with (
        contextlib.closing(Cluster(common_properties(kafka))) as cluster,
        _readable(kafka, "topics", lambda: cluster.last_error),
    ):
        found = overview.gather(cluster, subscribed, letters, names, everything=everything)
    if names and found.missing:
        raise SwarmError(
            f"there is no topic {', '.join(found.missing)}, or it may not be described.\nswarmctl topics --all lists those that there are."
        )
    answer = {"topics": overview.rows(found), "missing_topics": found.missing}
    if as_json:
        dump(answer)
    else:
        click.echo(cluster_display.topics(answer, time.time()))
    return 0


# -- peek ------------------------------------------------------------------------------------------------------------


@cli.command(short_help="Look at messages of a topic.")
@click.argument("place", metavar="TOPIC[/PARTITION]", callback=place_of)
@with_settings
@_app_option
@click.option("--offset", type=click.IntRange(0), metavar="N", help="From this offset on.")
@click.option(
    "--time", "since", metavar="T", callback=moment_of, help='From this time on: 2026-01-31T12:00 (UTC), or "2h" ago.'
)
@click.option("--last", type=click.IntRange(1, 100_000), metavar="N", help="The newest N; the default, with 10.")
@click.option("--limit", type=click.IntRange(1, 100_000), metavar="N", help="At most so many messages; default: 10.")
@click.option("--key", metavar="TEXT", help="Only messages with this key; reads on until there are enough.")
@click.option("--group", metavar="G", help="With the deserializer that the app has in this group.")
@click.option("--raw", is_flag=True, help="Without the app's deserializer: JSON, text, or hexadecimal digits.")
@click.option("--read-committed/--read-uncommitted", "stable", default=None, help="Without or with messages of open and aborted transactions; default: as isolation.level in [kafka] says.")  # fmt: skip
@json_option
def peek(
    place: tuple[str, int | None],
    config: Path | None,
    overrides: tuple[str, ...],
    app: str | None,
    offset: int | None,
    since: int | None,
    last: int | None,
    limit: int | None,
    key: str | None,
    group: str | None,
    *,
    raw: bool,
    stable: bool | None,
    as_json: bool,
) -> int:
    """Look at messages of a topic, or of one partition. Joins no group, commits nothing, and needs no running daemon.

    \b
      swarmctl peek orders
      swarmctl peek orders/3 --offset 1200 --limit 1
      swarmctl peek orders --time 2h --key customer-17
      swarmctl peek orders --last 100 --json | jq '.messages[].value'

    Values are read by the app's deserializer where it has one for the topic. What is called a password, a token or the like is hidden, in
    JSON, text and headers, and so are the secrets of [kafka]; a message may hold others that nobody can tell.
    """
    from swarm import peeking
    from swarm.admin import Cluster
    from swarm.cli import cluster_display
    from swarm.client import TopicReader, common_properties
    from swarm.redaction import Redaction

    if sum(each is not None for each in (offset, since, last)) > 1:
        raise click.UsageError("--offset, --time and --last exclude each other: from where, or the newest ones?")
    topic, partition = place
    loaded = load(config, overrides, app=app, require_app=False)
    kafka = dict(loaded.settings.kafka)
    newest = last or (None if offset is not None or since is not None else limit or 10)
    wish = peeking.Wish(
        partition,
        offset,
        since,
        newest,
        limit or 10,
        key.encode("utf-8", "surrogateescape") if key is not None else None,
    )
    stable = _stable(loaded) if stable is None else stable
    deserializer = None if raw else _deserializer(loaded, topic, group)
    with (
        contextlib.closing(
            TopicReader(kafka, topic, peeking.GROUP, everything=not stable, thrifty=key is None)
        ) as reader,
        _readable(kafka, topic, lambda: reader.last_error),
    ):

        def withheld(partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
            if not stable:
                return {}
            with contextlib.closing(Cluster(common_properties(kafka))) as cluster:
                return peeking.held_back(cluster, topic, partitions)

        found = peeking.look(reader, topic, wish, stable=stable, withheld=withheld)
    redaction = Redaction(kafka)
    messages = [peeking.shown(record, redaction, deserializer) for record in found.records]
    hidden = sum(end - start for start, end in found.withheld.values())
    answer = {"topic": topic, "messages": messages, "notes": found.notes, "withheld": hidden}
    if as_json:
        dump(answer)
        return 0
    if messages:
        click.echo(cluster_display.messages(messages))
    for note in found.notes or ([] if messages else [f"{topic}: no such messages"]):
        tell(note)
    return 0


def _deserializer(loaded: Loaded, topic: str, group: str | None) -> Callable[[bytes], Any] | None:
    """The app's for this topic; None where it has none, or does not load, which is said."""
    settings = loaded.settings.swarm
    if settings.app is None:
        return None
    from swarm.loading import load_app

    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the app prints is not the command's answer
            application = load_app(settings.app, loaded.base_dir)
    except Exception as error:
        tell(f"the app does not load, so values are shown without its deserializer: {str(error).partition(chr(10))[0]}")
        return None
    for name, plans in application.groups(settings.group_id).items():
        for plan in plans:
            if plan.matches(topic) and group in (None, name) and plan.deserializer is not None:
                return plan.deserializer
    return None


@contextlib.contextmanager
def _readable(kafka: Mapping[str, Any], what: str, last_error: Callable[[], Any]) -> Iterator[None]:
    """A KafkaException within becomes a SwarmError that says where, why, and what to do."""
    from confluent_kafka import KafkaException

    from swarm.config import hidden, redact

    try:
        yield
    except KafkaException as error:
        failure = error.args[0]
        text = f"{failure.name()}: {failure.str()}"
        if failure.name() in {"_TRANSPORT", "_TIMED_OUT", "_ALL_BROKERS_DOWN"}:
            servers = redact({"bootstrap.servers": kafka.get("bootstrap.servers", "")})["bootstrap.servers"]
            last = last_error()
            text = f"no answer from the cluster at {servers}: {last.str() if last is not None else failure.str()}"
            text += '.\nIs it up, and is "bootstrap.servers" in [kafka] its address?'
        elif failure.name().endswith("AUTHORIZATION_FAILED"):
            text += ".\nIt needs Describe (and to look at messages Read) on the topic, and Describe on the group"
        raise SwarmError(hidden(f"{what}: {text.rstrip('.')}.", kafka).replace("?.", "?")) from None
