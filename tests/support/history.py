"""Histories for tests of the invariants: events as a log holds them, written by hand or by chance. Knows no swarm and no Kafka."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from swarm.testing.invariants import Book, Facts, Semantics, Violation, check

GROUP, TOPIC = "shop", "orders"
Offsets = tuple[int, int]


class History:
    """Events in the order in which they are said. Offsets of runs are the first and the last."""

    def __init__(self, **semantics: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.book = Book({GROUP: [Semantics(topics=(TOPIC,), **semantics)]})
        self.now = 0
        self.say("swarm_started", 1)

    def say(self, event: str, pid: int, worker: int | None = None, **facts: Any) -> None:
        self.now += 1
        at = f"2026-01-01T{self.now // 3_600_000:02}:{self.now // 60_000 % 60:02}:{self.now // 1000 % 60:02}.{self.now % 1000:03}Z"
        self.events.append({"timestamp": at, "event": event, "worker": worker, "pid": pid, **facts})

    # -- processes -----------------------------------------------------------------------------------

    def start(self, pid: int, worker: int = 0) -> None:
        self.say("worker_started", pid, worker, restarts=0)

    def exit(self, pid: int, code: int | None = 0, signal: str | None = None, worker: int = 0) -> None:
        self.say("worker_exited", pid, worker, code=code, signal=signal, reason="", detail="")

    def stop(self) -> None:
        self.say("swarm_stopped", 1, code=0, seconds=1.0)

    # -- membership ----------------------------------------------------------------------------------

    def assign(self, pid: int, start: int = 0, partition: int = 0) -> None:
        self.say("partitions_assigned", pid, group=GROUP, partitions=[[TOPIC, partition, start]])

    def revoke(self, pid: int, partition: int = 0, seconds: float = 0.1) -> None:
        self.say("partitions_revoked", pid, group=GROUP, partitions=[[TOPIC, partition]], seconds=seconds)

    def lose(self, pid: int, partition: int = 0) -> None:
        self.say("partitions_lost", pid, group=GROUP, partitions=[[TOPIC, partition]])

    def give_up(self, pid: int, partition: int = 0) -> None:
        self.say("revocation_given_up", pid, group=GROUP, partitions=[[TOPIC, partition]], seconds=9.0)

    # -- work ----------------------------------------------------------------------------------------

    def begin(
        self, pid: int, first: int, last: int, partition: int = 0, attempt: int = 1, count: int | None = None
    ) -> None:
        self._work("batch_started", pid, first, last, partition, count=count or last - first + 1, attempt=attempt)

    def end(self, pid: int, first: int, last: int, partition: int = 0, attempt: int = 1) -> None:
        self._work("batch_consumed", pid, first, last, partition, count=last - first + 1, attempt=attempt, seconds=0.1)

    def fail(self, pid: int, first: int, last: int, partition: int = 0, attempt: int = 1) -> None:
        self._work("consume_failed", pid, first, last, partition, attempt=attempt, error="ValueError", traceback="")

    def abort(self, pid: int, first: int, last: int, partition: int = 0, error: str = "Aborted: …") -> None:
        self._work("transaction_aborted", pid, first, last, partition, error=error)

    def skip(self, pid: int, first: int, last: int, partition: int = 0) -> None:
        self._work("messages_skipped", pid, first, last, partition, count=last - first + 1, reason="filtered")

    def drop(self, pid: int, first: int, last: int, partition: int = 0) -> None:
        self._work("message_dropped", pid, first, last, partition, error="ValueError")

    def _work(self, event: str, pid: int, first: int, last: int, partition: int, **facts: Any) -> None:
        self.say(
            event, pid, group=GROUP, topic=TOPIC, partition=partition, first_offset=first, last_offset=last, **facts
        )

    def one(self, event: str, pid: int, partition: int = 0, **facts: Any) -> None:
        self.say(event, pid, group=GROUP, topic=TOPIC, partition=partition, **facts)

    def run(self, pid: int, first: int, last: int, partition: int = 0, attempt: int = 1) -> None:
        self.begin(pid, first, last, partition, attempt)
        self.end(pid, first, last, partition, attempt)

    def set_aside(self, pid: int, offset: int, partition: int = 0) -> None:
        self.one("message_dead_lettered", pid, partition, offset=offset, target="dead", attempts=3, error="")

    def commit(self, pid: int, offset: int, partition: int = 0) -> None:
        self.say("offsets_committed", pid, group=GROUP, offsets=[[TOPIC, partition, offset]])

    def refuse(self, pid: int, offset: int, partition: int = 0) -> None:
        self.say(
            "commit_failed", pid, group=GROUP, offsets=[[TOPIC, partition, offset]], code="UNKNOWN_MEMBER_ID", error=""
        )

    # -- judgement -----------------------------------------------------------------------------------

    def judge(
        self,
        committed: int | None = None,
        contents: Iterable[int] | None = None,
        *,
        complete: bool = False,
        outputs: Iterable[int] | None = None,
    ) -> list[Violation]:
        """Of partition 0; `contents`: its offsets (None: dense)."""
        return check(
            Facts(
                self.events,
                None if contents is None else {(TOPIC, 0): list(contents)},
                None if committed is None else {(GROUP, TOPIC, 0): committed},
                self.book,
                complete,
                None if outputs is None else {GROUP: [(TOPIC, 0, offset) for offset in outputs]},
            )
        )

    def broken(self, *args: Any, **kwargs: Any) -> list[str]:
        """The names of the invariants that did not hold."""
        return [violation.invariant for violation in self.judge(*args, **kwargs)]


class Worker:
    """A process in a history by chance: what it holds, and what it is doing there."""

    def __init__(self, pid: int, index: int) -> None:
        self.pid = pid
        self.index = index
        self.running: dict[int, Offsets] = {}
        self.frontier: dict[int, int] = {}
        self.retry: dict[int, int] = {}
        self.frozen = False


class World:
    """Partitions, workers and a broker that obey the rules; `chance` decides what happens next. The events are in `history`."""

    def __init__(self, chance: random.Random, partitions: int = 3, workers: int = 2) -> None:
        self.chance = chance
        self.history = History(marks=False)
        self.ends = {number: chance.randrange(5, 60) for number in range(partitions)}
        # Offsets of no message: markers of transactions.
        self.missing = {number: {o for o in range(end) if chance.random() < 0.15} for number, end in self.ends.items()}
        self.committed = dict.fromkeys(self.ends, 0)
        self.owner: dict[int, Worker] = {}
        self.workers: list[Worker] = []
        self.late: list[Worker] = []
        self.pids = iter(range(100, 100_000))
        for index in range(workers):
            self.fork(index)
        self.rebalance()

    @property
    def contents(self) -> dict[tuple[str, int], list[int]]:
        return {
            (TOPIC, number): [o for o in range(end) if o not in self.missing[number]]
            for number, end in self.ends.items()
        }

    @property
    def facts(self) -> Facts:
        committed = {(GROUP, TOPIC, number): offset for number, offset in self.committed.items()}
        return Facts(self.history.events, self.contents, committed, self.history.book)

    def fork(self, index: int) -> None:
        worker = Worker(next(self.pids), index)
        self.history.start(worker.pid, index)
        self.workers.append(worker)

    def batch(self, number: int, start: int) -> Offsets | None:
        there = [o for o in range(start, self.ends[number]) if o not in self.missing[number]]
        size = self.chance.randint(1, 6)
        return (there[0], there[:size][-1]) if there else None

    def step(self) -> None:
        """One thing happens."""
        worker = self.chance.choice(self.workers)
        what = self.chance.choices(
            ["begin", "finish", "fail", "commit", "refused", "rebalance", "kill", "freeze", "recycle"],
            [30, 30, 5, 15, 2, 4, 3, 3, 2],
        )[0]
        getattr(self, what)(worker)

    def begin(self, worker: Worker) -> None:
        idle = [number for number in worker.frontier if number not in worker.running]
        if not idle or worker.frozen:
            return
        number = self.chance.choice(idle)
        found = self.batch(number, worker.frontier[number])
        if found is None:
            return
        count = sum(1 for o in range(found[0], found[1] + 1) if o not in self.missing[number])
        self.history.begin(worker.pid, *found, number, worker.retry.get(number, 0) + 1, count)
        worker.running[number] = found

    def finish(self, worker: Worker) -> None:
        if worker.running and not worker.frozen:
            number, (first, last) = worker.running.popitem()
            self.history.end(worker.pid, first, last, number)
            worker.frontier[number] = last + 1
            worker.retry.pop(number, None)

    def fail(self, worker: Worker) -> None:
        if worker.running and not worker.frozen:
            number, (first, last) = worker.running.popitem()
            self.history.fail(worker.pid, first, last, number)
            worker.retry[number] = worker.retry.get(number, 0) + 1

    def commit(self, worker: Worker) -> None:
        if not worker.frozen:
            for number, offset in worker.frontier.items():
                if offset > self.committed[number]:
                    self.committed[number] = offset
                    if self.chance.random() < 0.9:  # else the answer is never heard
                        self.history.commit(worker.pid, offset, number)

    def refused(self, worker: Worker) -> None:
        if not worker.frozen:
            for number, offset in worker.frontier.items():
                if offset > self.committed[number]:
                    self.history.refuse(worker.pid, offset, number)

    def rebalance(self, _: Worker | None = None) -> None:
        """Everything is given back in good order, and handed out anew."""
        for worker in self.workers:
            if not worker.frozen:
                self.give_back(worker)
        able = [worker for worker in self.workers if not worker.frozen]
        free = [number for number in self.ends if number not in self.owner]
        for number in free if able else []:
            self.give(self.chance.choice(able), number)

    def give(self, worker: Worker, number: int) -> None:
        self.owner[number] = worker
        worker.frontier[number] = self.committed[number]
        self.history.assign(worker.pid, self.committed[number], number)

    def give_back(self, worker: Worker) -> None:
        while worker.running:
            self.finish(worker)
        self.commit(worker)
        for number in list(worker.frontier):
            self.history.revoke(worker.pid, number)
            del worker.frontier[number], self.owner[number]

    def kill(self, worker: Worker) -> None:
        """SIGKILL from outside; its successor takes the seat."""
        self.workers.remove(worker)
        self.history.exit(worker.pid, None, "SIGKILL", worker.index)
        self.succeed(worker)

    def recycle(self, worker: Worker) -> None:
        if not worker.frozen:
            self.give_back(worker)
            self.workers.remove(worker)
            self.history.exit(worker.pid, 0, None, worker.index)
            self.fork(worker.index)
            self.rebalance()

    def succeed(self, worker: Worker) -> None:
        self.fork(worker.index)
        for number in [number for number, owner in self.owner.items() if owner is worker]:
            self.give(self.workers[-1], number)

    def freeze(self, worker: Worker) -> None:
        """SIGSTOP for longer than the session: the others take over, and it learns of it when it goes on."""
        others = [other for other in self.workers if other is not worker and not other.frozen]
        if worker.frozen:
            worker.frozen = False
            for number in list(worker.frontier):
                if self.owner.get(number) is not worker:
                    self.history.lose(worker.pid, number)
                    del worker.frontier[number]
                    if number in worker.running:  # it ends unheard, before the partition may come back
                        self.history.end(worker.pid, *worker.running.pop(number), number)
        elif others:
            worker.frozen = True
            for number in list(worker.frontier):
                self.give(self.chance.choice(others), number)

    def end(self, *, drained: bool) -> None:
        """A graceful stop; `drained`: of everything, first."""
        for worker in self.workers:
            if worker.frozen:
                self.freeze(worker)
        if drained:
            self.rebalance()
            for worker in self.workers:
                for number in list(worker.frontier):
                    while number in worker.running or self.batch(number, worker.frontier[number]):
                        self.begin(worker)
                        self.finish(worker)
        for worker in list(self.workers):
            self.give_back(worker)
            self.history.exit(worker.pid, 0, None, worker.index)
        self.history.stop()
