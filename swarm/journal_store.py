"""The files of one writer's journal: segments of a fixed size in STATE_DIR/journal, bounded in size and age. Knows no event and no lane.

    STATE_DIR/journal/     0700
        worker-0003-00000017.seg     0600; the 18th segment of worker 3
        supervisor-00000000.seg

A segment is allocated whole (`posix_fallocate`), so that a full disk is an error here and not a SIGBUS at some later store, and mapped:
what was stored is in the file's pages and survives the process, whatever ends it. A successor writes on in the newest segment, unless
somebody still holds that (`flock`).
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from swarm import journal_format as form

SUFFIX: Final = ".seg"
SEGMENTS: Final = 16
"""Into how many segments a writer's size is divided: so much of it is dropped at once."""
SMALLEST_SEGMENT: Final = 1 << 16
PRUNE_EVERY: Final = 600.0
"""Seconds between two looks for segments that are too old."""
_NAME: Final = re.compile(r"(?P<writer>[a-z]+(-\d+)?)-(?P<serial>\d{8,})\.seg")
_PREFACE_ROOM: Final = form.LONGEST_FACT + 32
_WORD: Final = struct.Struct("@Q")


def journal_dir(state_dir: Path) -> Path:
    """Where the journals of a state directory are."""
    return state_dir / "journal"


def name_of(path: Path) -> tuple[str, int] | None:
    """The writer and the serial in a segment's name; None for another file."""
    match = _NAME.fullmatch(path.name)
    return (match["writer"], int(match["serial"])) if match else None


