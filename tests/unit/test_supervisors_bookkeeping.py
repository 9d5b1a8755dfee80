"""Small books that the supervisor keeps: who was killed for memory, who waits for what, which signals were not heard yet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from swarm.errors import SwarmError
from swarm.scoreboard import MESSAGES, Scoreboard
from swarm.supervisor import succession
from swarm.supervisor.memory import OomKills, oom_group, oom_kills
from swarm.supervisor.processes import Process
from swarm.supervisor.record import BEQUEATHED, Worker
from swarm.supervisor.waiting import PATIENCE, Answer, Waiting


def test_each_kill_that_the_cgroup_counts_explains_one_death(tmp_path: Path) -> None:
    """Two workers that the kernel kills at once are both explained, a third one that somebody killed is not, nor one much later."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/shop\n")
    events = tmp_path / "sys/fs/cgroup/shop/memory.events"
    events.parent.mkdir(parents=True)

    def counted(kills: int) -> None:
        events.write_text(f"low 0\noom 9\noom_kill {kills}\n")

    counted(5)
    book = OomKills(lambda: oom_kills(tmp_path))
    before = book.explains(100.0)
    counted(7)
    book.look(101.0)

    assert not before
    assert [book.explains(101.5) for _ in range(3)] == [True, True, False]
    counted(8)  # a process of the application's, which nobody here knows
    book.look(102.0)
    assert not book.explains(102.0 + OomKills.FOR)


def test_kills_are_counted_in_either_version_of_cgroups(tmp_path: Path) -> None:
    """v2: memory.events; v1: memory.oom_control of its memory hierarchy, also where the path is one of the host's."""
    (tmp_path / "proc/self").mkdir(parents=True)
    cgroup = tmp_path / "proc/self/cgroup"
    v1 = tmp_path / "sys/fs/cgroup/memory"
    v1.mkdir(parents=True)

    cgroup.write_text("5:memory:/kubepods/pod1\n0::/\n")
    before = oom_kills(tmp_path)
    (v1 / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")

    assert (before, oom_kills(tmp_path)) == (None, 3)


@pytest.mark.parametrize(
    ("texts", "expected"), [({}, False), ({"shop": "0"}, False), ({"shop": "1"}, True), ({"": "1"}, True)]
)
def test_a_cgroup_that_is_killed_as_one_is_recognized(tmp_path: Path, texts: dict[str, str], expected: bool) -> None:
    """v2's memory.oom.group, of ours or of one around it: a container's, or a unit's with OOMPolicy=kill."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/shop/workers\n")
    for group, text in texts.items():
        file = tmp_path / "sys/fs/cgroup" / group / "memory.oom.group"
        file.parent.mkdir(parents=True)
        file.write_text(text + "\n")

    assert oom_group(tmp_path) is expected


def test_where_nothing_is_counted_nothing_is_explained() -> None:
    """No cgroup, or one that comes and goes."""
    answers = iter([None, None, 3, 3, None, 4])
    book = OomKills(lambda: next(answers))

    assert [book.explains(1.0) for _ in range(5)] == [False] * 5


class Client:
    """A connection as the book sees it."""

    def __init__(self) -> None:
        self.open = True
        self.heard: list[Any] = []

    def answer(self, result: Any) -> None:
        self.heard.append(result)

    def refuse(self, error: str) -> None:
        self.heard.append(f"refused: {error}")

    def progress(self, text: str) -> None:
        self.heard.append(f"progress: {text}")


def test_who_waits_is_told_what_for_but_not_at_once_nor_again_and_again() -> None:
    """The first word after a while, the next when there is news; then the answer, once."""
    waiting, client, state = Waiting(), Client(), {"answer": None, "under_way": "worker 1 starts"}

    def done() -> Answer:
        return state["answer"]

    waiting.add(client, done, 0.0)  # type: ignore[arg-type]
    for now in (0.0, PATIENCE - 0.1, PATIENCE, PATIENCE + 1, 3 * PATIENCE):
        waiting.answer(now, lambda: str(state["under_way"]))
    state["under_way"] = "worker 2 starts"
    waiting.answer(5 * PATIENCE, lambda: str(state["under_way"]))
    state["answer"] = {"state": "running"}  # type: ignore[assignment]
    for _ in range(2):
        waiting.answer(6 * PATIENCE, lambda: "")

    assert client.heard == ["progress: worker 1 starts", "progress: worker 2 starts", {"state": "running"}]


def test_a_reload_takes_along_who_waits_for_one_and_refuses_the_others() -> None:
    """Their question was about processes that are all replaced now."""
    waiting, reload, restart = Waiting(), Client(), Client()
    waiting.add(reload, lambda: None, 0.0, for_reload=True)  # type: ignore[arg-type]
    waiting.add(restart, lambda: None, 0.0)  # type: ignore[arg-type]

    (taken,) = waiting.take_for_reload("a reload came")
    assert id(taken) == id(reload)
    assert (reload.heard, restart.heard) == ([], ["refused: a reload came"])


def test_code_that_hangs_while_it_is_loaded_is_interrupted() -> None:
    """Also where it takes the first interruption for an error of its own."""

    def load() -> None:
        with succession.time_limit(0.05):
            try:
                threading.Event().wait()
            except Exception:
                threading.Event().wait()

    before = signal.getsignal(signal.SIGALRM)
    try:
        with pytest.raises(SwarmError, match="did not load within"):
            load()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_signal_that_came_but_was_not_read_yet_waits_for_the_successor() -> None:
    """It is only a byte in a pipe that ends with the program: so it is sent once more, when signals wait."""
    program = """if True:
        import os, signal
        from swarm.supervisor.processes import block_signals
        from swarm.supervisor.signals import Signals
        signals = Signals(2)
        os.kill(os.getpid(), signal.SIGTERM)
        block_signals()
        signals.hear_again()
        print(sorted(signal.sigpending()) == [signal.SIGTERM], signals.read())
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)

    assert done.stdout == "True []\n", done.stderr


