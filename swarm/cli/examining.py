"""`swarmctl doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarm.cli.options import FAILED, dump, json_option, with_app, with_selection, with_settings
from swarm.cli.root import cli
from swarm.errors import SwarmError

if TYPE_CHECKING:
    from swarm.doctor import Diagnosis


@cli.command(short_help="Look for every known cause of trouble.")
@with_settings
@with_app
@with_selection
@json_option
@click.option(
    "--manifest",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="F",
    help="The unit file or Kubernetes manifest that runs it: its stop timeout is compared.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 300),
    metavar="S",
    help="Between the first and the last look at offsets; default: 1 to 15, what it takes to tell. 0: one look, no trends.",
)
@click.option("-v", "--verbose", is_flag=True, help="List also what was found in order.")
def doctor(
    config: Path | None,
    overrides: tuple[str, ...],
    app: str | None,
    workers: str | None,
    manifest: Path | None,
    seconds: float | None,
    *,
    as_json: bool,
    verbose: bool,
    **selection: tuple[str, ...],
) -> int:
    """Look for every known cause of trouble in settings, app, cluster and the running daemon, and say how to mend it.

    \b
      swarmctl doctor
      swarmctl doctor --verbose --seconds 30
      swarmctl doctor --manifest deploy/statefulset.yaml
      swarmctl doctor --json | jq -r '.findings[] | .severity + " " + .what'

    It changes nothing, and works with and without a running daemon. Exit code 1 from a warning on.
    """
    from swarm.config import SettingsError, load_settings
    from swarm.doctor import display, examine
    from swarm.doctor.gathering import gather

    try:
        loaded = load_settings(config, overrides=overrides, app=app, workers=workers, selection=selection)
    except SettingsError as error:
        return _show(display.of_problems(error.problems), as_json=as_json, verbose=verbose)
    try:
        facts = gather(loaded, manifest, seconds)
    except OSError as error:
        raise SwarmError(f"doctor: {manifest} cannot be read: {error.strerror}.") from None
    return _show(examine(facts), as_json=as_json, verbose=verbose)


def _show(diagnosis: Diagnosis, *, as_json: bool, verbose: bool) -> int:
    from swarm.doctor import display

    if as_json:
        dump(display.as_json(diagnosis))
    else:
        click.echo(display.text(diagnosis, verbose=verbose))
    return 0 if diagnosis.healthy else FAILED
