"""What commands share: options, the settings, where a daemon is, how an answer is printed. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from swarm.errors import SwarmError

if TYPE_CHECKING:
    from swarm.config import Loaded
    from swarm.letters import Span

F = TypeVar("F", bound=Callable[..., Any])

FAILED: Final = 1
MOST_LINES: Final = 6
"""Lines of a message about a user's mistake; an application's own traceback comes on top."""


def with_settings(command: F) -> F:
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


def with_app(command: F) -> F:
    app = click.option("--app", metavar="M:A", help="The application, as module:attribute.")
    workers = click.option("--workers", metavar="N", help='How many worker processes; "auto": one for each CPU.')
    return app(workers(command))


def with_selection(command: F) -> F:
    """--include-group and the like: which of the app's groups and topics to consume."""
    for verb, meaning in (("exclude", "Do not consume this {}"), ("include", "Consume only this {}")):
        for noun, what in (("topic", "topic"), ("group", "consumer group")):
            text = f"{meaning.format(what)}; a name, or a pattern with * and ?; may be repeated."
            command = click.option(f"--{verb}-{noun}", multiple=True, metavar=noun[0].upper(), help=text)(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
group_option = click.option("--group", metavar="G", help="Only for this consumer group; default: all that consume it.")
wait_option = click.option("--wait/--no-wait", default=True, help="Wait until it is done (the default).")


def load(config: Path | None, overrides: Iterable[str], **more: Any) -> Loaded:
    """The settings; a user's mistakes become a SwarmError with one text."""
    from swarm.config import SettingsError, load_settings

    try:
        return load_settings(config, overrides=tuple(overrides), **more)
    except SettingsError as error:
        raise SwarmError(error.render(MOST_LINES)) from None


def run_dirs(config: Path | None, overrides: Iterable[str]) -> list[Path]:
    """Where a daemon of these settings may be found. Neither an app nor a broker has to be set for that."""
    from swarm.config import find_run_dirs

    loaded = load(config, overrides, require_app=False, require_kafka=False)
    return [Path(path) for path in find_run_dirs(loaded.settings)]


def dump(value: Any, *, indent: int | None = 2) -> None:
    import json

    click.echo(json.dumps(value, indent=indent, ensure_ascii=False))


def tell(text: str) -> None:
    click.echo(text, err=True)


def place_of(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, int | None] | None:
    if value is None:
        return None
    topic, slash, number = value.partition("/")
    if topic and (not slash or (number.isascii() and number.isdigit())):
        return topic, int(number) if slash else None
    raise click.BadParameter(f"expected TOPIC or TOPIC/PARTITION, such as orders or orders/3, got {value!r}.")


def span_of(_: click.Context, __: click.Parameter, value: str | None) -> Span | None:
    from swarm.letters import Span

    if value is None:
        return None
    try:
        return Span.parse(value)
    except ValueError as error:
        raise click.BadParameter(
            f"expected a number or a range such as 3..5, 3.. or ..5; {value!r} is {error}."
        ) from None


def moment_of(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
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