class Store:
    """Appends records to one writer's segments. Not for several threads at once. Every method may raise OSError: no journal, then."""

    def __init__(
        self,
        directory: Path,
        writer: str,
        size: int,
        age: float,
        preface: Callable[[], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """writer: `worker-0003`, unique among those that are alive. size: bytes, age: seconds; what is older is removed, of anybody's.

        preface: the record that goes before all others of this process in each segment.
        """
        self._directory = directory
        self._writer = writer
        self._segment_size = max(SMALLEST_SEGMENT, size // SEGMENTS // mmap.PAGESIZE * mmap.PAGESIZE)
        self._most = max(2, size // self._segment_size)
        self._age = age
        self._preface = preface
        self._clock = clock
        self._prune_at = 0.0
        self._fd = -1
        self._serial = self._used = 0
        self._unmarked = False
        self.map: mmap.mmap | None = None
        """The segment that is written. What was appended to an earlier one may be changed as long as its map is held."""

    def open(self) -> None:
        """Take up the newest segment, or make a first one."""
        _prepare(self._directory)
        serial = self._newest_serial()
        if serial is None or not self._take_up(serial):
            self._make(0 if serial is None else serial + 1)

    def reserve(self, size: int) -> mmap.mmap:
        """The segment that has room for so many bytes more: maybe a new one, which the preface begins."""
        if self.map is None:
            self.open()
        assert self.map is not None
        if self._used + size + (_PREFACE_ROOM if self._unmarked else 0) > len(self.map):
            self._make(self._serial + 1)
        if self._unmarked:
            self._unmarked = False
            self._store(self._preface())
        return self.map

    def append(self, record: bytes) -> tuple[mmap.mmap, int]:
        """Where the record is now."""
        return self.reserve(len(record)), self._store(record)

    def _store(self, record: bytes) -> int:
        assert self.map is not None
        at, end = self._used, self._used + len(record)
        self.map[at:end] = record
        _WORD.pack_into(self.map, form.USED_AT, end)  # only now it is there
        self._used = end
        return at

    def prune_if_due(self, now: float) -> None:
        """Remove what is older than the age, now and then."""
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_EVERY
            self._prune(now)

    def close(self) -> None:
        """Let go of the segment, for a successor to write on in it. What still holds the map may go on changing what it appended."""
        self.map = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- segments ----------------------------------------------------------------------------------------------------

    def _path(self, serial: int) -> Path:
        return self._directory / f"{self._writer}-{serial:08d}{SUFFIX}"

    def _own(self) -> list[tuple[int, Path]]:
        """This writer's segments, the oldest first."""
        found = []
        for path in self._directory.iterdir():
            name = name_of(path)
            if name is not None and name[0] == self._writer:
                found.append((name[1], path))
        return sorted(found)

    def _newest_serial(self) -> int | None:
        own = self._own()
        return own[-1][0] if own else None

    def _take_up(self, serial: int) -> bool:
        """Write on where a predecessor ended; False where that cannot be: it is damaged, another's, full, or still held."""
        try:
            fd = os.open(self._path(serial), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_size < form.HEADER_SIZE:
                raise ValueError("not ours")
            header = form.read_header(os.pread(fd, form.HEADER_SIZE, 0))
            used = _WORD.unpack_from(os.pread(fd, form.HEADER_SIZE, 0), form.USED_AT)[0]
            if used % 8 or not form.HEADER_SIZE <= used < found.st_size:
                raise ValueError("damaged or full")
            os.posix_fallocate(fd, 0, found.st_size)  # a copy may have lost what was allocated
            self._enter(fd, mmap.mmap(fd, found.st_size), header.serial, used)
        except (OSError, ValueError):
            os.close(fd)
            return False
        return True

    def _make(self, serial: int) -> None:
        """Begin a new segment, and drop the oldest of this writer's where there are too many."""
        now = self._clock()
        self._prune(now)
        self._drop(self._most - 1)
        while True:
            try:
                fd, fresh = self._allocate(serial, now)
                break
            except FileExistsError:
                serial += 1
            except OSError:
                if not self._drop(max(0, len(self._own()) - 1)):  # what is newest is worth more than what is oldest
                    raise
        with contextlib.suppress(OSError):  # a file system without locks: then only one writer of a name may be there
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        old = self._fd
        self._enter(fd, fresh, serial, form.HEADER_SIZE)
        if old >= 0:
            os.close(old)

    def _allocate(self, serial: int, now: float) -> tuple[int, mmap.mmap]:
        path = self._path(serial)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._segment_size)
            os.pwrite(fd, form.pack_header(serial, now), 0)
            return fd, mmap.mmap(fd, self._segment_size)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def _enter(self, fd: int, fresh: mmap.mmap, serial: int, used: int) -> None:
        self._fd, self.map, self._serial, self._used, self._unmarked = fd, fresh, serial, used, True

    def _drop(self, most: int) -> bool:
        """Keep at most so many of this writer's segments; whether one was removed."""
        removed = False
        own = self._own()
        for _, path in own[: max(0, len(own) - most)]:
            with contextlib.suppress(OSError):
                path.unlink()
                removed = True
        return removed

    def _prune(self, now: float) -> None:
        """Remove what nobody has written in for longer than the age, of retired workers, too."""
        for path in self._directory.iterdir():
            if name_of(path) is None:
                continue
            with contextlib.suppress(OSError):
                if now - last_written(path) > self._age and not self._is_current(path):
                    path.unlink()

    def _is_current(self, path: Path) -> bool:
        if self._fd < 0:
            return False
        mine, found = os.fstat(self._fd), path.lstat()
        return (mine.st_dev, mine.st_ino) == (found.st_dev, found.st_ino)


def last_written(path: Path) -> float:
    """When a segment was last written (s since the epoch), or a little before: of a mapped file the kernel notes it now and then."""
    return path.lstat().st_mtime


def _prepare(directory: Path) -> None:
    """Make the directory; OSError where it is not ours alone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(20, "not a directory", str(directory))
    if found.st_uid != os.geteuid():
        raise PermissionError(1, f"it belongs to another user (uid {found.st_uid})", str(directory))
    if found.st_mode & 0o077:
        directory.chmod(0o700)
