"""Commands that run a swarm or tell it what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarm.cli.options import (
    group_option,
    load,
    place_of,
    run_dirs,
    tell,
    wait_option,
    with_app,
    with_selection,
    with_settings,
)
from swarm.cli.root import cli
from swarm.errors import SwarmError
from swarm.wording import plural

if TYPE_CHECKING:
    from swarm.config import Loaded


@cli.command(short_help="Run the swarm.")
@with_settings
@with_app
@with_selection
@click.option("--detach", is_flag=True, help="Run in the background; returns when the daemon is up.")
@click.option(
    "--isolate",
    metavar="TOPIC[/PARTITION]",
    help="Only this topic or partition, one worker, one thread, one message at a time; see above.",
)
@click.option("--join", is_flag=True, help="With --isolate: also where the group has other members.")
def start(
    config: Path | None,
    overrides: tuple[str, ...],
    app: str | None,
    workers: str | None,
    *,
    detach: bool,
    isolate: str | None,
    join: bool,
    **selection: tuple[str, ...],
) -> int:
    """Run the swarm: in the foreground, as systemd and containers want it, or with --detach in the background.

    \b
      swarmctl start
      swarmctl start --app shop.app:app --workers 8 -o log.format=json
      swarmctl start --detach && swarmctl status
      swarmctl start --include-group billing --exclude-topic 'clicks*'
      swarmctl start --isolate orders/3

    --isolate finds out what one partition does by itself: one worker, one processing thread, one message at a time, no listeners
    of the application's. Group, offsets, retries and dead letters are the real ones: what is handled is done and committed. It
    is for a swarm that has been stopped, so it is refused while the group has members; with --join it becomes one of them, which
    takes a share of the partitions from a running swarm, perhaps not the one that is meant, and all others of its share stand.

    TERM and Ctrl-C stop it gracefully; a second one stops it at once. It exits with 0 after a smooth stop, 1 if it could not
    boot, 2 if a worker had to be killed. In the background it appends to STATE_DIR/swarm.log what it would print.
    """
    from swarm.config import PathError
    from swarm.supervisor import succession
    from swarm.supervisor.main import run

    if join and isolate is None:
        raise click.UsageError("--join is for --isolate.")
    if isolate is not None:
        from swarm import isolation

        overrides = (*isolation.settings(isolate), *overrides)

    def loading() -> Loaded:
        return load(config, overrides, app=app, workers=workers, selection=selection)

    left = succession.heritage()
    if left is not None:
        settings, left = succession.load_again(left, loading)
        return run(settings, left=left)
    if succession.is_rehearsal():
        return succession.rehearse(loading)
    loaded = loading()
    if isolate is not None and not join:
        from swarm import preflight

        preflight.refuse_company(loaded, isolate)
    try:
        if not detach:
            return run(loaded)
        from swarm.config import choose_run_dir, choose_state_dir
        from swarm.detach import detach as detached

        log = Path(choose_state_dir(loaded.settings, choose_run_dir(loaded.settings))) / "swarm.log"
        pid = detached(lambda ready: _run_daemon(loaded, ready), log)
    except PathError as error:
        raise SwarmError(str(error)) from None
    click.echo(f"{loaded.settings.swarm.name} is up, pid {pid}, log {log}")
    return 0


def _run_daemon(loaded: Loaded, ready: Callable[[], None]) -> int:
    from swarm.config import PathError
    from swarm.supervisor.main import run

    try:
        return run(loaded, ready=ready)
    except PathError as error:
        raise SwarmError(str(error)) from None


@cli.command(short_help="Stop it gracefully.")
@with_settings
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Seconds until workers that have not finished are killed; default: swarm.shutdown_timeout.",
)
@wait_option
def stop(config: Path | None, overrides: tuple[str, ...], timeout: float | None, *, wait: bool) -> int:
    """Stop the daemon gracefully: jobs in hand are finished and committed, partitions handed over.

    \b
      swarmctl stop
      swarmctl stop --timeout 5
    """
    from swarm import control

    dirs = run_dirs(config, overrides)
    control.request(dirs, "status")  # a supervisor that cannot answer this would keep us waiting without end
    answer = control.stop(
        dirs,
        timeout=timeout,
        wait=wait,
        patience=None if timeout is None else timeout + 30.0,
        on_progress=tell,
    )
    result = answer["result"] or {}
    if not wait:
        click.echo(f"stopping (pid {answer['pid']})")
        return 0
    took = f" in {result['seconds']:.1f} s" if "seconds" in result else ""
    killed = "; a worker had to be killed" if result.get("code") == 2 else ""
    click.echo(f"stopped (pid {answer['pid']}){took}{killed}")
    return 0


def _simple(
    command: str, done: str, config: Path | None, overrides: Iterable[str], *, patience: float | None, **parameters: Any
) -> int:
    """A command that the supervisor carries out, with a sentence for when it has."""
    from swarm import control

    dirs = run_dirs(config, overrides)
    answer = control.request(dirs, command, patience=patience, on_progress=tell, **parameters)
    click.echo(f"{done} (pid {answer['pid']})")
    return 0


@cli.command(short_help="Take no new work, keep the partitions.")
@with_settings
def quiet(config: Path | None, overrides: tuple[str, ...]) -> int:
    """Take no new work, and keep the partitions; what runs is finished. `swarmctl resume` goes on.

    \b
      swarmctl quiet
    """
    return _simple("quiet", "no new work is taken", config, overrides, patience=10.0)


@cli.command(short_help="Take no new work of a topic or a partition.")
@click.argument("place", metavar="TOPIC[/PARTITION]", callback=place_of)
@group_option
@with_settings
def pause(place: tuple[str, int | None], group: str | None, config: Path | None, overrides: tuple[str, ...]) -> int:
    """Take no new work of a topic, or of one of its partitions, and keep the membership; what runs is finished and committed.

    It holds for whichever worker has the partition, also after restarts of workers, rebalances and a reload, until
    `swarmctl resume TOPIC[/PARTITION]` or the daemon's end.

    \b
      swarmctl pause orders/3
      swarmctl pause orders --group billing
    """
    return _pause("pause_partitions", "paused", place, group, config, overrides)


@cli.command(short_help="Take work again.")
@click.argument("place", metavar="[TOPIC[/PARTITION]]", required=False, callback=place_of)
@group_option
@with_settings
def resume(
    place: tuple[str, int | None] | None, group: str | None, config: Path | None, overrides: tuple[str, ...]
) -> int:
    """Take work again after `swarmctl quiet`; with a topic or a partition, after `swarmctl pause`.

    \b
      swarmctl resume
      swarmctl resume orders/3
    """
    if place is not None:
        return _pause("resume_partitions", "resumed", place, group, config, overrides)
    if group is not None:
        raise click.UsageError(
            "--group is for a topic: swarmctl resume TOPIC --group G. Without one, all work is meant."
        )
    return _simple("resume", "work is taken again", config, overrides, patience=10.0)


def _pause(
    command: str,
    done: str,
    place: tuple[str, int | None],
    group: str | None,
    config: Path | None,
    overrides: Iterable[str],
) -> int:
    from swarm import control

    topic, partition = place
    answer = control.request(
        run_dirs(config, overrides), command, topic=topic, partition=partition, group=group, patience=10.0
    )
    held = sorted({each["worker"] for each in answer["result"]["held"]})
    by = f"held by {plural(len(held), 'worker')} {', '.join(map(str, held))}" if held else "no worker holds it now"
    where = topic if partition is None else f"{topic}/{partition}"
    click.echo(f"{where} is {done}{f' in group {group}' if group else ''}: {by} (pid {answer['pid']})")
    return 0


@cli.command(short_help="Replace the workers, one after the other.")
@click.argument("worker", type=click.IntRange(0), required=False, metavar="[WORKER]")
@with_settings
@wait_option
def restart(worker: int | None, config: Path | None, overrides: tuple[str, ...], *, wait: bool) -> int:
    """Replace the workers one after the other, each when the one before is running again, or only WORKER (its number).

    The supervisor stays, and so does the groups' membership: the others notice nothing.

    \b
      swarmctl restart
      swarmctl restart 3
    """
    who = "all workers were" if worker is None else f"worker {worker} was"
    done = f"{who} replaced" if wait else "being replaced"
    return _simple("restart", done, config, overrides, patience=None if wait else 10.0, wait=wait, worker=worker)


@cli.command(short_help="Take new code and settings.")
@with_settings
@wait_option
def reload(config: Path | None, overrides: tuple[str, ...], *, wait: bool) -> int:
    """Load new code and settings, then replace the workers one after the other; refused if they do not load.

    \b
      swarmctl check && swarmctl reload
      swarmctl reload --no-wait
    """
    done = "the new code and settings are in use" if wait else "the new code and settings are being taken into use"
    return _simple("reload", done, config, overrides, patience=None if wait else 120.0, wait=wait)


@cli.command(short_help="Change the number of workers.")
@click.argument("workers", type=click.IntRange(1, 256), metavar="N")
@with_settings
@wait_option
def scale(workers: int, config: Path | None, overrides: tuple[str, ...], *, wait: bool) -> int:
    """Change the number of workers to N while the swarm runs. It lasts until the daemon ends or
    reloads; `swarm.workers` is not written.

    New workers join the groups; those with the highest numbers finish, commit and hand their partitions over.

    \b
      swarmctl scale 8
    """
    done = f"scaled to {workers}" if wait else f"scaling to {workers}"
    return _simple("scale", done, config, overrides, patience=None if wait else 10.0, workers=workers, wait=wait)
