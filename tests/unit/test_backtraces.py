"""Reading dumps: when one is whole, whose thread is whose, and what is said where none came. Real memory, no signal."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from swarm.supervisor import backtraces
from swarm.supervisor.backtraces import (
    ANSWER_WITHIN,
    PATIENCE,
    QUIET_FOR,
    SAMPLE_EVERY,
    Asked,
    Backtrace,
    Backtraces,
    Sampling,
    make_dump_file,
    name_threads,
)
from swarm.supervisor.processes import Process


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


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What would have been sent."""
    sent: list[int] = []

    def send(process: Process, number: int) -> bool:
        sent.append(number)
        return True

    monkeypatch.setattr(backtraces, "send", send)
    return sent


def asked(fd: int, *, hears: bool = True) -> Asked:
    return Asked("worker", 0, Process(os.getpid(), -1, None), fd, dict, lambda: hears)


def test_a_process_that_answers_gets_no_signal(dump_file: int, signals: list[int]) -> None:
    """However long it writes: SIGTTIN would read the frames of threads that run."""
    all_of_them = Backtraces()
    texts: list[str] = []
    all_of_them.ask(asked(dump_file), texts.append)
    (dump,) = all_of_them.pending

    os.write(dump_file, b"Thread 1\n")
    all_of_them.collect(dump.asked_at + 0.1)
    os.write(dump_file, b"Thread 2\n")
    all_of_them.collect(dump.asked_at + ANSWER_WITHIN + 1.0)
    all_of_them.collect(dump.asked_at + ANSWER_WITHIN + 1.0 + QUIET_FOR + 0.01)

    assert texts == ["Thread 1\nThread 2\n"]
    assert signals == []


def test_a_process_that_does_not_answer_gets_one_signal_and_then_its_time(dump_file: int, signals: list[int]) -> None:
    """One whose native code holds the interpreter's lock: it is waited for as long as if the signal had come first."""
    all_of_them = Backtraces()
    texts: list[str] = []
    all_of_them.ask(asked(dump_file), texts.append)
    at = all_of_them.pending[0].asked_at

    all_of_them.collect(at + ANSWER_WITHIN - 0.01)
    assert signals == []
    all_of_them.collect(at + ANSWER_WITHIN)
    all_of_them.collect(at + ANSWER_WITHIN + PATIENCE - 0.01)
    assert signals == [signal.SIGTTIN]
    assert texts == []
    all_of_them.collect(at + ANSWER_WITHIN + PATIENCE)

    assert "did not answer" in texts[0]


@pytest.mark.parametrize("tell", [None, lambda: False], ids=["the observer", "a full channel"])
def test_who_cannot_be_asked_gets_the_signal_at_once(
    tell: Callable[[], bool] | None, dump_file: int, signals: list[int]
) -> None:
    all_of_them = Backtraces()
    all_of_them.ask(asked(dump_file)._replace(tell=tell), lambda _: None)

    assert signals == [signal.SIGTTIN]
    assert all_of_them.pending[0].unsent is None


def profile(fd: int, seconds: float, *, answers: Callable[[int], bool]) -> tuple[Sampling, list[float]]:
    """A profile from 100.0 on of a process that answers to those questions, looked at every 50 ms; when it was asked."""
    questions: list[float] = []
    now = 100.0

    def tell() -> bool:
        questions.append(now)
        if answers(len(questions)):
            os.write(fd, b'Thread 0x01 (most recent call first):\n  File "a.py", line 1 in f\n')
        return True

    start = os.fstat(fd).st_size
    sampling = Sampling(asked(fd)._replace(tell=tell), now + seconds, lambda *_: None, now, start)
    while not sampling.step(now):
        now += 0.05
        assert now < 100.0 + seconds + 10.0
    return sampling, questions


def test_a_profile_asks_ten_times_a_second(dump_file: int, signals: list[int]) -> None:
    sampling, questions = profile(dump_file, 2.0, answers=lambda number: True)

    assert sampling.asked == len(questions) == pytest.approx(2.0 / SAMPLE_EVERY, abs=1)
    assert sum(sampling.counted.values()) == sampling.asked
    assert signals == []


def test_a_profile_of_a_process_that_is_stuck_asks_once_and_then_signals(dump_file: int, signals: list[int]) -> None:
    """Also one that is shorter than the time an answer may take; questions do not pile up for when it comes free."""
    _, questions = profile(dump_file, 0.5, answers=lambda number: False)
    assert (len(questions), len(signals)) == (1, 1)

    _, questions = profile(dump_file, 4 * ANSWER_WITHIN, answers=lambda number: False)
    assert (len(questions), len(signals)) == (1, 1 + 4)


def test_a_profile_asks_again_after_the_signal_was_answered(dump_file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process was stuck for a while only."""

    def dumped(process: Process, number: int) -> bool:
        os.write(dump_file, b'Thread 0x02 (most recent call first):\n  File "b.c", line 1 in g\n')
        return True

    monkeypatch.setattr(backtraces, "send", dumped)
    sampling, questions = profile(dump_file, 4.0, answers=lambda number: number != 3)

    assert len(questions) > 10
    assert sum(count for text, count in sampling.counted.items() if "b.c" in text) == 1
