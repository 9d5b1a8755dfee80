"""The pid file of a run directory. The lock says whether a daemon runs; the number in the file only says which."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from swarm.errors import AlreadyRunning, RunDirectoryError


class PidFile:
    """Held for the supervisor's life; the kernel lets go of the lock when it dies, however it dies."""

    def __init__(self, path: Path) -> None:
        """Take the lock; raises AlreadyRunning, RunDirectoryError. Children must close `fd`."""
        self.path = path
        while True:
            self.fd = self._lock()
            if self._is_there():
                return
            os.close(self.fd)  # whoever held it removed the file between our opening and our locking it

    @classmethod
    def adopt(cls, path: Path, fd: int) -> PidFile:
        """The file that this process has held since before it executed itself anew."""
        held = cls.__new__(cls)
        held.path, held.fd = path, fd
        return held

    def _is_there(self) -> bool:
        """Whether the path still leads to the file that is locked: a lock on a removed file keeps nobody out."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.stat(self.path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _lock(self) -> int:
        path = self.path
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise RunDirectoryError(
                f"cannot write the pid file {path}: {error.strerror}. Set swarm.run_dir to a directory that this user may write."
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise AlreadyRunning(
                f"already running: pid {pid} holds {path.parent}.\n"
                "Stop it with swarmctl stop, or give this one another swarm.name or swarm.run_dir."
            ) from None
        return fd

    def write(self) -> None:
        """Write this process's pid; raises RunDirectoryError (a full disk)."""
        try:
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise RunDirectoryError(
                f"cannot write the pid file {self.path}: {error.strerror}. Make room, or set swarm.run_dir to another directory."
            ) from None

    def remove(self) -> None:
        """At the end: the file goes first, the lock with the descriptor."""
        self.path.unlink(missing_ok=True)
        os.close(self.fd)