def test_what_a_worker_leaves_behind_is_all_that_the_next_supervisor_asks_for() -> None:
    """A field that is no longer one, or is no plain fact, would be noticed only in the middle of a reload."""
    board = Worker.__dataclass_fields__

    assert set(BEQUEATHED) <= set(board)
    assert {"retired", "restart_due", "settling", "terminated_at", "stop_deadline", "killed", "reason"} <= set(
        BEQUEATHED
    )


def test_a_scoreboard_of_another_release_makes_its_worker_wait_for_its_turn() -> None:
    """It cannot be read any more: that is no fault of the worker's, and no reason to replace all of them at once."""
    fd, dump = os.memfd_create("other-layout"), os.memfd_create("dump")
    os.ftruncate(fd, 1 << 20)
    facts = {name: getattr(Worker(0, None, dump), name) for name in BEQUEATHED}  # type: ignore[arg-type]
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    worker = Worker.inherit({**facts, "board": fd, "dump": dump, "channel": None, "pid": pid})
    try:
        assert worker.process is not None
        assert worker.view({}).report_at == float("inf")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if worker.process is not None:
            worker.process.close()
        worker.close()


def test_a_partition_for_which_a_worker_was_replaced_is_no_fault_of_the_next_one() -> None:
    """Where it stands in the successor too, the fault is elsewhere: a third process would be no better."""
    board = Scoreboard.create(0)
    try:
        worker = Worker(0, board, -1)
        worker.process = Process(1, -1, None)
        ids = (board.string("shop"), board.string("orders"))
        board.set_assigned([(*ids, n, 5, 5, 5, 0.0, False, since) for n, since in ((0, 30.0), (1, 20.0), (2, 0.0))])

        seen = [
            worker.view(given_up).stands_since
            for given_up in ({}, {("shop", "orders", 1): 5}, {("shop", "orders", 1): 5, ("shop", "orders", 0): 5})
        ]

        assert seen == [20.0, 30.0, 0.0]
    finally:
        board.close()


def test_a_worker_s_messages_are_counted_from_its_own_beginning() -> None:
    """The index's counter goes on over its processes; `max_messages` is about one of them."""
    worker = Worker(0, Scoreboard.create(0), os.memfd_create("dump"))
    counts = []
    for _ in range(2):
        worker.begin(Process(os.getpid(), -1), 10.0, 0.0, 100)
        counts.append(worker.view({}).messages)
        worker.board.add(MESSAGES, 70)
        counts.append(worker.view({}).messages)
    worker.close()

    assert counts == [0, 70, 0, 70]
    assert worker.message_limit == 100


def test_a_state_lasts_from_when_it_was_first_seen() -> None:
    """Looked at once a pass; the same state again changes nothing."""
    worker = Worker(0, Scoreboard.create(0), os.memfd_create("dump"))
    try:
        seen = []
        for state, now in (("starting", 5.0), ("starting", 6.0), ("running", 7.0), ("running", 9.0), ("quiet", 9.5)):
            seen.append((worker.notice(state, now), worker.state_seen, worker.state_at))
        worker.begin(Process(os.getpid(), -1), 10.0, 0.0, 100)
        new = worker.notice("quiet", 10.5)  # another process, whatever the one before was
        seen.append((new, worker.state_seen, worker.state_at))
    finally:
        worker.close()

    assert seen == [
        (True, "starting", 5.0),
        (False, "starting", 5.0),
        (True, "running", 7.0),
        (False, "running", 7.0),
        (True, "quiet", 9.5),
        (True, "quiet", 10.5),
    ]
