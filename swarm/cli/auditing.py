"""`swarmctl audit`: what was processed twice or never, and why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarm.cli.options import FAILED, dump, json_option, load, moment_of, span_of, with_settings
from swarm.cli.root import cli
from swarm.errors import SwarmError

if TYPE_CHECKING:
    from swarm.config import Loaded
    from swarm.letters import Span


@cli.command(short_help="Say what was processed twice or never, and why.")
@click.option("--since", metavar="TIME", callback=moment_of, help='Since: 2026-01-31T12:00 (UTC), or "2h" ago.')
@click.option("--until", metavar="TIME", callback=moment_of, help="Before.")
@click.option("--topic", "topics", multiple=True, metavar="T", help="Only this topic; may be repeated.")
@click.option(
    "--partition",
    "partitions",
    multiple=True,
    metavar="N",
    type=click.IntRange(0),
    help="Only this partition; may be repeated.",
)
@click.option("--group", "groups", multiple=True, metavar="G", help="Only this consumer group; may be repeated.")
@click.option("--offsets", metavar="A..B", callback=span_of, help="Only these offsets; A.. and ..B as well.")
@click.option(
    "--journal",
    "journals",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A journal, or a state directory that has one, of this or another host; may be repeated. Default: this daemon's.",
)
@click.option("--by-content", is_flag=True, help="Read the topics, too, and find messages that were produced twice.")
@with_settings
@json_option
def audit(
    since: int | None,
    until: int | None,
    topics: tuple[str, ...],
    partitions: tuple[int, ...],
    groups: tuple[str, ...],
    offsets: Span | None,
    journals: tuple[Path, ...],
    config: Path | None,
    overrides: tuple[str, ...],
    *,
    by_content: bool,
    as_json: bool,
) -> int:
    """Say which offsets were processed more than once, and which never, with the cause and the evidence: from the journals that workers
    keep. Needs no running daemon.

    \b
      swarmctl audit
      swarmctl audit --topic orders --partition 3 --offsets 1000..1100
      swarmctl audit --since 2h --json | jq '.duplicates[] | [.cause, .evidence]'
      swarmctl audit --journal /backup/host-a --journal /backup/host-b
      swarmctl audit --by-content

    Exits 1 where something is left unexplained: a duplicate whose cause is unknown, or a gap that no handler asked for
    and at-most-once does not allow.
    """
    from dataclasses import replace

    from swarm.audit import Wish
    from swarm.audit import audit as look
    from swarm.journal_reader import directories_of, read

    loaded = load(config, overrides, require_app=False, require_kafka=by_content)
    history = read(directories_of(journals or _own(loaded, config, overrides)))
    if not history.processes:
        raise SwarmError(_nothing(history.troubles))
    wish = Wish(
        frozenset(groups),
        frozenset(topics),
        frozenset(partitions),
        **({"offsets": offsets} if offsets is not None else {}),
        since=None if since is None else since / 1000,
        until=None if until is None else until / 1000,
    )
    report = look(history, wish)
    if by_content:
        more = _by_content(history, wish, dict(loaded.settings.kafka))
        report = replace(
            report,
            duplicates=report.duplicates + more.duplicates,
            troubles=report.troubles + more.troubles,
        )
    if as_json:
        dump(
            {
                "duplicates": [finding.as_json() for finding in report.duplicates],
                "gaps": [finding.as_json() for finding in report.gaps],
                "unexplained": report.unexplained,
                "messages": report.messages,
                "partitions": report.partitions,
                "processes": report.processes,
                "troubles": list(report.troubles),
                "missing": list(report.missing),
                "daemons": list(report.daemons),
                "groups": list(report.groups),
            }
        )
    else:
        from swarm import audit_display

        click.echo(audit_display.plain(report))
    return FAILED if report.unexplained else 0


def _own(loaded: Loaded, config: Path | None, overrides: Iterable[str]) -> list[Path]:
    """The journal of the daemon: it knows itself where, if it runs; else the settings say."""
    from swarm import control
    from swarm.cli.options import run_dirs
    from swarm.config import find_state_dir

    with contextlib.suppress(control.ControlError):
        answer = control.request(run_dirs(config, overrides), "status")["result"]
        return [Path(answer["state_dir"])]
    found = find_state_dir(loaded.settings)
    if found is None:
        raise SwarmError(
            "no daemon of these settings runs, and none has left a state directory of ours. Name its journal with --journal DIR."
        )
    return [found]


def _nothing(troubles: list[str]) -> str:
    said = "\n".join(troubles[:3])
    return (
        "there is no journal to look at" + (f":\n{said}" if said else ".") + "\n"
        "A daemon keeps one in its state directory (swarm.state_dir) unless journal.enabled is false. Name another with --journal DIR."
    )


def _by_content(history: Any, wish: Any, user: dict[str, Any]) -> Any:
    from confluent_kafka import KafkaException

    from swarm.audit_content import by_content
    from swarm.errors import describe

    try:
        return by_content(history, wish, user)
    except KafkaException as error:
        raise SwarmError(
            f'--by-content could not read the topic: {describe(error)}.\nIs kafka."bootstrap.servers" right, and may this user read it?'
        ) from None
