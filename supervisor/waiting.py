"""Who waits for a restart, a reload or another number of workers, and what they are told meanwhile. Knows no process and no signal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from swarm.supervisor.control import Connection
from swarm.supervisor.record import Worker

UP: Final = ("running", "quiet")
PATIENCE: Final = 5.0
"""Seconds of waiting before a client is told what for, and between two times."""
_MOST_NAMED: Final = 3

Answer = dict[str, Any] | str | None
"""What was done; why it will not be; or None: not yet."""


@dataclass(slots=True)
class Waiter:
    """One client that waits until something is done."""

    connection: Connection
    done: Callable[[], Answer]
    say_at: float
    said: str = ""
    for_reload: bool = False
    """It outlives the supervisor's re-execution."""


def is_up(worker: Worker) -> bool:
    """Whether it has a process that has joined its groups and is not being stopped."""
    return worker.process is not None and not worker.terminated_at and worker.board.state in UP


class Waiting:
    """All who wait."""

    def __init__(self) -> None:
        self._waiters: list[Waiter] = []

    def add(self, connection: Connection, done: Callable[[], Answer], now: float, *, for_reload: bool = False) -> None:
        """Answer a client when `done` says so."""
        self._waiters.append(Waiter(connection, done, now + PATIENCE, for_reload=for_reload))

    def answer(self, now: float, under_way: Callable[[], str]) -> None:
        """Answer those who need not wait any more, and tell the others, now and then, what they wait for. Once a pass."""
        waiting = []
        for waiter in self._waiters:
            answer = waiter.done()
            if isinstance(answer, str):
                waiter.connection.refuse(answer)
            elif answer is not None:
                waiter.connection.answer(answer)
            elif waiter.connection.open:
                waiting.append(waiter)
                if now >= waiter.say_at:
                    waiter.say_at = now + PATIENCE
                    text = under_way()
                    if text not in ("", waiter.said):
                        waiter.said = text
                        waiter.connection.progress(text)
        self._waiters = waiting

    def refuse(self, why: str) -> None:
        """Nobody needs to wait any more."""
        for waiter in self._waiters:
            waiter.connection.refuse(why)
        self._waiters = []

    def take_for_reload(self, why: str) -> list[Connection]:
        """Those who wait for a reload, which another one replaces; all others are refused."""
        reloads = [waiter.connection for waiter in self._waiters if waiter.for_reload]
        self._waiters = [waiter for waiter in self._waiters if not waiter.for_reload]
        self.refuse(why)
        return reloads


def under_way(workers: Iterable[Worker]) -> str:
    """What a restart, a reload or a change of scale waits for, in words; empty where there is nothing to wait for."""
    workers = list(workers)
    texts = [text for worker in workers if (text := _hindrance(worker))]
    due = sum(1 for worker in workers if worker.restart_due and not worker.terminated_at)
    if len(texts) > _MOST_NAMED:
        texts[_MOST_NAMED:] = [f"{len(texts) - _MOST_NAMED} more of them"]
    if due:
        texts.append(f"{due} still to be replaced")
    return "; ".join(texts)


def _hindrance(worker: Worker) -> str:
    who = f"worker {worker.index}"
    if worker.process is None:
        if worker.retired:
            return ""
        last = worker.last_exit
        return f"{who} waits for its next start" + (f" ({last['reason']}: {last['detail']})" if last else "")
    if worker.terminated_at:
        return f"{who} is finishing what it has in hand"
    if worker.board.state not in UP:
        return f"{who} has not joined its groups yet"
    return ""
