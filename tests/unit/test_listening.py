"""Listeners of the supervisor's own events: what they do wrong is counted and said, and changes nothing in the supervisor."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from swarm import App, events
from swarm.conduct import TRIES
from swarm.events import Event, ListenerFailed, ListenerSwitchedOff, SupervisorWarning, SwarmQuiet
from swarm.supervisor import listening
from swarm.supervisor.listening import HANGS, ListenerProcess, listen
from swarm.supervisor.observed import Observed
from swarm.supervisor.processes import Exit

EVENT = SupervisorWarning("it is late")


class Side:
    """The supervisor's side with a child that runs when the test says so, in this thread."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *listeners: Callable[[Any], None], hide: Callable[[str], str] = str
    ) -> None:
        self.app = App("shop")
        for listener in listeners:
            self.app.on(Event)(listener)
        self.said: list[Event] = []
        self.observed = Observed()
        self.exit: Exit | None = None
        self.sockets: list[socket.socket] = []
        self.hide = hide
        self.process = ListenerProcess(self.app, self._fork, self.said.append, self.observed, hide)
        monkeypatch.setattr(listening, "reap", lambda process: self.exit)

    def _fork(self, body: Callable[[socket.socket], int]) -> Any:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.sockets += [ours, self.theirs]
        self.exit = None
        return SimpleNamespace(channel=ours, pid=1, pidfd=-1, close=ours.close)

    def hear(self, times: int = 1) -> None:
        """The supervisor says something, the child hears it, and the supervisor takes in what that says."""
        for _ in range(times):
            self.process.hear(EVENT)
        self.take()

    def take(self) -> None:
        """The child hears what there is, and the supervisor takes in what that says."""
        self.theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            listen(cast(Any, _NeverBlocks(self.theirs)), self.app.listeners, self.hide)
        self.process.collect()

    def findings(self) -> list[dict[str, str]]:
        return list(self.observed.findings())


Make = Callable[..., Side]


