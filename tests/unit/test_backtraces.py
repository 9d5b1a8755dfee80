"""Reading dumps: when one is whole, whose thread is whose, and what is said where none came. Real memory, no signal."""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from swarm.supervisor import backtraces
from swarm.supervisor.backtraces import PATIENCE, QUIET_FOR, Backtrace, make_dump_file, name_threads


@pytest.fixture
def dump_file() -> Iterator[int]:
    """A dump file with an older dump in it."""
    fd = make_dump_file("test")
    os.write(fd, b"an older dump\n")
    yield fd
    os.close(fd)


def begun(fd: int, pid: int | None = None, names: Callable[[], dict[int, str]] = dict) -> Backtrace:
    return Backtrace(os.getpid() if pid is None else pid, fd, 100.0, lambda text: None, names)


def test_a_dump_is_whole_when_it_has_not_grown_for_a_while(dump_file: int) -> None:
    """Not at its first byte, and not while it grows."""
    dump = begun(dump_file)
    assert not dump.done(100.1)

    os.write(dump_file, b"Thread 1\n")
    assert not dump.done(100.2)
    assert not dump.done(100.2 + QUIET_FOR - 0.01)
    os.write(dump_file, b"Thread 2\n")
    assert not dump.done(100.5)

    assert dump.done(100.5 + QUIET_FOR)
    assert dump.text() == "Thread 1\nThread 2\n"


def test_a_process_that_cannot_answer_is_not_waited_for_for_ever(dump_file: int) -> None:
    """Then the text says why there is none."""
    gone = begun(dump_file, pid=2**22 + 1)
    silent = begun(dump_file)

    assert not gone.done(100.0 + PATIENCE - 0.1)
    assert gone.done(100.0 + PATIENCE)
    assert "its state is gone" in gone.text()
    assert "did not answer" in silent.text()


def test_threads_are_named(dump_file: int) -> None:
    """By the table that the process keeps, also the current one; a thread that nobody named stays as it is."""
    dump = begun(dump_file, names=lambda: {threading.get_ident(): "poller shop"})
    faulthandler.dump_traceback(dump_file, all_threads=True)
    assert not dump.done(101.0)
    text = dump.text()

    assert f'0x{threading.get_ident():016x} "poller shop"' in text
    assert "test_backtraces.py" in text
    assert name_threads("Thread 0x0000000000000abc (most recent call first):", {}).count('"') == 0


def test_a_full_file_is_emptied_and_a_dump_under_way_survives_it(
    dump_file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers of one file: the one that empties it must not break the other."""
    monkeypatch.setattr(backtraces, "KEEP", 1000)
    os.write(dump_file, b"x" * 900)
    first = begun(dump_file)
    os.write(dump_file, b"y" * 200)
    first.done(101.0)
    second = begun(dump_file)
    assert first.text() == "y" * 200
    assert os.fstat(dump_file).st_size == 0

    os.write(dump_file, b"Thread 9\n")
    second.done(102.0)

    assert second.text() == "Thread 9\n"


def test_the_last_words_of_a_process_are_its_own(dump_file: int) -> None:
    """What its predecessors wrote into the file is not part of them."""
    since = os.fstat(dump_file).st_size
    os.write(dump_file, b"Fatal Python error: Segmentation fault\n")

    assert begun(dump_file).whole(since) == "Fatal Python error: Segmentation fault\n"
