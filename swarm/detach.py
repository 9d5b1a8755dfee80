"""A daemon that leaves its terminal: two forks, and a pipe that says when it is up. Knows processes; knows no settings.

The parent returns when the daemon is up or has failed. It learns it from what the daemon writes into the pipe, and from a pidfd:
end of file alone would not do, because the daemon's own children hold the pipe open too until the daemon is up.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from swarm.errors import SwarmError

Daemon = Callable[[Callable[[], None]], int]
"""Runs until the daemon's end and returns its exit code; calls its argument once, when it is up."""

_TAIL_LINES: Final = 4
_TAIL_WIDTH: Final = 200


class NotUp(SwarmError):
    """The daemon ended before it was up. `code` is its exit code, `frames` an application's own traceback or empty."""

    def __init__(self, text: str, code: int, frames: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.frames = frames


def detach(daemon: Daemon, log: Path) -> int:
    """Run `daemon` in a session of its own, its output appended to `log`; returns its pid when it is up. Blocks until then.

    Raises NotUp, or SwarmError where `log` cannot be written. A Ctrl-C meanwhile stops the daemon. The working directory stays.
    """
    try:
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise SwarmError(
            f"cannot write the log {log}: {error.strerror}.\nMend its permissions, or set swarm.state_dir (SWARM_STATE_DIR)."
        ) from None
    inbox, outbox = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    first = os.fork()
    if first == 0:
        os.close(inbox)
        _leave_terminal(daemon, log_fd, outbox)
    os.close(outbox)
    os.close(log_fd)
    os.waitpid(first, 0)
    try:
        return _until_up(inbox, log)
    finally:
        os.close(inbox)


# -- the daemon's side -----------------------------------------------------------------------------------------------


def _leave_terminal(daemon: Daemon, log_fd: int, outbox: int) -> NoReturn:
    os.setsid()
    # The second fork: only a session's leader can get a controlling terminal again.
    if os.fork() != 0:
        os._exit(0)
    code = 1
    try:
        _tell(outbox, {"pid": os.getpid()})
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        os.close(log_fd)
        code = _run(daemon, outbox)
    finally:
        # Not sys.exit: what the parent has on its stack is not ours to unwind.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(daemon: Daemon, outbox: int) -> int:
    waiting = True

    def ready() -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            _tell(outbox, {"up": True})
            os.close(outbox)

    try:
        return daemon(ready)
    except SwarmError as error:
        print(error, file=sys.stderr)
        if waiting:
            _tell(outbox, {"error": str(error), "frames": getattr(error, "frames", "")})
        return 1
    except BaseException:
        traceback.print_exc()
        return 1


def _tell(outbox: int, message: dict[str, Any]) -> None:
    # The parent may have been killed, which is no reason for the daemon not to go on.
    with contextlib.suppress(OSError):
        os.write(outbox, json.dumps(message).encode() + b"\n")


# -- the parent's side -----------------------------------------------------------------------------------------------


def _until_up(inbox: int, log: Path) -> int:
    messages = _Messages(inbox)
    pid = messages.wait_for("pid")
    if not isinstance(pid, int):
        raise NotUp("the daemon ended before it began: there may be no memory or processes left.", 1)
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        process = None
    try:
        while process is not None:
            readable, _, _ = select.select([process, *messages.descriptors], [], [])
            messages.read()
            if "up" in messages.seen:
                return pid
            if process in readable:
                break
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        raise
    finally:
        if process is not None:
            os.close(process)
    messages.read()
    if "error" in messages.seen:
        raise NotUp(str(messages.seen["error"]), 1, str(messages.seen.get("frames", "")))
    raise NotUp(
        "\n".join([f"the daemon (pid {pid}) ended before it was up. Its log, {log}, ends with:", *_tail(log)]), 1
    )


class _Messages:
    """What the daemon has written so far. A pipe that has ended is no longer looked at."""

    def __init__(self, inbox: int) -> None:
        os.set_blocking(inbox, False)
        self.descriptors = [inbox]
        self.seen: dict[str, Any] = {}
        self._rest = b""

    def read(self) -> None:
        """Take in what is there, without waiting."""
        while self.descriptors:
            try:
                data = os.read(self.descriptors[0], 1 << 16)
            except BlockingIOError:
                return
            if not data:
                self.descriptors.clear()
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self.seen.update(json.loads(line))

    def wait_for(self, name: str) -> Any:
        """Block until a message has this name; None where the pipe ended without."""
        while name not in self.seen and self.descriptors:
            select.select(self.descriptors, [], [])
            self.read()
        return self.seen.get(name)


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16384))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return [f"(it cannot be read: {error.strerror})"]
    return [f"  {line[:_TAIL_WIDTH]}" for line in lines[-_TAIL_LINES:]]
