"""Commands that make a running worker tell more."""

from __future__ import annotations

from pathlib import Path

import click

from swarm.cli.options import dump, json_option, run_dirs, wait_option, with_settings
from swarm.cli.root import cli


@cli.command(short_help="Let the Kafka clients of a worker tell everything for a while.")
@click.argument("worker", type=click.IntRange(0), required=False, metavar="[WORKER]")
@click.option(
    "--flags", metavar="F,…", help="librdkafka's debug contexts, with commas: cgrp,fetch; all is all of them."
)
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(1, 86400),
    default=60.0,
    metavar="S",
    help="Seconds after which the worker is replaced by an ordinary one; default: 60.",
)
@click.option("--off", is_flag=True, help="Replace it by an ordinary one now.")
@with_settings
@wait_option
@json_option
def debug(
    worker: int | None,
    flags: str | None,
    seconds: float,
    config: Path | None,
    overrides: tuple[str, ...],
    *,
    off: bool,
    wait: bool,
    as_json: bool,
) -> int:
    """Replace WORKER by one whose Kafka clients have librdkafka's `debug` set, under the same static id, and after --for seconds
    by an ordinary one. What the clients say goes to a file of its own in STATE_DIR/debug, secrets hidden, 256 MiB at most.

    \b
      swarmctl debug 1 --flags cgrp,fetch --for 60
      swarmctl debug 1 --off
      swarmctl debug                                  what is being debugged, and where it is written
      swarmctl debug --flags help                     the contexts that this librdkafka knows

    Each replacement finishes and commits what is in hand, and waits for others that are under way. A reload ends it, too.
    """
    from swarm import contexts, control

    if flags == "help":
        known = contexts.known()
        if as_json:
            dump({"flags": known})
        else:
            click.echo(", ".join(known) or "librdkafka could not be asked")
        return 0
    if flags is not None and worker is None:
        raise click.UsageError("--flags is for one worker: swarmctl debug 1 --flags cgrp.")
    if flags is not None and off:
        raise click.UsageError("--off ends what --flags has begun: say one of them.")
    if worker is not None and flags is None and not off:
        raise click.UsageError("say --flags F,… to begin, or --off to end it.")
    if flags is not None:
        strange = contexts.unknown(flags)
        if strange or not contexts.split(flags):
            listed = ", ".join(contexts.known())
            raise click.UsageError(
                f"librdkafka knows no debug context {', '.join(strange) or repr(flags)}; it knows {listed}."
            )
        flags = ",".join(contexts.split(flags))
    dirs = run_dirs(config, overrides)
    answer = control.request(
        dirs,
        "debug",
        worker=worker,
        flags=flags,
        seconds=seconds,
        off=off,
        wait=wait,
        patience=None if wait else 10.0,
        on_progress=lambda text: click.echo(text, err=True),
    )
    if as_json:
        dump(answer["result"])
        return 0
    if off:
        click.echo(f"worker {worker} {'was' if wait else 'is being'} replaced by an ordinary one (pid {answer['pid']})")
        return 0
    orders = answer["result"].get("debugged", [])
    if not orders and flags is None:
        click.echo(f"no worker is being debugged (pid {answer['pid']})")
    for each in orders:
        if worker in (None, each["worker"]):
            left = f"{each['left']:.0f} s more" if each["begun"] else "as soon as it is replaced"
            click.echo(f"worker {each['worker']}: debug={each['flags']}, {left}, in {each['path']}")
    return 0


@cli.command("log-level", short_help="Change what is written to the log, while it runs.")
@click.argument("level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.argument("worker", type=click.IntRange(0), required=False, metavar="[WORKER]")
@with_settings
def log_level(level: str, worker: int | None, config: Path | None, overrides: tuple[str, ...]) -> int:
    """Write the log from LEVEL on: debug, info, warning or error; of WORKER, or of all and the supervisor. At once, nothing is
    replaced; restarts of workers keep it, until the daemon's end or a reload.

    \b
      swarmctl log-level debug 1
      swarmctl log-level info
    """
    from swarm import control

    answer = control.request(run_dirs(config, overrides), "log_level", level=level, worker=worker)
    who = "everything" if worker is None else f"worker {worker}"
    click.echo(f"{who} is logged from {level} on (pid {answer['pid']})")
    return 0
