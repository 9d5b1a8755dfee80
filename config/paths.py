"""Where the run directory and the state directory are, and making them safely. Knows no socket, lock or journal.

    Exception
    └─ PathError    a directory that cannot be used; its text says what, why and how to mend it

Everybody may write in /tmp, so somebody else may have put a directory or a symlink there first; whoever owns the directory of
the control socket owns the daemon. Hence below a directory that others may write in, every part must be ours and a real directory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from swarm.config.schema import Settings

SOCKET: Final = "control.sock"
"""The control socket's name in the run directory."""
LONGEST_SOCKET: Final = 107
"""Bytes of a Unix socket's path: `sun_path` has 108, the last one is NUL."""
_SYSTEM_RUN: Final = (Path("/run"), Path("/var/run"))
"""Emptied at boot, so never the place of what has to outlive a restart."""


class PathError(Exception):
    """A directory that cannot be used. `where` is the setting that would change it."""

    def __init__(self, where: str, what: str, fix: str) -> None:
        self.where = where
        self.what = what
        self.fix = fix
        super().__init__(f"{where}: {what}. {fix}")


def run_dir_candidates(
    settings: Settings, environ: Mapping[str, str] | None = None, uid: int | None = None
) -> list[Path]:
    """Run directories in the order of preference, none of them touched; only the one that was set, if one was.

    environ: None is this process's. uid: None is this process's effective one.
    """
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    name, chosen = settings.swarm.name, settings.swarm.run_dir
    if chosen is not None:
        return [chosen]
    user_runtime = _absolute(environ.get("XDG_RUNTIME_DIR", ""))
    found = [
        _absolute(environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]),  # systemd gives several as a:b
        Path("/run/swarm") / name,
        user_runtime / "swarm" / name if user_runtime else None,
        Path(f"/tmp/swarm-{uid}") / name,  # noqa: S108 checked part by part before it is used
    ]
    return list(dict.fromkeys(path for path in found if path is not None))


def choose_run_dir(settings: Settings, environ: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """The first run directory that can be made and used, made (0700); PathError, with each reason, if none can."""
    uid = os.geteuid() if uid is None else uid
    return first_usable(run_dir_candidates(settings, environ, uid), uid)


def first_usable(candidates: Sequence[Path], uid: int) -> Path:
    """The first of the candidates that can be made and used as a run directory, made (0700); PathError if none can."""
    reasons = []
    for path in candidates:
        reason = _too_long(path) or _prepare(path, uid)
        if reason is None:
            return path
        reasons.append(f"{path}: {reason}")
    fix = "Set swarm.run_dir, or SWARM_RUN_DIR, to a directory with a short path that this user may write in."
    raise PathError("swarm.run_dir", f"no run directory can be used ({'; '.join(reasons)})", fix)


def find_run_dirs(settings: Settings, environ: Mapping[str, str] | None = None, uid: int | None = None) -> list[Path]:
    """Where a daemon of these settings may be: the candidates, without those that others could have put there. Makes nothing."""
    uid = os.geteuid() if uid is None else uid
    return [path for path in run_dir_candidates(settings, environ, uid) if _distrust(path, uid) is None]


def choose_state_dir(
    settings: Settings, run_dir: Path, environ: Mapping[str, str] | None = None, uid: int | None = None
) -> Path:
    """The state directory, made (0700); PathError if it cannot be. run_dir: the one in use (`choose_run_dir`).

    As set, else $STATE_DIRECTORY, else a run_dir that was set outside /run, else /var/lib/swarm/NAME (root) or
    $XDG_STATE_HOME/swarm/NAME (~/.local/state).
    """
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    path = _state_dir(settings, run_dir, environ, uid)
    fix = "Set swarm.state_dir, or SWARM_STATE_DIR, to a directory that this user may write in."
    if path is None:
        raise PathError("swarm.state_dir", "no state directory: neither XDG_STATE_HOME nor HOME is set", fix)
    reason = _prepare(path, uid)
    if reason is not None:
        raise PathError("swarm.state_dir", f"{path} cannot be used ({reason})", fix)
    return path


def find_state_dir(settings: Settings, environ: Mapping[str, str] | None = None, uid: int | None = None) -> Path | None:
    """Where a daemon of these settings leaves what outlives it; None where there is no such directory. Makes nothing."""
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    for run_dir in run_dir_candidates(settings, environ, uid):
        found = _state_dir(settings, run_dir, environ, uid)
        if found is not None and found.is_dir() and _distrust(found, uid) is None:
            return found
    return None


def _state_dir(settings: Settings, run_dir: Path, environ: Mapping[str, str], uid: int) -> Path | None:
    chosen = settings.swarm.state_dir or _absolute(environ.get("STATE_DIRECTORY", "").partition(":")[0])
    if chosen is not None:
        return chosen
    if settings.swarm.run_dir is not None and not any(run_dir.is_relative_to(run) for run in _SYSTEM_RUN):
        return run_dir
    if uid == 0:
        return Path("/var/lib/swarm") / settings.swarm.name
    home = _absolute(environ.get("HOME", ""))
    states = _absolute(environ.get("XDG_STATE_HOME", "")) or (home / ".local/state" if home else None)
    return states / "swarm" / settings.swarm.name if states else None


def _absolute(text: str) -> Path | None:
    """Variables that should hold an absolute path and do not are as good as unset (the XDG specification says so, too)."""
    path = Path(text)
    return path if path.is_absolute() else None


def _too_long(path: Path) -> str | None:
    length = len(os.fsencode(path / SOCKET))
    if length > LONGEST_SOCKET:
        return f"with /{SOCKET} its path has {length} bytes, a socket's may have {LONGEST_SOCKET}"
    return None


def _prepare(path: Path, uid: int) -> str | None:
    """Make the directory and what is missing above it; the reason if it cannot be used."""
    reason = _distrust(path, uid)
    if reason is not None:
        return reason
    try:
        _make(path)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    # again: between the first look and the making somebody else may have been there
    return _distrust(path, uid) or _unusable(path)


def _make(path: Path) -> None:
    """Directories of our own in a place that others may write in are for us alone; elsewhere only the last one is."""
    for part in [*reversed(path.parents), path]:
        if not part.exists():
            private = part == path or _others_may_write(part.parent)
            part.mkdir(mode=0o700 if private else 0o755, exist_ok=True)


def _unusable(path: Path) -> str | None:
    if not path.is_dir():
        return "not a directory"
    if path.stat().st_mode & stat.S_IWOTH:
        return "everybody may write in it"
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        return "not writable for this user"
    return None


def _distrust(path: Path, uid: int) -> str | None:
    """Why what lies below a directory that others may write in is not ours to use; what does not exist is no reason."""
    for part in _shared_parts(path):
        try:
            found = part.lstat()
        except OSError:
            return None  # nothing below can exist, or be reached, either
        if stat.S_ISLNK(found.st_mode):
            return f"{part} is a symlink in a directory that others may write in"
        if found.st_uid not in {uid, 0}:
            return f"{part} belongs to another user (uid {found.st_uid})"
    return None


def _shared_parts(path: Path) -> Iterator[Path]:
    """The parts of a path whose parent others may write in, from the top."""
    for part in [*reversed(path.parents), path]:
        if part != part.parent and _others_may_write(part.parent):
            yield part


def _others_may_write(directory: Path) -> bool:
    try:
        return bool(directory.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return False
