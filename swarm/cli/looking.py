"""Commands that show what a swarm does."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from swarm.cli.options import dump, json_option, run_dirs, with_settings
from swarm.cli.root import cli


@cli.command(short_help="Show what every worker does.")
@with_settings
@json_option
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    metavar="S",
    help="Seconds between two looks with --watch; default: 1.",
)
def status(config: Path | None, overrides: tuple[str, ...], interval: float, *, as_json: bool, watch: bool) -> int:
    """Show what every worker does: its state, load, memory and partitions, and why workers were replaced.

    \b
      swarmctl status
      swarmctl status --watch
      swarmctl status --json | jq '.workers[].assignment[].lag'

    "-" is unknown, which is not 0. A lag of 12+ is 12, and more in partitions where it is not known.
    """
    from swarm import control

    dirs = run_dirs(config, overrides)

    def ask() -> dict[str, Any]:
        result: dict[str, Any] = control.request(dirs, "status")["result"]
        return result

    if watch:
        _watch(ask, interval, as_json=as_json)
    _show_status(ask(), as_json=as_json)
    return 0


def _show_status(answer: dict[str, Any], *, as_json: bool) -> None:
    import time

    from swarm import display

    if as_json:
        dump(answer)
    elif sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(display.drawing(answer, time.time()))
    else:
        click.echo(display.plain(answer, time.time()))


def _watch(ask: Callable[[], dict[str, Any]], interval: float, *, as_json: bool) -> NoReturn:
    """Until Ctrl-C. A daemon that goes away is waited for, as it may be restarting; one that is not there at first is an error."""
    import time

    from swarm import control, display

    answer = ask()
    if as_json or not sys.stdout.isatty():
        while True:
            with contextlib.suppress(control.NotRunning):
                if as_json:
                    dump(ask(), indent=None)
                else:
                    click.echo(display.plain(ask(), time.time()) + "\n")
                sys.stdout.flush()
            time.sleep(interval)
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(display.drawing(answer, time.time()), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            try:
                live.update(display.drawing(ask(), time.time()), refresh=True)
            except control.NotRunning as error:
                live.update(str(error), refresh=True)


@cli.command(short_help="Show what every thread is doing.")
@click.argument("worker", required=False, type=click.IntRange(min=0), metavar="[WORKER]")
@with_settings
@json_option
def backtrace(worker: int | None, config: Path | None, overrides: tuple[str, ...], *, as_json: bool) -> int:
    """Show what every thread of every process is doing right now, or only those of one worker, by its index.

    \b
      swarmctl backtrace
      swarmctl backtrace 2

    It works while a handler hangs in C code. The processes go on undisturbed.
    """
    from swarm import control

    answer = control.request(run_dirs(config, overrides), "backtrace", worker=worker, patience=30.0)["result"]
    if as_json:
        dump(answer)
        return 0
    parts = []
    for process in answer["processes"]:
        number = f" {process['worker']}" if process.get("worker") is not None else ""
        text = str(process.get("text") or "").rstrip() or "(no answer)"
        parts.append(f"== {process['process']}{number}, pid {process['pid']}\n{text}")
    click.echo("\n\n".join(parts))
    return 0