@pytest.fixture
def side(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """`side(*listeners)`. The handler of SIGTERM is put back: the child's side ignores the signal."""
    made: list[Side] = []
    before = signal.getsignal(signal.SIGTERM)

    def make(*listeners: Callable[[Any], None], hide: Callable[[str], str] = str) -> Side:
        made.append(Side(monkeypatch, *listeners, hide=hide))
        return made[-1]

    yield make
    signal.signal(signal.SIGTERM, before)
    for each in made:
        for end in each.sockets:
            end.close()


class _NeverBlocks:
    """A socket that has no more to say when it has been read."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner

    def setblocking(self, flag: bool) -> None:
        assert flag

    def recv(self, size: int) -> bytes:
        return self._inner.recv(size)

    def send(self, data: bytes) -> int:
        return self._inner.send(data)


def raises(event: Event) -> None:
    raise ValueError("no room in the ledger")


def test_each_failure_is_counted_and_the_last_error_kept(side: Make) -> None:
    swarm = side(raises)

    swarm.hear(3)

    assert swarm.said == [
        ListenerFailed("raises", "supervisor_warning", "ValueError: no room in the ledger", times) for times in (1, 2)
    ]
    [found] = swarm.findings()
    assert (found["rule"], found["severity"], found["what"]) == (
        "listener_fails",
        "warning",
        "the listener raises raises",
    )
    assert found["evidence"] == (
        "3 times, last at supervisor_warning: ValueError: no room in the ledger (in the process that hears the supervisor's events)"
    )


def test_one_that_is_switched_off_is_said_to_be(side: Make) -> None:
    swarm = side(raises)

    swarm.hear(TRIES + 5)

    assert [each for each in swarm.said if isinstance(each, ListenerSwitchedOff)] == [
        ListenerSwitchedOff("raises", "supervisor_warning", "ValueError: no room in the ledger", TRIES)
    ]
    [found] = swarm.findings()
    assert found["what"] == "the listener raises raises, and is called no more"
    assert found["evidence"].startswith(f"{TRIES} times, ")


def test_a_slow_one_is_said_to_be_slow(side: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    instants = iter([0.0, 2.5, 3.0, 3.0, 3.0])
    swarm = side(lambda event: None)
    swarm.process.hear(EVENT)  # it asks the clock, too
    monkeypatch.setattr(listening, "time", SimpleNamespace(monotonic=lambda: next(instants)))
    swarm.take()

    [found] = swarm.findings()
    assert found["what"].endswith(" is too slow")
    assert "it took 2.5 s" in found["evidence"]


def test_one_that_does_not_return_is_named_while_it_does_not(side: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the last event for hours, so that no buffer is ever full."""
    looks: list[list[dict[str, str]]] = []
    now = [100.0]

    def hangs(event: Event) -> None:
        for seconds in (0.0, HANGS, 1.0):
            now[0] += seconds
            swarm.process.collect()
            looks.append(swarm.findings())

    swarm = side(hangs)
    swarm.process.hear(EVENT)
    monkeypatch.setattr(listening, "time", SimpleNamespace(monotonic=lambda: now[0]))
    swarm.take()

    assert looks[:2] == [[], []]
    [found] = looks[2]
    assert found["what"].endswith("hangs does not return")
    assert found["evidence"].startswith(f"It was called over supervisor_warning {HANGS + 1:.0f} s ago")
    [after] = swarm.findings()
    assert after["what"].endswith("hangs is too slow")


def test_one_that_is_well_makes_no_finding(side: Make) -> None:
    heard: list[Event] = []
    swarm = side(heard.append)

    swarm.hear(3)

    assert heard == [EVENT] * 3
    assert (swarm.said, swarm.findings()) == ([], [])


def test_an_error_of_any_length_and_in_any_script_reaches_the_supervisor(side: Make) -> None:
    """What is cut off in the middle of a message would be no JSON, and end the supervisor."""

    def raises_a_book(event: Event) -> None:
        raise ValueError("\u00e9\N{SNOWMAN}" * 9000)

    swarm = side(raises_a_book)

    swarm.hear()

    [failed] = swarm.said
    assert isinstance(failed, ListenerFailed)
    assert failed.error.startswith("ValueError: \u00e9\N{SNOWMAN}")


def takes_two(about: str, event: Event) -> None:
    raise ValueError("no room in the ledger")


class CannotBeShown:
    """A listener that is an object; its repr is the application's code."""

    def __call__(self, event: Event) -> None:
        raise ValueError("no room in the ledger")

    def __repr__(self) -> str:
        raise RuntimeError("not yet connected")


class CannotBeAsked(CannotBeShown):
    """One that makes up its attributes, and fails at it."""

    def __getattr__(self, name: str) -> str:
        raise RuntimeError("not yet connected")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: partial(takes_two, "x" * 100_000), "takes_two"),
        (lambda: partial(partial(takes_two), "x" * 100_000), "takes_two"),
        (CannotBeShown, "CannotBeShown"),
        (lambda: partial(CannotBeShown()), "CannotBeShown"),
        (CannotBeAsked, "CannotBeAsked"),
    ],
)
def test_a_listener_is_named_without_its_repr(side: Make, make: Callable[[], Callable[[Any], None]], name: str) -> None:
    """That of a partial holds its arguments, however long; that of an object may raise."""
    swarm = side(make())

    swarm.hear()

    assert swarm.said == [ListenerFailed(name, "supervisor_warning", "ValueError: no room in the ledger", 1)]


def test_a_name_of_any_length_reaches_the_supervisor(side: Make) -> None:
    def named(event: Event) -> None:
        raise ValueError("no room in the ledger")

    named.__qualname__ = "\N{SNOWMAN}" * 70_000
    swarm = side(named)

    swarm.hear()

    [failed] = swarm.said
    assert isinstance(failed, ListenerFailed)
    assert failed.listener == "\N{SNOWMAN}" * 200


def test_an_error_without_a_text_does_not_end_their_process(side: Make) -> None:
    class NoTextError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not yet connected")

    def raises_that(event: Event) -> None:
        raise NoTextError

    swarm = side(raises_that)

    swarm.hear()

    [failed] = swarm.said
    assert isinstance(failed, ListenerFailed)
    assert failed.error == "NoTextError: (its text cannot be made)"


