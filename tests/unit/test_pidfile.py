"""One daemon for a run directory: the lock decides, never the number in the file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from swarm.errors import AlreadyRunning, RunDirectoryError
from swarm.supervisor.pidfile import PidFile


def test_a_second_daemon_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    """And may start when the first one is gone."""
    path = tmp_path / "swarm.pid"
    first = PidFile(path)
    first.write()

    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()} "):
        PidFile(path)
    first.remove()
    assert not path.exists()

    second = PidFile(path)
    second.remove()


def test_a_stale_file_is_not_trusted(tmp_path: Path) -> None:
    """A number that nobody locks says nothing, be it that of a living process."""
    path = tmp_path / "swarm.pid"
    path.write_text(f"{os.getppid()}\n and more")

    mine = PidFile(path)
    mine.write()

    assert path.read_text() == f"{os.getpid()}\n"
    mine.remove()


def test_a_lock_on_a_file_that_was_just_removed_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before the former daemon removed it, locked after: the lock is taken anew on the file that is there."""
    path = tmp_path / "swarm.pid"
    former = PidFile(path)

    def lock(fd: int, operation: int) -> None:
        if not former_has_ended:
            former_has_ended.append(True)
            former.remove()
        true_lock(fd, operation)

    former_has_ended: list[bool] = []
    true_lock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lock)
    mine = PidFile(path)

    assert os.path.samestat(os.fstat(mine.fd), path.stat())
    with pytest.raises(AlreadyRunning):
        PidFile(path)
    mine.remove()


def test_a_place_where_it_cannot_be_made_is_said(tmp_path: Path) -> None:
    """A missing directory and a link to somewhere else are one readable error each."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")

    for path in (tmp_path / "missing" / "swarm.pid", tmp_path / "link"):
        with pytest.raises(RunDirectoryError, match=r"swarm\.run_dir"):
            PidFile(path)
    assert not (tmp_path / "elsewhere").exists()
