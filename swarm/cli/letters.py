"""`swarmctl dlq`: dead letters, listed and sent back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarm.cli.options import FAILED, F, dump, json_option, load, moment_of, span_of, tell, with_settings
from swarm.cli.root import Commands, cli
from swarm.errors import SwarmError
from swarm.wording import counted

if TYPE_CHECKING:
    from swarm.letters import Selection


def _with_letters(command: F) -> F:
    """Which letters are meant: options that `list` and `replay` share."""

    def many(*names: str, metavar: str, help: str, type: Any = None) -> Callable[[F], F]:
        return click.option(*names, multiple=True, metavar=metavar, help=f"{help}; may be repeated.", type=type)

    options: list[Callable[[Any], Any]] = [
        many("--topic", "topics", metavar="T", help="A dead letter topic; default: those of the app"),
        many("--source", "sources", metavar="T", help="Only letters that came from this topic"),
        many("--partition", "partitions", metavar="N", help="… from this partition", type=click.IntRange(0)),
        click.option(
            "--offsets", metavar="A..B", callback=span_of, help="… with these offsets there; A.. and ..B as well."
        ),
        many("--group", "groups", metavar="G", help="… that this consumer group set aside"),
        many("--error", "errors", metavar="TEXT", help="… whose error's type or text contains this, in any case"),
        click.option("--attempts", metavar="A..B", callback=span_of, help="… that were attempted so often."),
        click.option(
            "--replayed", metavar="A..B", callback=span_of, help="… that were sent back so often before; 0: never."
        ),
        click.option(
            "--since", metavar="TIME", callback=moment_of, help='… produced since: 2026-01-31T12:00 (UTC), or "2h" ago.'
        ),
        click.option("--until", metavar="TIME", callback=moment_of, help="… produced before."),
        click.option(
            "--limit", metavar="N", type=click.IntRange(1), help="At most so many letters of each dead letter topic."
        ),
        click.option(
            "--progress", metavar="NAME", help="The group that remembers what was sent back; default: T.dlq-replay."
        ),
        click.option("--app", metavar="M:A", help="The application, as module:attribute."),
    ]
    for option in reversed(options):
        command = option(command)
    return with_settings(command)


def _letters(
    config: Path | None, overrides: Iterable[str], app: str | None, topics: Sequence[str], **chosen: Any
) -> tuple[dict[str, Any], list[str], Selection]:
    """[kafka], the dead letter topics, and the selection that the options mean."""
    from swarm.letters import Selection

    loaded = load(config, overrides, app=app, require_app=False)
    if not topics:
        if loaded.settings.swarm.app is None:
            raise SwarmError("which dead letters? Name their topic with --topic, or set app in swarm.toml, or --app.")
        from swarm import preflight

        topics = preflight.dead_letter_topics(loaded)
        if not topics:
            raise SwarmError(
                f"no subscription of {loaded.settings.swarm.app} has a dead letter topic (dead_letter=).\n"
                "Name one with --topic."
            )
    selection = Selection(
        frozenset(chosen["sources"]),
        frozenset(chosen["partitions"]),
        chosen["offsets"],
        frozenset(chosen["groups"]),
        tuple(chosen["errors"]),
        chosen["attempts"],
        chosen["replayed"],
        chosen["since"],
        chosen["until"],
    )
    return dict(loaded.settings.kafka), list(dict.fromkeys(topics)), selection


@cli.group(cls=Commands, short_help="Look at dead letters, and send them back.")
def dlq() -> None:
    """Look at dead letters (messages that were set aside after their attempts), and send them back. Needs no running daemon.

    \b
      swarmctl dlq list
      swarmctl dlq replay --dry-run
    """


@dlq.command("list", short_help="Show what is in there.")
@_with_letters
@json_option
def dlq_list(
    config: Path | None,
    overrides: tuple[str, ...],
    app: str | None,
    topics: tuple[str, ...],
    limit: int | None,
    progress: str | None,
    *,
    as_json: bool,
    **chosen: Any,
) -> int:
    """Show how many dead letters there are, by source topic and type of error; with --json also the letters themselves.

    \b
      swarmctl dlq list
      swarmctl dlq list --source orders --since 2h
      swarmctl dlq list --topic orders.dead --json | jq '.letters[].error'

    Reads the dead letter topics from end to end and changes nothing. Times are those of the original messages.
    """
    from swarm import replay
    from swarm.cli import letters_display

    kafka, names, selection = _letters(config, overrides, app, topics, **chosen)
    counts = letters_display.Counts()
    letters: list[dict[str, Any]] = []
    strange: list[dict[str, Any]] = []
    for name in names:
        seen = 0
        for found in replay.look_through(kafka, name, selection, progress):
            if found.letter is None:
                strange.append({"topic": name, "partition": found.partition, "offset": found.offset})
                continue
            if limit is not None and seen >= limit:
                break
            seen += 1
            counts.add(found.letter, sent_back=found.sent_back)
            if as_json:
                letters.append(letters_display.letter_json(found.letter, sent_back=found.sent_back))
    if as_json:
        dump({"topics": names, "counts": counts.rows, "letters": letters, "not_letters": strange})
        return 0
    click.echo(counts.table() if counts.rows else f"no dead letters in {', '.join(names)}" + _selected(selection))
    if strange:
        where = ", ".join(sorted({each["topic"] for each in strange}))
        tell(f"{counted(len(strange), 'record')} in {where} without a swarm.source.topic header: no dead letter")
    return 0


def _selected(selection: Selection) -> str:
    return " that are selected" if selection != type(selection)() else ""


@dlq.command("replay", short_help="Send dead letters back to where they came from.")
@_with_letters
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
@click.option("--to", metavar="TOPIC", help="Send them there; default: each letter's source topic.")
@click.option("--by-key", is_flag=True, help="Let the partitioner choose; default: the partition that each came from.")
@click.option("--now", is_flag=True, help="Give them the present time; default: each keeps its own timestamp.")
@click.option("--again", "--from-beginning", "again", is_flag=True, help="Also letters that were sent back before.")
@json_option
def dlq_replay(
    config: Path | None,
    overrides: tuple[str, ...],
    app: str | None,
    topics: tuple[str, ...],
    limit: int | None,
    progress: str | None,
    to: str | None,
    *,
    dry_run: bool,
    by_key: bool,
    now: bool,
    again: bool,
    as_json: bool,
    **chosen: Any,
) -> int:
    """Send dead letters back: key, value, own headers and timestamp as they were, without the letter's swarm.* headers, and with
    swarm.replayed, which counts how often.

    \b
      swarmctl dlq replay --dry-run
      swarmctl dlq replay --source orders --error TimeoutError
      swarmctl dlq replay --topic orders.dead --limit 10 --to orders.retry

    A letter is sent back once: what was sent is remembered in the same transaction, so a replay that was killed is simply repeated.
    Letters that arrive meanwhile are left for the next run. The letters stay in their topic. Exit code 1 where one could not be sent.
    """
    import time

    from swarm import replay
    from swarm.cli import letters_display
    from swarm.replay import Outcome, Wish

    kafka, names, selection = _letters(config, overrides, app, topics, **chosen)
    wish = Wish(selection, to, by_key, now, limit, again, progress)
    answers: list[dict[str, Any]] = []
    failed = False

    told = 0.0

    def progressed(outcome: Outcome) -> None:
        nonlocal told
        if time.monotonic() >= told + 1.0:
            told = time.monotonic()
            tell(f"{outcome.topic}: {outcome.count:,} sent back so far")

    for name in names:
        sent: list[Any] = []

        def watch(letter: Any, message: Any, sent: list[Any] = sent) -> None:
            if dry_run and as_json:
                sent.append((letter, message))
            elif dry_run:
                click.echo(letters_display.line(letter, message))

        if dry_run:
            outcome = replay.rehearse(kafka, name, wish, watch)
        else:
            outcome = replay.replay(kafka, name, wish, watch, progressed)
        failed = failed or bool(outcome.left)
        if outcome.first_time and outcome.count and not again:
            days = "7 days by default after the last replay"
            tell(f"{name}: no earlier replay is remembered (Kafka forgets it after offsets.retention.minutes, {days})")
        if as_json:
            answers.append(letters_display.outcome_json(outcome, sent if dry_run else None))
        else:
            click.echo(letters_display.summary(outcome, dry_run=dry_run))
            for text in letters_display.left_lines(outcome):
                tell(text)
    if as_json:
        dump({"dry_run": dry_run, "topics": answers})
    return FAILED if failed else 0
