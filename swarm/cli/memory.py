"""`swarmctl memory`: asks the supervisor, and workers through it; computes and shows elsewhere."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click

from swarm.cli.options import FAILED, dump, json_option, run_dirs, tell, with_settings
from swarm.cli.root import cli


@cli.command(short_help="Show what fills the workers' memory, and whether it grows.")
@click.argument("worker", required=False, type=click.IntRange(min=0), metavar="[WORKER]")
@with_settings
@json_option
@click.option("--growth", type=click.FloatRange(1, 3600), metavar="S", help="The types that grow within S seconds.")
@click.option("--collect", is_flag=True, help="Collect garbage and give free memory back; say what came of it.")
@click.option("--trace/--trace-off", "trace", default=None, help="Note the line of each allocation from now on; slow.")
@click.option(
    "--dump",
    "into",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write all objects, their sizes and who holds whom into a new file, without contents.",
)
def memory(
    worker: int | None,
    config: Path | None,
    overrides: tuple[str, ...],
    growth: float | None,
    into: Path | None,
    *,
    as_json: bool,
    collect: bool,
    trace: bool | None,
) -> int:
    """Show what fills the workers' memory, whether it grows, and what to try next. With WORKER (its number) also the types that fill it.

    \b
      swarmctl memory
      swarmctl memory 2
      swarmctl memory 2 --growth 30
      swarmctl memory 2 --trace        and after some minutes:  swarmctl memory 2
      swarmctl memory 2 --trace-off
      swarmctl memory --collect
      swarmctl memory 2 --dump /tmp/worker2.heap

    A worker that is stuck shows what the kernel knows of it. To count types takes 2 s, next to the handlers; to trace slows Python code
    down two to four times, until --trace-off. The worker itself writes the dump, so FILE is a path as the daemon sees it.
    """
    from swarm.cli import memory_display, memory_report

    if worker is None and (growth is not None or trace is not None or into is not None):
        option = "--growth" if growth is not None else "--dump" if into is not None else "--trace"
        raise click.UsageError(f"{option} is for one worker: swarmctl memory 0 {option} …")
    dirs = run_dirs(config, overrides)
    question = {
        "worker": worker,
        "types": worker is not None,
        "collect": collect,
        "trace": None if trace is None else "on" if trace else "off",
        "dump": None if into is None else os.path.abspath(into),
    }
    if growth is None:
        answer = memory_report.judged(_ask(dirs, question))
    else:
        before = _ask(dirs, question | {"most": memory_report.MOST})
        tell(f"looking again in {growth:g} s")
        time.sleep(growth)
        answer = memory_report.judged(_ask(dirs, {"worker": worker, "types": True, "most": memory_report.MOST}))
        memory_report.add_growth(answer, before, growth)
    if as_json:
        dump(answer)
    else:
        click.echo(memory_display.plain(answer, detailed=worker is not None))
    asked = collect or trace is not None or into is not None or growth is not None
    return FAILED if asked and memory_report.failed(answer) else 0


def _ask(dirs: list[Path], question: dict[str, Any]) -> dict[str, Any]:
    from swarm import control

    result: dict[str, Any] = control.request(dirs, "memory", patience=180.0, **question)["result"]
    return result
