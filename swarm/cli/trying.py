"""Commands to begin with: a small application, a broker, a swarm to watch."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from swarm.cli.root import cli
from swarm.wording import counted


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
            click.echo(f"topic {name}, {counted(partitions, 'partition')}")
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
