"""`swarmctl check`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarm.cli.options import FAILED, MOST_LINES, dump, json_option, with_app, with_selection, with_settings
from swarm.cli.root import cli
from swarm.wording import counted

if TYPE_CHECKING:
    from swarm.config import Loaded, Problem


@cli.command(short_help="Say what is wrong with settings and app.")
@with_settings
@with_app
@with_selection
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Show also the Kafka properties that each group will use.")
def check(
    config: Path | None,
    overrides: tuple[str, ...],
    app: str | None,
    workers: str | None,
    *,
    as_json: bool,
    verbose: bool,
    **selection: tuple[str, ...],
) -> int:
    """Say what is wrong with settings and app; starts nothing and asks no broker.

    \b
      swarmctl check
      swarmctl check -v -o kafka.session.timeout.ms=10000
      swarmctl check --json

    Exit code 1 if there is a problem. -v also lists all problems where they are many.
    """
    from swarm.config import SettingsError, load_settings

    loaded: Loaded | None = None
    problems: list[Problem]
    try:
        loaded = load_settings(config, overrides=overrides, app=app, workers=workers, selection=selection)
    except SettingsError as error:
        problems = list(error.problems)
    else:
        from swarm import preflight

        problems = preflight.check(loaded)
    properties: dict[str, dict[str, Any]] = {}
    if verbose and loaded is not None and not problems:
        from swarm import preflight

        properties = preflight.effective(loaded)
    if as_json:
        listed = [{"where": p.where, "source": p.source, "what": p.what, "fix": p.fix} for p in problems]
        answer: dict[str, Any] = {"ok": not problems, "problems": listed}
        answer["warnings"] = list(loaded.warnings) if loaded is not None else []
        dump(answer | ({"kafka": properties} if properties else {}))
        return FAILED if problems else 0
    if problems:
        return _report(problems, everything=verbose)
    assert loaded is not None
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    settings = loaded.settings.swarm
    source = loaded.path.name if loaded.path is not None else "the settings"
    click.echo(
        f"{source}: nothing wrong. app {settings.app}, name {settings.name}, {counted(settings.workers, 'worker')}"
    )
    for group, values in properties.items():
        click.echo(f"\ngroup {group}")
        for name in sorted(values):
            click.echo(f"  {name} = {values[name]}")
    return 0


def _report(problems: Sequence[Problem], *, everything: bool) -> int:
    """Problems for people, within MOST_LINES lines unless everything is asked for. Tracebacks of the application come last."""
    from swarm.config import Problem, SettingsError

    # What an application raised has its own frames below the first line.
    heads = [Problem(p.where, p.source, p.what.partition("\n")[0], p.fix) for p in problems]
    frames = "\n".join(p.what.partition("\n")[2] for p in problems).strip()
    text = SettingsError(heads).render(2 * len(heads) + 2 if everything else MOST_LINES)
    print(text + (f"\n{frames}" if frames else ""), file=sys.stderr)
    return FAILED
