"""The command `swarmctl` itself, to which the modules beside this one add theirs."""

from __future__ import annotations

import click

from swarm import __version__


class Commands(click.Group):
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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96})
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
