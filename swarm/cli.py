"""`swarmctl`: reads arguments, calls what does the work, prints the answer. Knows commands and exit codes; decides nothing.

Everything but click is imported by the command that needs it, so that `swarmctl status` answers at once. Exit codes: 0 done;
1 a mistake of the user's, a refusal, or "not running"; `start` ends with the supervisor's own (`swarm.exits`); 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from swarm import __version__
from swarm.errors import SwarmError

if TYPE_CHECKING:
    from swarm.config import Loaded, Problem
    from swarm.letters import Selection, Span

F = TypeVar("F", bound=Callable[..., Any])

FAILED: Final = 1
INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell would say it
MOST_LINES: Final = 6
"""Lines of a message about a user's mistake; an application's own traceback comes on top."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's) and return the exit code. Never raises for a user's mistake."""
    threads = set(threading.enumerate())
    try:
        result = cli.main(list(arguments) if arguments is not None else None, "swarmctl", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return FAILED
    except click.ClickException as error:
        return _fail(_usage(error))
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SwarmError as error:
        code = _fail(str(error), getattr(error, "frames", ""), getattr(error, "code", FAILED))
        if any(not thread.daemon for thread in set(threading.enumerate()) - threads):
            # Those of an application that was refused: Python would wait for them, perhaps for ever.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code
    except BrokenPipeError:
        # Whoever read our output has had enough (`| head`). Python would complain once more when it flushes at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _fail(text: str, frames: str = "", code: int = FAILED) -> int:
    lines = text.rstrip().splitlines()
    if len(lines) > MOST_LINES:
        lines[MOST_LINES - 1 :] = [f"… and {len(lines) - MOST_LINES + 1} more lines: swarmctl check --json"]
    print("\n".join([*lines, *([frames.rstrip()] if frames else [])]), file=sys.stderr)
    return code


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "swarmctl"
    message = " ".join(error.format_message().split())
    return f"{command}: {message[:1].lower()}{message[1:]}\nSee {command} --help."


class _Commands(click.Group):
    """A group that lists its commands in the order of their first use, and suggests the one that was meant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            import difflib

            near = [c for c in self.commands if c.startswith(name)] or difflib.get_close_matches(name, self.commands, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.commands)}."
            raise click.UsageError(f"there is no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"swarmctl {__version__}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def cli() -> None:
    """Run a Kafka consumer application in N processes, and keep it running.

    \b
    See it work, with nothing else installed:      swarmctl demo
    Begin an application:                          swarmctl init shop
    Run it, look at it, ask why it is stuck:       swarmctl start
                                                   swarmctl status --watch
                                                   swarmctl backtrace

    Settings come from --config F, else $SWARM_CONFIG, else ./swarm.toml; then from the environment (SWARM_WORKERS=8,
    SWARM_KAFKA__BOOTSTRAP_SERVERS=…); then from options. All commands but start and dlq find the daemon by its run directory.
    """


# -- options that several commands share -----------------------------------------------------------------------------


def _with_settings(command: F) -> F:
    """--config and -o, which every command takes that looks for settings or the daemon."""
    config = click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="F",
        help="The settings file; default: $SWARM_CONFIG, else ./swarm.toml.",
    )
    overrides = click.option(
        "-o",
        "overrides",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="A setting, stronger than file and environment; may be repeated.",
    )
    return config(overrides(command))


def _with_app(command: F) -> F:
    app = click.option("--app", metavar="M:A", help="The application, as module:attribute.")
    workers = click.option("--workers", metavar="N", help='How many worker processes; "auto": one for each CPU.')
    return app(workers(command))


def _with_selection(command: F) -> F:
    """--include-group and the like: which of the app's groups and topics to consume."""
    for verb, meaning in (("exclude", "Do not consume this {}"), ("include", "Consume only this {}")):
        for noun, what in (("topic", "topic"), ("group", "consumer group")):
            text = f"{meaning.format(what)}; a name, or a pattern with * and ?; may be repeated."
            command = click.option(f"--{verb}-{noun}", multiple=True, metavar=noun[0].upper(), help=text)(command)
    return command


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
_wait_option = click.option("--wait/--no-wait", default=True, help="Wait until it is done (the default).")


def _load(config: Path | None, overrides: Iterable[str], **more: Any) -> Loaded:
    """The settings; a user's mistakes become a SwarmError with one text."""
    from swarm.config import SettingsError, load_settings

    try:
        return load_settings(config, overrides=tuple(overrides), **more)
    except SettingsError as error:
        raise SwarmError(error.render(MOST_LINES)) from None


def _run_dirs(config: Path | None, overrides: Iterable[str]) -> list[Path]:
    """Where a daemon of these settings may be found. Neither an app nor a broker has to be set for that."""
    from swarm.config import find_run_dirs

    loaded = _load(config, overrides, require_app=False, require_kafka=False)
    return [Path(path) for path in find_run_dirs(loaded.settings)]


def _dump(value: Any, *, indent: int | None = 2) -> None:
    import json

    click.echo(json.dumps(value, indent=indent, ensure_ascii=False))


def _progress(text: str) -> None:
    click.echo(text, err=True)


# -- running ---------------------------------------------------------------------------------------------------------


@cli.command(short_help="Run the swarm.")
@_with_settings
@_with_app
@_with_selection
@click.option("--detach", is_flag=True, help="Run in the background; returns when the daemon is up.")
def start(
    config: Path | None,
    overrides: tuple[str, ...],
    app: str | None,
    workers: str | None,
    *,
    detach: bool,
    **selection: tuple[str, ...],
) -> int:
    """Run the swarm: in the foreground, as systemd and containers want it, or with --detach in the background.

    \b
      swarmctl start
      swarmctl start --app shop.app:app --workers 8 -o log.format=json
      swarmctl start --detach && swarmctl status
      swarmctl start --include-group billing --exclude-topic 'clicks*'

    TERM and Ctrl-C stop it gracefully; a second one stops it at once. It exits with 0 after a smooth stop, 1 if it could not
    boot, 2 if a worker had to be killed. In the background it appends to STATE_DIR/swarm.log what it would print.
    """
    from swarm.config import PathError
    from swarm.supervisor import succession
    from swarm.supervisor.main import run

    def load() -> Loaded:
        return _load(config, overrides, app=app, workers=workers, selection=selection)

    left = succession.heritage()
    if left is not None:
        settings, left = succession.load_again(left, load)
        return run(settings, left=left)
    if succession.is_rehearsal():
        return succession.rehearse(load)
    loaded = load()
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
@_with_settings
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Seconds until workers that have not finished are killed; default: swarm.shutdown_timeout.",
)
@_wait_option
def stop(config: Path | None, overrides: tuple[str, ...], timeout: float | None, *, wait: bool) -> int:
    """Stop the daemon gracefully: jobs in hand are finished and committed, partitions handed over.

    \b
      swarmctl stop
      swarmctl stop --timeout 5
    """
    from swarm import control

    dirs = _run_dirs(config, overrides)
    control.request(dirs, "status")  # a supervisor that cannot answer this would keep us waiting without end
    answer = control.stop(
        dirs,
        timeout=timeout,
        wait=wait,
        patience=None if timeout is None else timeout + 30.0,
        on_progress=_progress,
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

    dirs = _run_dirs(config, overrides)
    answer = control.request(dirs, command, patience=patience, on_progress=_progress, **parameters)
    click.echo(f"{done} (pid {answer['pid']})")
    return 0


@cli.command(short_help="Take no new work, keep the partitions.")
@_with_settings
def quiet(config: Path | None, overrides: tuple[str, ...]) -> int:
    """Take no new work, and keep the partitions; what runs is finished. `swarmctl resume` goes on.

    \b
      swarmctl quiet
    """
    return _simple("quiet", "no new work is taken", config, overrides, patience=10.0)


def _place(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, int | None] | None:
    if value is None:
        return None
    topic, slash, number = value.partition("/")
    if topic and (not slash or (number.isascii() and number.isdigit())):
        return topic, int(number) if slash else None
    raise click.BadParameter(f"expected TOPIC or TOPIC/PARTITION, such as orders or orders/3, got {value!r}.")


_group_option = click.option("--group", metavar="G", help="Only for this consumer group; default: all that consume it.")


@cli.command(short_help="Take no new work of a topic or a partition.")
@click.argument("place", metavar="TOPIC[/PARTITION]", callback=_place)
@_group_option
@_with_settings
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
@click.argument("place", metavar="[TOPIC[/PARTITION]]", required=False, callback=_place)
@_group_option
@_with_settings
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
        _run_dirs(config, overrides), command, topic=topic, partition=partition, group=group, patience=10.0
    )
    held = sorted({each["worker"] for each in answer["result"]["held"]})
    many = "s" if len(held) > 1 else ""
    by = f"held by worker{many} {', '.join(map(str, held))}" if held else "no worker holds it now"
    where = topic if partition is None else f"{topic}/{partition}"
    click.echo(f"{where} is {done}{f' in group {group}' if group else ''}: {by} (pid {answer['pid']})")
    return 0


