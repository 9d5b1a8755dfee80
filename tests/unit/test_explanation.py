"""The screen of `swarmctl why`: the verdict first, then its evidence; and what is told when there is no daemon."""

from __future__ import annotations

from dataclasses import replace

from swarm.aftermath import tell
from swarm.circumstances import Exit, Failure, Job, Limits, Member, Partition, Swarm, Worker
from swarm.explanation import Answer, lines, profile_lines, stack_of
from swarm.journal_reader import Assignment, Happened, History, Process, Run
from swarm.native import shown
from swarm.stacks import Frame, Share, Stack, ThreadProfile
from swarm.verdict import of_worker

JOB = Job("shop", "orders", 3, 100, 149, 2, 40.0, 300.0, "processing 1", 0.02, "shop.py line 18 (charge -> time.sleep)")
WORKER = Worker(
    1,
    pid=4711,
    uptime=60.0,
    state_for=50.0,
    report_age=0.2,
    memory=50 * 2**20,
    last_exit=Exit("crashed", "exited with code 7", 7, None, 90.0),
    jobs=(JOB,),
    members=(Member("shop", 0.1, 60.0, 2),),
    partitions=(
        Partition(
            "shop",
            "orders",
            3,
            150,
            100,
            50,
            "running",
            attempt=2,
            buffered=7,
            still_for=41.0,
            lag_trend=2.0,
            watched=50.0,
        ),
        Partition("shop", "orders", 0, 10, 10, 0),
    ),
    failures_seen=(Failure("handler", "TimeoutError: no", "shop", "orders", 3, 100, 149, 1, 60.0, 41.0, 2),),
)
SWARM = Swarm(workers=(WORKER,), limits=Limits(memory_limit=100 * 2**20))
STACK = Stack(
    7,
    "processing 1",
    (
        Frame("/srv/shop.py", 18, "charge"),
        Frame("/srv/shop.py", 9, "consume"),
        Frame("/usr/lib/python3.11/threading.py", 1, "run"),
    ),
)


def text(answer: Answer) -> list[str]:
    return lines(answer)


def test_the_verdict_comes_first_and_the_evidence_after_it() -> None:
    """Each line at its place: what is in hand, the thread, the limits, the partitions, what failed, the last exit."""
    found = text(Answer(of_worker(SWARM, 1), SWARM, [WORKER], stacks={1: [STACK]}))

    assert found[0].startswith(
        "Worker 1's handler has been running for 40 s on orders/3 (offsets 100-149, attempt 2) and is in shop.py"
    )
    assert found[0].endswith("worker 1 is replaced.")
    for line in (
        "worker 1   running for 50 s, up 1 min, pid 4711, restarts 0, messages 0, memory 50.0M",
        "in hand    orders/3 offsets 100-149, attempt 2, for 40 s (a batch takes 0.0 s on average), in thread processing 1",
        "thread     processing 1, the innermost frame first",
        "             charge (shop.py line 18)",
        "limits     consume_timeout 5 min: orders/3 runs for 40 s, strikes in 4 min 20 s",
        "           report_timeout 30 s: last report 0.2 s ago",
        "           memory_limit 100M: 50 % used",
        "partitions orders/3, lag 50 (+2/s), committed 100, running, attempt 2, 7 in store, still for 41 s",
        "failures   41 s ago, handler: orders/3 offsets 100-149 attempt 1 TimeoutError: no, 2 times in 1 min",
        "last exit  1 min 30 s ago: exited with code 7 (crashed, code 7)",
    ):
        assert line in found, "\n".join(found)


def test_a_question_about_a_partition_shows_nothing_of_others() -> None:
    """Its batch, its line."""
    found = "\n".join(text(Answer(of_worker(SWARM, 1), SWARM, [WORKER], only=("orders", 0))))

    assert "partitions orders/0" in found
    assert "in hand" not in found
    assert "orders/3, lag" not in found


def test_an_async_handlers_frames_are_the_event_loops() -> None:
    """Where its own thread only waits for it, and the loop is in the application's code."""
    waits = Stack(7, "processing 1", (Frame("/usr/lib/python3.11/threading.py", 1, "wait"),))
    loop = replace(STACK, name="asyncio")

    assert stack_of(JOB, [waits, loop]) is loop
    assert stack_of(JOB, [waits]) is waits
    assert stack_of(JOB, []) is None


def test_an_incident_is_told_with_the_applications_frames() -> None:
    """Reason, age, batch and place."""
    incident = {
        "worker": 1,
        "reason": "consume_timeout",
        "action": "killed",
        "age": 75.0,
        "path": "/state/x.json",
        "error": "",
        "jobs": [{"topic": "orders", "partition": 3, "first_offset": 1, "last_offset": 1, "attempt": 1, "age": 4.0}],
        "backtrace": 'Thread 0x1 "processing 1" (most recent call first):\n  File "/srv/shop.py", line 18 in charge\n',
    }
    found = "\n".join(text(Answer(of_worker(SWARM, 1), SWARM, [], incidents=[incident])))

    assert "incident   1 min 15 s ago: worker 1, consume_timeout (killed)\n           /state/x.json" in found
    assert "in hand: orders/3 offset 1, attempt 1, for 4.0 s" in found
    assert "charge (shop.py line 18)" in found


