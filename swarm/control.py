"""The client of the control socket: asks a running supervisor. Knows the protocol and pidfds; knows no settings and prints nothing.

`RUN_DIR/control.sock`, a Unix stream socket of mode 0600, newline-delimited JSON. One request a line, `{"command": …}` with its
parameters beside it; any number of `{"progress": text}` lines; then one answer, `{"ok": true, "pid": …, "result": …}` or
`{"ok": false, "pid": …, "error": text}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from swarm.errors import SwarmError

SOCKET_NAME: Final = "control.sock"
PATIENCE: Final = 10.0
"""Seconds for an answer to a question that the supervisor answers from what it knows."""
_GONE_PATIENCE: Final = 10.0
"""Seconds between the answer to `stop`, which comes right before the supervisor's exit, and that exit."""


class ControlError(SwarmError):
    """The supervisor could not be asked, did not answer in time, or answered nonsense."""


class NotRunning(ControlError):
    """No supervisor answers in any of the run directories."""


class Refused(ControlError):
    """The supervisor answered that it does not do this; the text is its own. `pid` is the supervisor's, None if unknown."""

    def __init__(self, text: str, pid: int | None = None) -> None:
        super().__init__(text)
        self.pid = pid


def request(
    run_dirs: Iterable[str | os.PathLike[str]],
    command: str,
    *,
    patience: float | None = PATIENCE,
    on_progress: Callable[[str], None] | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """Ask the supervisor in the first of `run_dirs` whose socket answers; returns the answer, `{"pid": …, "result": …}`.

    `patience`: seconds for the answer, None: no limit. Raises NotRunning, Refused, or ControlError. Blocks.
    """
    with _connect(run_dirs) as (connection, pid):
        deadline = None if patience is None else time.monotonic() + patience
        try:
            connection.sendall(json.dumps({"command": command, **parameters}).encode() + b"\n")
            for line in _lines(connection, deadline):
                message = _parse(line, pid)
                if "progress" in message:
                    if on_progress is not None:
                        on_progress(str(message["progress"]))
                    continue
                return _judged(message, pid)
        except TimeoutError:
            raise ControlError(_silent(pid, patience)) from None
        except (BrokenPipeError, ConnectionResetError):
            pass
    raise ControlError(
        f"the supervisor (pid {pid}) closed the connection without an answer; it may have ended: see its log."
    )


def stop(
    run_dirs: Iterable[str | os.PathLike[str]],
    *,
    timeout: float | None = None,
    wait: bool = True,
    patience: float | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Ask for a graceful stop; with `wait`, returns when the supervisor's process is gone, otherwise when it has begun.

    `timeout`: seconds until workers are killed, None: the daemon's `shutdown_timeout`. `patience`: seconds for all of it.
    The pid is held by a pidfd from before the request on, so no later process with the same number is mistaken for it.
    """
    with _connect(run_dirs) as (connection, pid):
        process = _open_process(pid)
        try:
            deadline = None if patience is None else time.monotonic() + patience
            answer: dict[str, Any] = {"pid": pid, "result": None}
            try:
                question = {"command": "stop", "timeout": timeout, "wait": wait}
                connection.sendall(json.dumps(question).encode() + b"\n")
                for line in _lines(connection, deadline):
                    message = _parse(line, pid)
                    if "progress" not in message:
                        answer = _judged(message, pid)
                        break
                    if on_progress is not None:
                        on_progress(str(message["progress"]))
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has gone already: the pidfd tells
            except TimeoutError:
                raise ControlError(_silent(pid, patience)) from None
            if wait and not _is_gone(process, _GONE_PATIENCE):
                raise ControlError(
                    f"the supervisor (pid {pid}) said that it has stopped, but its process is still there."
                )
            return answer
        finally:
            if process is not None:
                os.close(process)


@contextlib.contextmanager
def _connect(run_dirs: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[socket.socket, int]]:
    """The first socket that answers, and its supervisor's pid (the kernel's word for who listens)."""
    looked = [Path(run_dir) for run_dir in run_dirs]
    for run_dir in looked:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(PATIENCE)
            connection.connect(os.fspath(run_dir / SOCKET_NAME))
        except PermissionError:
            connection.close()
            raise ControlError(
                f"not allowed to talk to the daemon in {run_dir}: its control socket is for its own user and root.\n"
                "Run swarmctl as the user that started it, or as root."
            ) from None
        except (TimeoutError, BlockingIOError):  # the latter where as many wait already as the kernel lets wait
            connection.close()
            raise ControlError(
                f"the daemon in {run_dir} accepts no connection: it is stopped (SIGSTOP) or badly overloaded."
            ) from None
        except OSError:  # no such file, nobody listens, a path too long for a socket: not here
            connection.close()
            continue
        with connection:
            pid, uid, _ = struct.unpack(
                "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            )
            # /tmp/swarm-UID could have been made by somebody else to play the daemon.
            if os.geteuid() not in (0, uid) and uid != 0:
                raise ControlError(f"the socket in {run_dir} belongs to another user (uid {uid}), so it is not asked.")
            yield connection, pid
            return
    raise NotRunning(f"not running: no daemon answers in {', '.join(map(str, looked)) or 'any run directory'}")


def _lines(connection: socket.socket, deadline: float | None) -> Iterator[bytes]:
    """Lines as they come, until the peer closes; TimeoutError at the deadline."""
    rest = b""
    while True:
        if deadline is None:
            connection.settimeout(None)
        else:
            # never 0, which would mean non-blocking
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
        data = connection.recv(1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line for line in lines if line.strip())


def _parse(line: bytes, pid: int) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict) or not ("ok" in message or "progress" in message):
        raise ControlError(
            f"the supervisor (pid {pid}) answered what this swarmctl does not understand: {line[:80]!r}.\n"
            "Is it another version? Restart it with this one."
        )
    return message


def _judged(answer: dict[str, Any], pid: int) -> dict[str, Any]:
    if not answer["ok"]:
        raise Refused(str(answer.get("error", "refused, without a reason")), answer.get("pid", pid))
    return {"pid": answer.get("pid", pid), "result": answer.get("result")}


def _silent(pid: int, patience: float | None) -> str:
    state = ""
    with contextlib.suppress(OSError, IndexError):
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        state = " It is stopped by a signal (SIGSTOP): kill -CONT it." if letter == "T" else ""
    return f"the supervisor (pid {pid}) did not answer within {patience:g} s.{state}"


def _open_process(pid: int) -> int | None:
    """A pidfd; None where it is gone already, or in another pid namespace (then the kernel says pid 0)."""
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        return None


def _is_gone(process: int | None, within: float) -> bool:
    if process is None:
        return True
    return bool(select.select([process], [], [], within)[0])
