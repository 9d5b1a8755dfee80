"""What this worker has been told of messages that may kill their process, and what follows for a batch. Knows no client and no thread.

The supervisor keeps the ranges (`swarm.supervisor.suspects`) and tells every worker; here is only asked: may this batch run as it is?
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from swarm.message import Record

ALONE_AFTER: Final = 2
"""Deaths on one range after which its messages run one by one, with nothing else beside."""

Step = tuple[Literal["run", "alone", "condemned"], int]
"""What to do first with a batch, and with how many of its messages."""


class Suspicion:
    """The ranges under suspicion. `learn` replaces them (main thread); processing threads read: a reference is swapped whole."""

    def __init__(self, facts: Iterable[dict[str, Any]] = ()) -> None:
        self._by_partition: dict[tuple[str, str, int], list[tuple[int, int, int, bool]]] = {}
        self.learn(facts)

    def learn(self, facts: Iterable[dict[str, Any]]) -> None:
        """These are all there are now."""
        found: dict[tuple[str, str, int], list[tuple[int, int, int, bool]]] = {}
        for each in facts:
            key = (each["group"], each["topic"], each["partition"])
            found.setdefault(key, []).append((each["first"], each["last"], each["deaths"], each["condemned"]))
        self._by_partition = found

    def __bool__(self) -> bool:
        return bool(self._by_partition)

    def deaths(self, group: str, topic: str, partition: int, offset: int) -> int:
        """How often a process died with this message in hand, as far as is known."""
        ranges = self._by_partition.get((group, topic, partition), ())
        return max((deaths for first, last, deaths, _ in ranges if first <= offset <= last), default=0)

    def first_step(self, group: str, topic: str, partition: int, batch: Sequence[Record]) -> Step:
        """Run the messages before a suspect as they are; a suspect alone; a condemned one not at all."""
        ranges = self._by_partition.get((group, topic, partition))
        if ranges is None:
            return "run", len(batch)
        for number, record in enumerate(batch):
            offset = record.offset()
            mine = [each for each in ranges if each[0] <= offset <= each[1] and each[2] >= ALONE_AFTER]
            if mine:
                if number:
                    return "run", number
                return ("condemned" if any(each[3] for each in mine) else "alone"), 1
        return "run", len(batch)
