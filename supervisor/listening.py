"""The child that runs an application's listeners for the supervisor's own events (`WorkerExited`, `SwarmStopping`, …).

No code of the application runs in the supervisor after the first fork, so that nothing in it can hang: these listeners get a
process of their own, forked only where the app has any. Like the others they are passive: what they raise is said, and where
they cannot keep up, events are dropped and counted. Each failure is counted for `status`, and said at the 1st, 2nd, 4th, 8th time.
Workers' events are heard in the workers (`swarm.bus.Listeners`).
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from swarm import events
from swarm.app import App
from swarm.conduct import LONGEST_NAME, SLOW, TRIES, Conduct, name_of
from swarm.errors import describe
from swarm.supervisor.observed import Lapse, Observed
from swarm.supervisor.processes import Process, end, reap

_TEXT: Final = 32_000
"""Characters of one text field: a message must fit the socket's buffer, and a backtrace may not."""
_ERROR: Final = 2_000
"""Characters of an error: what `collect` receives has at most 64 KiB, up to twelve bytes a character, and may not be cut."""
_MOST: Final = 65536
"""Bytes of what the child says at once."""
_RESTART: Final = 5.0
"""Seconds between two starts of a child that dies."""
_FAREWELL: Final = 2.0
"""Seconds that the listeners have, at the end, to hear what is still under way."""

HANGS: Final = 10.0
"""Seconds from which on a call is said not to return. One that does is counted as slow afterwards."""

Registered = tuple[type[events.Event], Callable[[Any], None]]
"""A listener and what it hears, as the app has it."""
Fork = Callable[[Callable[[socket.socket], int]], Process]


def wanted_by(app: App | None) -> bool:
    """Whether the app listens to anything that the supervisor says."""
    return app is not None and any(
        issubclass(said, heard) for heard, _ in app.listeners for said in events.OF_SUPERVISOR
    )


class _Call(NamedTuple):
    """The child is about to call this listener over this event; 0 and nothing: none is under way."""

    number: int
    listener: str
    heard: str


class _Failure(NamedTuple):
    """A call went wrong, for the `times`th time over this event. off: the listener is called no more. number: the listener's, in the
    order of `App.on`, from 1."""

    number: int
    listener: str
    heard: str
    error: str
    times: int
    off: bool


class ListenerProcess:
    """The supervisor's side: hands events over, never waits, and starts the child again when it dies."""

    def __init__(
        self,
        app: App,
        fork: Fork,
        failed: Callable[[events.Event], None],
        observed: Observed,
        hide: Callable[[str], str] = str,
    ) -> None:
        self._app = app
        self._fork = fork
        self._failed = failed
        self._observed = observed
        self._hide = hide
        self._process: Process | None = None
        self._start_at = 0.0
        self._lapses: Counter[Lapse] = Counter()
        self._last = ""
        self._under_way = _Call(0, "", "")
        self._since = 0.0

    @property
    def fds(self) -> list[int]:
        """For another child to close."""
        if self._process is None:
            return []
        channel = self._process.channel
        return [self._process.pidfd, *([channel.fileno()] if channel is not None else [])]

    @property
    def pids(self) -> list[int]:
        """Children that are ours."""
        return [self._process.pid] if self._process is not None else []

    def hear(self, event: events.Event) -> None:
        """The sink of the supervisor's bus."""
        if isinstance(event, (events.ListenerFailed, events.ListenerSwitchedOff)):
            return
        if self._process is None and time.monotonic() >= self._start_at:
            self._start_at = time.monotonic() + _RESTART
            with contextlib.suppress(OSError):
                self._process = self._fork(lambda channel: listen(channel, self._app.listeners, self._hide))
        facts = {key: value[:_TEXT] if isinstance(value, str) else value for key, value in event.facts().items()}
        try:
            if self._process is None or self._process.channel is None:
                raise ConnectionError
            self._process.channel.send(json.dumps([event.event_name(), facts], default=str).encode())
            self._last = event.event_name()
        except OSError:
            said = "listeners of the supervisor's events are too slow or dead: events were dropped"
            self._lapse("dropped", event.event_name(), said)

    def collect(self) -> None:
        """Take in what the child says of failures, and its death. Once a pass."""
        process = self._process
        if process is None or process.channel is None:
            return
        ended = reap(process)  # before the look at what it has said: whoever has ended says nothing afterwards
        self._take(process.channel)
        if ended is not None:
            self._forget(process)
            how = ended.signal or f"exit code {ended.code}"
            death = f"the process of the supervisor's listeners ended ({how}) over this event or one before, and is started again"
            self._lapse("died", self._last, death)
            return
        call = self._under_way
        lasts = time.monotonic() - self._since if call.number else 0.0
        self._observed.listener_hangs(call.listener, call.heard, lasts if lasts > HANGS else 0.0)

    def _forget(self, process: Process) -> None:
        """It has been reaped."""
        self._process = None
        process.close()
        self._under_way = _Call(0, "", "")
        self._observed.listeners_ended()

    def _take(self, channel: socket.socket) -> None:
        """Whatever the child says: the application's code is in it, and may write where it should not."""
        with contextlib.suppress(OSError):
            while data := channel.recv(_MOST):
                try:
                    said = _understood(json.loads(data), len(self._app.listeners), self._hide)
                except (ValueError, TypeError, KeyError, RecursionError):
                    amiss = "the process of the supervisor's listeners said what cannot be understood: it was dropped"
                    self._lapse("garbled", self._last, amiss)
                    continue
                if isinstance(said, _Call):
                    self._under_way, self._since = said, time.monotonic()
                else:
                    self._say(said)

    def _say(self, failure: _Failure) -> None:
        number, listener, heard, error, times, off = failure
        self._observed.listener_failed(number, listener, heard, error, times, off=off)
        if times & (times - 1) == 0:
            self._failed(events.ListenerFailed(listener, heard, error, times))
        if off:
            self._failed(events.ListenerSwitchedOff(listener, heard, error, TRIES))

    def _lapse(self, lapse: Lapse, heard: str, error: str) -> None:
        """Counted over all events and all processes that come one after the other."""
        self._lapses[lapse] += 1
        times = self._lapses[lapse]
        self._observed.listeners_lapsed(lapse, heard, error, times)
        if times & (times - 1) == 0:
            self._failed(events.ListenerFailed("*", heard, error, times))

    def close(self) -> None:
        """Let the listeners hear the end, then end the child. Blocks for up to 2 s. An event after that, where a reload could not execute the
        program, starts it anew."""
        process = self._process
        if process is None or process.channel is None:
            return
        with contextlib.suppress(OSError):
            process.channel.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + _FAREWELL
        while (ended := reap(process)) is None and time.monotonic() < deadline:
            self._take(process.channel)  # else a child with much to say would wait for us
            time.sleep(0.01)
        if ended is None:
            end(process)
        self._take(process.channel)
        self._forget(process)
        self._start_at = 0.0