@cli.command(short_help="Replace the workers, one after the other.")
@click.argument("worker", type=click.IntRange(0), required=False, metavar="[WORKER]")
@_with_settings
@_wait_option
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
@_with_settings
@_wait_option
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
@_with_settings
@_wait_option
def scale(workers: int, config: Path | None, overrides: tuple[str, ...], *, wait: bool) -> int:
    """Change the number of workers to N while the swarm runs. It lasts until the daemon ends; `swarm.workers` is not written.

    New workers join the groups; those with the highest numbers finish, commit and hand their partitions over.

    \b
      swarmctl scale 8
    """
    done = f"scaled to {workers}" if wait else f"scaling to {workers}"
    return _simple("scale", done, config, overrides, patience=None if wait else 10.0, workers=workers, wait=wait)


# -- looking ---------------------------------------------------------------------------------------------------------


@cli.command(short_help="Show what every worker does.")
@_with_settings
@_json_option
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

    dirs = _run_dirs(config, overrides)

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
        _dump(answer)
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
                    _dump(ask(), indent=None)
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
@_with_settings
@_json_option
def backtrace(worker: int | None, config: Path | None, overrides: tuple[str, ...], *, as_json: bool) -> int:
    """Show what every thread of every process is doing right now, or only those of one worker, by its index.

    \b
      swarmctl backtrace
      swarmctl backtrace 2

    It works while a handler hangs in C code. The processes go on undisturbed.
    """
    from swarm import control

    answer = control.request(_run_dirs(config, overrides), "backtrace", worker=worker, patience=30.0)["result"]
    if as_json:
        _dump(answer)
        return 0
    parts = []
    for process in answer["processes"]:
        number = f" {process['worker']}" if process.get("worker") is not None else ""
        text = str(process.get("text") or "").rstrip() or "(no answer)"
        parts.append(f"== {process['process']}{number}, pid {process['pid']}\n{text}")
    click.echo("\n\n".join(parts))
    return 0