def hide_hunter(text: str) -> str:
    return text.replace("hunter2-password", "***")


def test_a_secret_in_an_error_is_hidden_wherever_it_stands(side: Make) -> None:
    """Also where the error is cut in the middle of it: what is left of a secret is not recognised as one."""

    def quotes(place: int, event: Event) -> None:
        raise ValueError("." * (place - len("ValueError: ")) + "hunter2-password")

    places = [20, *range(1984, 2001)]
    swarm = side(*(partial(quotes, place) for place in places), hide=hide_hunter)

    swarm.hear()

    assert len(swarm.said) == len(places)
    assert "hunter" not in str(swarm.said) + str(swarm.findings())


def test_a_secret_in_a_name_is_hidden_wherever_it_stands(side: Make) -> None:
    made: list[Callable[[Any], None]] = []
    for before in range(184, 201):

        def named(event: Event) -> None:
            raise ValueError("no room in the ledger")

        named.__qualname__ = "n" * before + "hunter2-password"
        made.append(named)
    swarm = side(*made, hide=hide_hunter)

    swarm.hear()

    assert len(swarm.said) == len(made)
    assert "hunter" not in str(swarm.said) + str(swarm.findings())


def test_a_secret_in_the_name_of_one_that_does_not_return_is_hidden(
    side: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    looks: list[list[dict[str, str]]] = []

    def hangs(event: Event) -> None:
        swarm.process.collect()
        now[0] += HANGS + 1
        swarm.process.collect()
        looks.append(swarm.findings())

    hangs.__qualname__ = "hunter2-password"
    swarm = side(hangs, hide=hide_hunter)
    swarm.process.hear(EVENT)
    monkeypatch.setattr(listening, "time", SimpleNamespace(monotonic=lambda: now[0]))
    swarm.take()

    [[found]] = looks
    assert found["what"] == "the listener *** does not return"


def test_what_their_process_says_is_hidden_once_more(side: Make) -> None:
    """Whoever wrote it."""
    swarm = side(raises, hide=hide_hunter)
    swarm.process.hear(EVENT)
    swarm.theirs.send(b'[1, "of hunter2-password", "supervisor_warning", "hunter2-password", 1, true]')

    swarm.process.collect()

    assert len(swarm.said) == 2
    assert "hunter" not in str(swarm.said) + str(swarm.findings())


GARBAGE = [
    b"hello",
    b"\xff\xfe",
    b'["raises", "supervisor_warning", "Value',
    b"[" * 50_000,
    b"1" * 50_000,
    b"7",
    b"null",
    b"{}",
    b"[1, 2]",
    b"[1, 2, 3]",
    b'[0, "raises", "supervisor_warning"]',
    b'[2, "raises", "supervisor_warning"]',
    b'[true, "raises", "supervisor_warning"]',
    b'["raises", "supervisor_warning", "ValueError", 1, false]',
    b'[1, "raises", "no_such_event"]',
    b'[1, "raises", ["supervisor_warning"]]',
    b'[1, "raises", "supervisor_warning", "ValueError"]',
    b'[1, "raises", "supervisor_warning", "ValueError", "1", false]',
    b'[1, "raises", "supervisor_warning", "ValueError", 0, false]',
    b'[1, "raises", "supervisor_warning", "ValueError", true, false]',
    b'[1, "raises", "supervisor_warning", "ValueError", 1, 1]',
    b'[1, "raises", "supervisor_warning", null, 1, false]',
    b'[1, "raises", "supervisor_warning", "ValueError", 1, false, false, false]',
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda data: data[:64].decode(errors="replace"))
def test_what_their_process_says_amiss_is_dropped_and_counted(side: Make, garbage: bytes) -> None:
    """It holds the application's code, which may write where it should not; the supervisor goes on, and hears what comes next."""
    swarm = side(raises)
    swarm.process.hear(EVENT)
    for _ in range(3):
        swarm.theirs.send(garbage)

    swarm.take()

    first, *rest = swarm.said
    assert isinstance(first, ListenerFailed)
    assert (first.listener, first.heard, first.count) == ("*", "supervisor_warning", 1)
    assert [each.count for each in rest if isinstance(each, ListenerFailed)] == [2, 1]
    amiss, found = swarm.findings()
    assert amiss["what"] == "the process of the supervisor's listeners says what cannot be understood"
    assert amiss["evidence"].startswith("3 times ")
    assert found["what"] == "the listener raises raises"


def test_a_text_that_no_log_can_hold_is_taken_with_what_can_be_written(side: Make) -> None:
    def raises_half_a_character(event: Event) -> None:
        raise ValueError("half of it: \ud83d")

    swarm = side(raises_half_a_character)

    swarm.hear()

    [failed] = swarm.said
    assert isinstance(failed, ListenerFailed)
    assert failed.error == "ValueError: half of it: ?"


def test_events_that_nobody_takes_are_counted_each(side: Make) -> None:
    """The supervisor goes on: it never waits for a listener."""
    swarm = side(raises)
    swarm.process.hear(EVENT)
    swarm.theirs.close()

    for _ in range(3):
        swarm.process.hear(EVENT)

    assert [each.count for each in swarm.said if isinstance(each, ListenerFailed)] == [1, 2]
    [found] = swarm.findings()
    assert found["what"] == "listeners of the supervisor's events miss some of them"
    assert found["evidence"].startswith("3 times, last at supervisor_warning: ")


def test_events_of_two_kinds_that_nobody_takes_are_counted_once_each(side: Make) -> None:
    swarm = side(raises)
    swarm.process.hear(EVENT)
    swarm.theirs.close()

    for _ in range(5):
        swarm.process.hear(EVENT)
        swarm.process.hear(SwarmQuiet())

    [found] = swarm.findings()
    assert found["evidence"].startswith("10 times, last at swarm_quiet: ")


def test_deaths_and_what_is_dropped_over_one_event_are_counted_apart(side: Make) -> None:
    """Ten that were dropped and one death are eleven, in whichever order they are told."""
    swarm = side(raises)
    swarm.process.hear(EVENT)
    swarm.theirs.close()
    for _ in range(10):
        swarm.process.hear(EVENT)

    swarm.exit = Exit(None, "SIGSEGV")
    swarm.process.collect()

    [found] = swarm.findings()
    assert found["evidence"].startswith("11 times, last at supervisor_warning: the process of ")


def test_the_death_of_their_process_is_said_and_an_end_that_is_meant_is_not(
    side: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = side(raises)
    swarm.process.hear(EVENT)
    swarm.exit = Exit(None, "SIGSEGV")
    swarm.process.collect()

    [died] = swarm.said
    assert isinstance(died, ListenerFailed)
    assert (died.listener, died.heard, died.count) == ("*", "supervisor_warning", 1)
    assert "(SIGSEGV)" in died.error
    assert "(SIGSEGV)" in swarm.findings()[0]["evidence"]

    monkeypatch.setattr(listening, "_RESTART", 0.0)
    again = side(raises)
    again.process.hear(EVENT)
    again.exit = Exit(0, None)
    again.process.close()
    again.process.collect()

    assert again.said == []


def test_what_a_successor_calls_again_is_not_said_to_be_off_and_its_failures_are_added(
    side: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new process knows nothing of what the old one has switched off or counted."""
    monkeypatch.setattr(listening, "_RESTART", 0.0)
    swarm = side(raises)
    swarm.hear(TRIES)
    swarm.exit = Exit(None, "SIGSEGV")
    swarm.process.collect()

    _, ended = swarm.findings()
    swarm.hear(3)
    _, again = swarm.findings()

    assert (ended["what"], again["what"]) == ("the listener raises raises", "the listener raises raises")
    assert ended["evidence"].startswith(f"{TRIES} times, ")
    assert again["evidence"].startswith(f"{TRIES + 3} times, ")


def test_what_their_process_said_before_it_died_is_taken_in(side: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may say something, and die, between two looks of the supervisor."""
    swarm = side(raises)
    swarm.process.hear(EVENT)

    def dies(process: object) -> Exit:
        swarm.theirs.send(json.dumps([1, "raises", "supervisor_warning", "ValueError", 1, False]).encode())
        return Exit(None, "SIGSEGV")

    monkeypatch.setattr(listening, "reap", dies)
    swarm.process.collect()

    assert "the listener raises raises" in [each["what"] for each in swarm.findings()]


def test_two_listeners_of_one_name_are_told_apart_and_counted_apart(side: Make) -> None:
    def make(tries: int) -> Callable[[Event], None]:
        calls = iter(range(100))

        def audit(event: Event) -> None:
            if next(calls) < tries:
                raise ValueError("no room in the ledger")

        audit.__qualname__ = "audit"
        return audit

    swarm = side(make(0), make(TRIES), make(2))

    swarm.hear(TRIES + 2)

    second, third = swarm.findings()
    assert second["what"] == "the listener audit (no. 2) raises, and is called no more"
    assert second["evidence"].startswith(f"{TRIES} times, ")
    assert third["what"] == "the listener audit (no. 3) raises"
    assert third["evidence"].startswith("2 times, ")


def test_a_listener_of_two_kinds_of_events_is_one(side: Make) -> None:
    swarm = side(raises)
    swarm.app.on(SwarmQuiet)(raises)

    swarm.hear()

    [failed] = swarm.said
    assert isinstance(failed, ListenerFailed)
    assert failed.listener == "raises"


def test_names_of_any_length_are_told_apart(side: Make) -> None:
    def make() -> Callable[[Event], None]:
        def audit(event: Event) -> None:
            raise ValueError("no room in the ledger")

        audit.__qualname__ = "n" * 500
        return audit

    swarm = side(make(), make())

    swarm.hear()

    assert [(each.listener[-8:], len(each.listener)) for each in swarm.said if isinstance(each, ListenerFailed)] == [
        (" (no. 1)", 200),
        (" (no. 2)", 200),
    ]


def test_after_an_end_that_was_not_the_last_word_the_next_event_starts_them_anew(side: Make) -> None:
    """A reload ends them; where the program cannot be executed, the supervisor goes on, and says so to them at once."""
    swarm = side(raises)
    swarm.hear()
    first = swarm.theirs
    swarm.exit = Exit(0, None)
    swarm.process.close()

    assert (swarm.process.fds, swarm.process.pids) == ([], [])

    swarm.hear()

    assert swarm.theirs is not first
    [found] = swarm.findings()
    assert (found["what"], found["evidence"][:8]) == ("the listener raises raises", "2 times,")


def test_what_they_say_while_they_hear_the_end_is_taken_in(side: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    swarm = side(raises)
    swarm.process.hear(EVENT)

    def ends(process: object) -> Exit:
        swarm.theirs.send(json.dumps([1, "raises", "supervisor_warning", "ValueError", 1, False]).encode())
        return Exit(0, None)

    monkeypatch.setattr(listening, "reap", ends)
    swarm.process.close()

    assert [each["what"] for each in swarm.findings()] == ["the listener raises raises"]


def test_one_that_did_not_return_is_not_named_after_the_end(side: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    swarm = side(raises)
    swarm.process.hear(EVENT)
    swarm.theirs.send(json.dumps([1, "raises", "supervisor_warning"]).encode())
    monkeypatch.setattr(listening, "time", SimpleNamespace(monotonic=lambda: now[0]))
    swarm.process.collect()
    now[0] += HANGS + 1
    swarm.process.collect()
    [hangs] = swarm.findings()

    swarm.exit = Exit(0, None)
    swarm.process.close()

    assert hangs["what"] == "the listener raises does not return"
    assert swarm.findings() == []


def test_names_and_events_that_are_made_up_do_not_fill_the_memory() -> None:
    observed = Observed()
    for number in range(2000):
        observed.listener_failed(number, f"listener {number}", "a", "ValueError", 1, off=False)
        observed.listener_failed(0, "listener 0", f"event {number}", "ValueError: \n" + "x" * 1000, 1, off=False)

    found = list(observed.findings())

    assert len(found) == 500
    assert max(len(each["evidence"]) for each in found) < 500


def test_the_catalogue_has_what_this_test_says() -> None:
    assert SupervisorWarning in events.OF_SUPERVISOR
    assert json.loads(json.dumps(EVENT.facts())) == EVENT.facts()