def test_a_profile_is_shares_and_names_who_only_waited() -> None:
    busy = ThreadProfile("processing 1", 10, (Share(("charge (shop.py line 18)", "time.sleep"), 9), Share((), 1, True)))
    idle = ThreadProfile("main", 10, (Share(("run",), 10, True),))

    assert profile_lines([busy, idle], 10) == [
        "profile, 10 samples:",
        "  processing 1",
        "     90 %  charge (shop.py line 18) > time.sleep",
        "     10 %  waiting for work",
        "  only waiting: main",
    ]


def test_native_stacks_are_shares_of_each_thread_without_what_says_nothing() -> None:
    """How a thread begins, lines of C files and addresses in libc are left out; of another library, its name stays."""
    begin = "0x7f80 (libc.so.6);thread_run (libpython3.11.so.1.0);Thread._bootstrap (threading.py:1002);Thread.run (threading.py:982)"
    raw = "\n".join(
        (
            f"thread (12): processing 1;{begin};charge (shop.py:4);zlib_crc32 (zlibmodule.c:820);0x7f81 (libz.so.1);0x7f82 (libz.so.1) 2",
            f"thread (12): processing 1;{begin};charge (shop.py:4);zlib_crc32 (zlibmodule.c:821);0x7f81 (libz.so.1) 1",
            f"thread (12): processing 1;{begin};read (shop.py:9);0x7f83 (libc.so.6) 1",
            f"thread (13);{begin};0x7f83 (libc.so.6) 4",
        )
    )

    assert shown(raw).splitlines()[1:] == [
        "  processing 1",
        "     75 %  charge (shop.py:4) > zlib_crc32 (zlibmodule.c) > (libz.so.1)",
        "     25 %  read (shop.py:9)",
        "  thread 13",
        "    100 %  (libc)",
    ]
    deep = "thread (1);a (a.py:1);b (a.py:2);c (a.py:3);" + ";".join(f"f{n} (x/y/lib.so)" for n in range(11))
    assert (
        shown(f"{deep} 1").splitlines()[-1].endswith("b (a.py:2) > c (a.py:3) > … > f4 > f5 > f6 > f7 > f8 > f9 > f10")
    )
    assert shown("thread (1);a (a.py:1);f (x/lib.so);g (x/lib.so);h (z.so) 1").endswith(
        "a (a.py:1) > f (lib.so) > g > h (z.so)"
    )
    assert shown("") == "py-spy saw no thread."
    assert shown("\n".join(f"thread ({n});f (a.py:1) 1" for n in range(14))).endswith("and 2 more threads")


def test_the_journal_tells_what_a_swarm_that_is_gone_did_last() -> None:
    """How it ended, what nobody heard the end of, what was done, and its supervisor's deeds."""
    supervisor = Process("d", 1, None, "shop", "h", "1", "", 1000.0, seen_at=1080.0)
    worker = Process("d", 2, 0, "shop", "h", "1", "", 1001.0, seen_at=1090.0)
    assignment = Assignment(worker, 1, "shop", "orders", 3, 0, 1002.0, {})
    assignment.runs += [
        Run(0, 10, 1010.0, 1020.0, 1, "done", 1),
        Run(10, 20, 1030.0, 1040.0, 1, "failed", 2, "TimeoutError: no"),
        Run(10, 11, 1070.0, 1090.0, 2, "in_hand", 3),
    ]
    worker.assignments.append(assignment)
    exited = Happened(
        1060.0, "worker_exited", {"worker": 1, "reason": "killed", "detail": "", "code": None, "signal": "SIGTERM"}, 1
    )
    history = History([supervisor, worker], [("d", exited)])

    told = tell(history, 1100.0)

    assert told.ended == "its journal ends 10 s ago without a stop"
    assert told.in_hand == ["orders/3 offset 10, attempt 2, begun 30 s ago by worker 0: how it ended is not known"]
    assert told.last == [
        "1 min ago: orders/3 offsets 10-19 failed by worker 0: TimeoutError: no",
        "1 min 20 s ago: orders/3 offsets 0-9 done by worker 0",
    ]
    assert told.deeds == ["40 s ago: worker 1 ended (killed: killed by SIGTERM)"]
    history.deeds.append(("d", Happened(1095.0, "swarm_stopped", {"code": 0}, 2)))
    assert tell(history, 1100.0).ended == "it was stopped 5.0 s ago, with exit code 0"
    assert tell(History(), 1100.0).ended == ""