@cli.command(short_help="Say what is wrong with settings and app.")
@_with_settings
@_with_app
@_with_selection
@_json_option
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
        _dump(answer | ({"kafka": properties} if properties else {}))
        return FAILED if problems else 0
    if problems:
        return _report(problems, everything=verbose)
    assert loaded is not None
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    settings = loaded.settings.swarm
    source = loaded.path.name if loaded.path is not None else "the settings"
    click.echo(f"{source}: nothing wrong. app {settings.app}, name {settings.name}, {settings.workers} workers")
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


# -- dead letters ----------------------------------------------------------------------------------------------------


def _span(_: click.Context, __: click.Parameter, value: str | None) -> Span | None:
    from swarm.letters import Span

    if value is None:
        return None
    try:
        return Span.parse(value)
    except ValueError as error:
        raise click.BadParameter(
            f"expected a number or a range such as 3..5, 3.. or ..5; {value!r} is {error}."
        ) from None


def _moment(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    import time

    from swarm.letters import moment

    if value is None:
        return None
    try:
        return moment(value, time.time())
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f'expected a time such as 2026-01-31T12:00 (UTC), or how long ago: "90m", "2h"; got {value!r}.'
        ) from None


def _with_letters(command: F) -> F:
    """Which letters are meant: options that `list` and `replay` share."""

    def many(*names: str, metavar: str, help: str, type: Any = None) -> Callable[[F], F]:
        return click.option(*names, multiple=True, metavar=metavar, help=f"{help}; may be repeated.", type=type)

    options: list[Callable[[Any], Any]] = [
        many("--topic", "topics", metavar="T", help="A dead letter topic; default: those of the app"),
        many("--source", "sources", metavar="T", help="Only letters that came from this topic"),
        many("--partition", "partitions", metavar="N", help="… from this partition", type=click.IntRange(0)),
        click.option(
            "--offsets", metavar="A..B", callback=_span, help="… with these offsets there; A.. and ..B as well."
        ),
        many("--group", "groups", metavar="G", help="… that this consumer group set aside"),
        many("--error", "errors", metavar="TEXT", help="… whose error's type or text contains this, in any case"),
        click.option("--attempts", metavar="A..B", callback=_span, help="… that were attempted so often."),
        click.option(
            "--replayed", metavar="A..B", callback=_span, help="… that were sent back so often before; 0: never."
        ),
        click.option(
            "--since", metavar="TIME", callback=_moment, help='… produced since: 2026-01-31T12:00 (UTC), or "2h" ago.'
        ),
        click.option("--until", metavar="TIME", callback=_moment, help="… produced before."),
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
    return _with_settings(command)


def _letters(
    config: Path | None, overrides: Iterable[str], app: str | None, topics: Sequence[str], **chosen: Any
) -> tuple[dict[str, Any], list[str], Selection]:
    """[kafka], the dead letter topics, and the selection that the options mean."""
    from swarm.letters import Selection

    loaded = _load(config, overrides, app=app, require_app=False)
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


@cli.group(cls=_Commands, short_help="Look at dead letters, and send them back.")
def dlq() -> None:
    """Look at dead letters (messages that were set aside after their attempts), and send them back. Needs no running daemon.

    \b
      swarmctl dlq list
      swarmctl dlq replay --dry-run
    """


@dlq.command("list", short_help="Show what is in there.")
@_with_letters
@_json_option
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
    from swarm import cli_letters, replay

    kafka, names, selection = _letters(config, overrides, app, topics, **chosen)
    counts = cli_letters.Counts()
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
                letters.append(cli_letters.letter_json(found.letter, sent_back=found.sent_back))
    if as_json:
        _dump({"topics": names, "counts": counts.rows, "letters": letters, "not_letters": strange})
        return 0
    click.echo(counts.table() if counts.rows else f"no dead letters in {', '.join(names)}" + _selected(selection))
    if strange:
        where = ", ".join(sorted({each["topic"] for each in strange}))
        _progress(f"{len(strange)} records in {where} are no dead letters: they have no swarm.source.topic header")
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
@_json_option
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

    from swarm import cli_letters, replay
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
            _progress(f"{outcome.topic}: {outcome.count:,} sent back so far")

    for name in names:
        sent: list[Any] = []

        def watch(letter: Any, message: Any, sent: list[Any] = sent) -> None:
            if dry_run and as_json:
                sent.append((letter, message))
            elif dry_run:
                click.echo(cli_letters.line(letter, message))

        if dry_run:
            outcome = replay.rehearse(kafka, name, wish, watch)
        else:
            outcome = replay.replay(kafka, name, wish, watch, progressed)
        failed = failed or bool(outcome.left)
        if outcome.first_time and outcome.count and not again:
            days = "7 days by default after the last replay"
            _progress(
                f"{name}: no earlier replay is remembered (Kafka forgets it after offsets.retention.minutes, {days})"
            )
        if as_json:
            answers.append(cli_letters.outcome_json(outcome, sent if dry_run else None))
        else:
            click.echo(cli_letters.summary(outcome, dry_run=dry_run))
            for text in cli_letters.left_lines(outcome):
                _progress(text)
    if as_json:
        _dump({"dry_run": dry_run, "topics": answers})
    return FAILED if failed else 0


# -- trying it out ---------------------------------------------------------------------------------------------------


@cli.command(short_help="Write a small application to begin with.")
@click.argument("directory", type=click.Path(path_type=Path), default=Path("."), metavar="[DIR]")
def init(directory: Path) -> int:
    """Write a small working application and its swarm.toml into DIR (default: here). Overwrites nothing.

    \b
      swarmctl init shop
    """
    from swarm import scaffold

    made = scaffold.write(directory)
    click.echo(f"Wrote {', '.join(made.files)} in {made.directory}.\n\nNext, with a broker to try it with:")
    steps = [
        (f"swarmctl broker --port {scaffold.PORT} --topic orders:6", "leave it running"),
        ("swarmctl start", "in a second terminal"),
        (f"python -m {made.name}.produce", "in a third: a hundred orders"),
        ("swarmctl status", ""),
    ]
    if made.directory != Path("."):
        steps.insert(0, (f"cd {made.directory}", "here, and in the other terminals"))
    for step, remark in steps:
        click.echo(f"  {step:<48}{'# ' + remark if remark else ''}".rstrip())
    click.echo(f'Your own Kafka: set "bootstrap.servers" in swarm.toml. Your code: {made.name}/app.py.')
    return 0


def _topics(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    topics = {}
    for value in values:
        name, _colon, number = value.partition(":")
        if not name or not (number or "4").isdecimal() or not 1 <= int(number or 4) <= 1024:
            raise click.BadParameter(f"expected NAME or NAME:PARTITIONS (1 to 1024 partitions), got {value!r}.")
        topics[name] = int(number or 4)
    return topics


@cli.command(short_help="Run an embedded broker to try things with.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="P", help="Default: 0, the system chooses.")
@click.option(
    "--topic",
    "topics",
    multiple=True,
    callback=_topics,
    metavar="NAME[:PARTITIONS]",
    help="A topic to make at once, with 4 partitions if not said; may be repeated.",
)
@click.option(
    "--session-timeout",
    type=click.FloatRange(0.5, 3600),
    metavar="S",
    help="Of groups with group.protocol=consumer, where it is the broker's to say.",
)
def broker(port: int, topics: dict[str, int], session_timeout: float | None) -> int:
    """Run the embedded broker on 127.0.0.1, in the foreground: a Kafka to try things with, inside the client library.

    \b
      swarmctl broker --topic orders:6 --topic clicks

    It prints its bootstrap.servers and runs until TERM or Ctrl-C. Topics that are not there appear at their first use, with 4
    partitions. Everything is in memory: the newest 5 MB or so of each partition, gone when it ends. It knows neither static
    membership nor security, and proves nothing about delivery. A rebalance of a classic group takes a second less than the
    members' session.timeout.ms: set that to 6000 or less in [kafka], or "group.protocol" = "consumer".
    """
    import signal

    from swarm.embedded import EmbeddedBroker

    ends = {signal.SIGTERM, signal.SIGINT}
    # Blocked before librdkafka starts its threads, which inherit it: so the signal waits for the line that takes it.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with EmbeddedBroker(topics, port, session_timeout=session_timeout) as embedded:
        click.echo(f"bootstrap.servers = {embedded.bootstrap}")
        for name, partitions in topics.items():
            click.echo(f"topic {name}, {partitions} partitions")
        click.echo(f"To use it: export SWARM_KAFKA__BOOTSTRAP_SERVERS={embedded.bootstrap}")
        click.echo("Ctrl-C ends it.")
        sys.stdout.flush()
        signal.sigwait(ends)
    return 0


@cli.command(short_help="See a swarm at work, and one of its workers die.")
@click.option(
    "--seconds",
    type=click.FloatRange(5, 3600),
    default=20.0,
    metavar="S",
    help="How long it runs (default: 20), until it drains and counts; 5 or more.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=3, metavar="N", help="Worker processes; default: 3.")
@click.option(
    "--bootstrap", metavar="HOST:PORT", help="Use this Kafka, with a topic made for it and deleted afterwards."
)
def demo(seconds: float, workers: int, bootstrap: str | None) -> int:
    """See a swarm at work: orders are produced and processed, a worker is killed half way, and everything is counted.

    \b
      swarmctl demo
      swarmctl demo --seconds 60 --workers 6
      swarmctl demo --bootstrap localhost:9092

    Needs nothing else: it brings its own broker. Exit code 1 if a message was lost.
    """
    from swarm.demo import run

    return run(seconds=seconds, workers=workers, bootstrap=bootstrap)


if __name__ == "__main__":
    sys.exit(main())
