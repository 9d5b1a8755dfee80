"""`swarmctl`: reads arguments, calls what does the work, prints the answer. Knows commands and exit codes; decides nothing.

Everything but click is imported by the command that needs it, so that `swarmctl status` answers at once. Exit codes: 0 done;
1 a mistake of the user's, a refusal, or "not running"; `start` ends with the supervisor's own (`swarm.exits`); 130 after Ctrl-C.
A module for each kind of command, in the order in which `swarmctl --help` lists them.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import Final

import click

from swarm.cli.options import FAILED, MOST_LINES
from swarm.cli.root import cli
from swarm.errors import SwarmError

# isort: off
from swarm.cli import (  # noqa: F401  # each adds its commands, in this order
    running,
    looking,
    explaining,
    memory,
    cluster,
    auditing,
    debugging,
    checking,
    examining,
    letters,
    trying,
)
from swarm.wording import counted
# isort: on

INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell would say it

__all__ = ["cli", "main"]


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
        lines[MOST_LINES - 1 :] = [f"… and {counted(len(lines) - MOST_LINES + 1, 'more line')}: swarmctl check --json"]
    print("\n".join([*lines, *([frames.rstrip()] if frames else [])]), file=sys.stderr)
    return code


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "swarmctl"
    message = " ".join(error.format_message().split())
    return f"{command}: {message[:1].lower()}{message[1:]}\nSee {command} --help."