def _understood(said: object, listeners: int, hide: Callable[[str], str]) -> _Call | _Failure:
    """What the child says, if it is what `listen` may say of so many listeners; raises ValueError."""
    match said:
        case [0, "", ""]:
            return _Call(0, "", "")
        case [int(number), str(who), str(heard), *more] if _is_count(number, listeners) and heard in events.CATALOGUE:
            name = _plain(hide(who), LONGEST_NAME)
            match more:
                case []:
                    return _Call(number, name, heard)
                case [str(error), int(times), bool(off)] if _is_count(times, 1 << 63):
                    return _Failure(number, name, heard, _plain(hide(error), _ERROR), times, off)
    raise ValueError("neither a call nor a failure")


def _is_count(number: int, most: int) -> bool:
    return not isinstance(number, bool) and 0 < number <= most


def _plain(text: str, longest: int) -> str:
    """Without halves of characters, which JSON can carry and no file can hold."""
    return text[:longest].encode("utf-8", "replace").decode()


def _named(listeners: Sequence[Registered], hide: Callable[[str], str]) -> Iterator[tuple[Registered, int, str]]:
    """Each with its number, from 1, and its name, which says the number where another one is called so. Twice the same object: one listener."""
    numbers: dict[int, int] = {}
    for number, (_, listener) in enumerate(listeners, 1):
        numbers.setdefault(id(listener), number)
    names = {id(listener): hide(name_of(listener))[:LONGEST_NAME] for _, listener in listeners}
    shared = Counter(names.values())
    for wanted, listener in listeners:
        number, name = numbers[id(listener)], names[id(listener)]
        mark = f" (no. {number})" if shared[name] > 1 else ""
        yield (wanted, listener), number, name[: LONGEST_NAME - len(mark)] + mark


def listen(
    channel: socket.socket,
    listeners: Sequence[Registered],
    hide: Callable[[str], str] = str,
) -> int:
    """The child's side: hear until the supervisor closes its end, and say which call is under way (`_Call`) and what
    went wrong (`_Failure`). hide: takes secrets out of a text, before it is cut: a part of one is not recognised. Main thread of the child."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it goes when the supervisor goes, after the last event
    conduct = Conduct()
    named = list(_named(listeners, hide))
    channel.setblocking(True)
    while data := channel.recv(1 << 20):
        name, facts = json.loads(data)
        event = events.CATALOGUE[name](**facts)
        for (wanted, listener), number, who in named:
            if not isinstance(event, wanted) or conduct.is_off(id(listener)):
                continue
            with contextlib.suppress(OSError):
                channel.send(json.dumps(_Call(number, who, name)).encode())
            began = time.monotonic()
            try:
                listener(event)
                seconds = time.monotonic() - began
                wrong = f"it took {seconds:.1f} s: events behind it wait" if seconds > SLOW else ""
            except BaseException as error:
                wrong = describe(error)
            if not wrong:
                conduct.went_well(id(listener))
                continue
            step = conduct.went_wrong(id(listener), name)
            with contextlib.suppress(OSError):
                failure = _Failure(number, who, name, hide(wrong)[:_ERROR], step.times, step.off)
                channel.send(json.dumps(failure).encode())
        with contextlib.suppress(OSError):
            channel.send(json.dumps(_Call(0, "", "")).encode())
    return 0
