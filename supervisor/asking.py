"""Questions to workers over their channels, and who waits for the answers. Never waits itself; knows no socket.

A worker answers `{"answer": number, "result": …}` when it can, in its own time; one that is stuck never does. So each question has a deadline,
at which whoever asked gets what there is, and the reason for what there is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Answers = Mapping[int, dict[str, Any]]
"""By worker index: `{"result": …}`, or `{"unanswered": why}`."""

GONE: Final = "its process ended before it had answered"
MUTE: Final = 5.0
"""Seconds without a report after which a worker is not waited for: it hears a question in the same place in which it reports."""


@dataclass(slots=True)
class _Question:
    waiting: dict[int, int]
    """Index -> pid of those who have not answered yet."""
    deadline: float
    patience: float
    done: Callable[[Answers], None]
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)


class Asking:
    """All questions that are open. `now` is always CLOCK_MONOTONIC seconds."""

    def __init__(self) -> None:
        self._open: dict[int, _Question] = {}
        self._number = 0

    @property
    def due(self) -> float:
        """When the next deadline is; infinity where nothing is open."""
        return min((question.deadline for question in self._open.values()), default=float("inf"))

    def ask(
        self,
        tell: Mapping[int, tuple[int, Callable[[int], bool]]],
        now: float,
        patience: float,
        done: Callable[[Answers], None],
    ) -> None:
        """Ask workers and call `done` with the answers, from within this call or a later one.

        tell: index -> its pid, and what sends the question with the number that it is given; False: it did not go through.
        """
        self._number += 1
        question = self._open[self._number] = _Question({}, now + patience, patience, done)
        for index, (pid, send) in tell.items():
            if send(self._number):
                question.waiting[index] = pid
            else:
                question.answers[index] = {"unanswered": "it does not read what the supervisor tells it"}
        self._settle(self._number)

    def hear(self, index: int, pid: int, message: Mapping[str, Any]) -> None:
        """A worker's answer. One that nobody waits for any more is dropped."""
        question = self._open.get(message["answer"])
        if question is not None and question.waiting.get(index) == pid:
            del question.waiting[index]
            question.answers[index] = {"result": message["result"]}
            self._settle(message["answer"])

    def collect(self, now: float, alive: Mapping[int, float]) -> None:
        """Give up who is late, who is mute, and who is gone. alive: pid -> when it reported last. Once a pass."""
        for number, question in list(self._open.items()):
            asked_at = question.deadline - question.patience
            for index, pid in list(question.waiting.items()):
                if pid not in alive:
                    question.answers[index] = {"unanswered": GONE}
                elif now >= question.deadline or now - max(asked_at, alive[pid]) >= MUTE < question.patience:
                    said = f"it did not answer within {now - asked_at:.0f} s"
                    if now < question.deadline:
                        said += ", and does not report either"
                    question.answers[index] = {"unanswered": said}
                else:
                    continue
                del question.waiting[index]
            self._settle(number)

    def _settle(self, number: int) -> None:
        question = self._open[number]
        if not question.waiting:
            del self._open[number]
            question.done(question.answers)
