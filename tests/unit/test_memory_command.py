"""`swarmctl memory` without a process: the supervisor's samples and questions, what is made of the answers, how it reads."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.cli import memory_display, memory_report
from swarm.client import leaderless, queued, withheld
from swarm.supervisor.asking import Answers, Asking
from swarm.supervisor.history import MOST, RECENT, History
from swarm.supervisor.memory import Memory
from swarm.supervisor.rotation import BUDGET, FRESH, Rotation

MB = 1 << 20


# -- samples ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=1500))
def test_samples_are_bounded_and_reach_from_the_beginning_to_the_end(steps: list[float]) -> None:
    """However often and unevenly they come."""
    history, age = History(), 0.0
    for number, step in enumerate(steps):
        age += step
        history.add(age, number, number)

    found = history.samples()

    assert 1 <= len(found) <= MOST + RECENT
    assert found == sorted(found)
    assert found[0][1] == 0
    assert found[-1][0] >= age - max(steps[-RECENT:]) - age / (MOST / 4) - 5.0


def test_a_new_process_begins_anew() -> None:
    history = History()
    history.add(1.0, 2, 3)

    history.clear()

    assert history.samples() == []


# -- questions -------------------------------------------------------------------------------------------------------


def asked(patience: float = 5.0, deaf: bool = False) -> tuple[Asking, list[Answers], list[int]]:
    asking = Asking()
    done: list[Answers] = []
    numbers: list[int] = []

    def send(number: int) -> bool:
        numbers.append(number)
        return True

    asking.ask({0: (10, send), 1: (11, (lambda _: False) if deaf else send)}, 100.0, patience, done.append)
    return asking, done, numbers


def test_answers_come_together_when_the_last_has_answered() -> None:
    asking, done, numbers = asked()

    asking.hear(0, 10, {"answer": numbers[0], "result": {"a": 1}})
    assert done == []
    asking.hear(1, 11, {"answer": numbers[0], "result": {"b": 2}})

    assert done == [{0: {"result": {"a": 1}}, 1: {"result": {"b": 2}}}]
    assert asking.due == float("inf")


def test_who_is_late_or_gone_is_not_waited_for() -> None:
    """And the reason is said; an answer after that is dropped."""
    asking, done, numbers = asked()

    asking.collect(104.9, {10: 104.5, 11: 104.5})
    assert done == []
    asking.collect(105.0, {10: 104.5})
    asking.hear(0, 10, {"answer": numbers[0], "result": {}})

    [answers] = done
    assert answers[0] == {"unanswered": "it did not answer within 5 s"}
    assert "ended" in answers[1]["unanswered"]


def test_who_does_not_even_report_is_not_waited_for_as_long_as_a_survey_may_take() -> None:
    """A process that is stopped cannot hear the question; one that reports and does not answer is at work on it."""
    asking, done, _ = asked(patience=65.0)

    asking.collect(104.9, {10: 104.5, 11: 90.0})
    asking.collect(105.0, {10: 104.5, 11: 90.0})
    assert done == []
    asking.collect(165.0, {10: 164.5, 11: 90.0})

    [answers] = done
    assert answers[1] == {"unanswered": "it did not answer within 5 s, and does not report either"}
    assert answers[0] == {"unanswered": "it did not answer within 65 s"}


def test_an_answer_of_another_process_is_none() -> None:
    """The index has a new process since."""
    asking, done, numbers = asked()

    asking.hear(0, 99, {"answer": numbers[0], "result": {}})
    asking.hear(0, 10, {"answer": 12345, "result": {}})

    assert done == []
    assert asking.due == 105.0


def test_who_does_not_read_is_said_to_be_so_at_once() -> None:
    asking, done, numbers = asked(deaf=True)

    asking.hear(0, 10, {"answer": numbers[0], "result": {}})

    [answers] = done
    assert "does not read" in answers[1]["unanswered"]


# -- rotation --------------------------------------------------------------------------------------------------------


class Kernel:
    """Measuring takes so long."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds, self.asked = 1000.0, seconds, []  # type: ignore[var-annotated]

    def measure(self, pid: int) -> Memory | None:
        self.asked.append(pid)
        self.now += self.seconds
        return Memory(3 * pid, pid, 2 * pid)


def test_every_worker_gets_its_turn_within_the_budget() -> None:
    """64 workers at 1 ms: some ten for each scrape, all of them after seven; and none twice before that."""
    kernel = Kernel(0.001)
    rotation = Rotation(kernel.measure, lambda: kernel.now)
    pids: dict[int, int | None] = {index: 100 + index for index in range(64)}
    scrapes = 0

    found: dict[int, Memory] = {}
    while len(found) < 64:
        before = kernel.now
        found = rotation.look(pids)
        scrapes += 1
        assert kernel.now - before <= BUDGET + 0.0011
        kernel.now += 1.0

    assert scrapes <= 7
    assert len(set(kernel.asked[:64])) == 64
    assert found[5] == Memory(315, 105, 210)


def test_a_huge_process_is_measured_alone() -> None:
    """It takes longer than the budget: one for each scrape, all in turn."""
    kernel = Kernel(0.5)
    rotation = Rotation(kernel.measure, lambda: kernel.now)

    for _ in range(3):
        rotation.look({0: 10, 1: 11, 2: 12})

    assert kernel.asked == [10, 11, 12]


def test_a_measurement_is_of_the_present_process_and_serves_a_while() -> None:
    kernel = Kernel(0.0)
    rotation = Rotation(kernel.measure, lambda: kernel.now)

    rotation.look({0: 10})
    rotation.look({0: 10})
    assert kernel.asked == [10]
    assert rotation.look({0: None}) == {}
    assert rotation.look({0: 20})[0].uss == 20
    kernel.now += FRESH
    rotation.look({0: 20})

    assert kernel.asked == [10, 20, 20]


# -- the answer ------------------------------------------------------------------------------------------------------


def worker(index: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "index": index,
        "pid": 100 + index,
        "state": "running",
        "health": "ok",
        "uptime": 60.0,
        "memory": {"rss": 100 * MB, "uss": 60 * MB, "pss": 70 * MB},
        "samples": [(float(n), 40 * MB + n * MB, 100 * n) for n in range(60)],
        "report": report(),
        "unanswered": None,
        **more,
    }


def report(**more: Any) -> dict[str, Any]:
    return {
        "allocator": "glibc, 2 arenas",
        "python": {"used": 20 * MB, "free": MB, "system": 21 * MB, "blocks": 5},
        "malloc": {"used": 50 * MB, "free": 5 * MB, "top": MB, "system": 55 * MB, "mapped": 0},
        "anonymous": 75 * MB,
        "collector": {
            "enabled": True,
            "counts": [1, 2, 3],
            "thresholds": [700, 10, 10],
            "collections": [9, 8, 7],
            "uncollectable": 0,
            "garbage": 0,
            "frozen": 44,
        },
        "queues": {
            "lanes": {"messages": 3, "bytes": 300},
            "clients": [{"group": "shop", "messages": None, "bytes": None, "age": None}],
        },
        **more,
    }


def survey(*types: tuple[str, int, int]) -> dict[str, Any]:
    return {
        "types": [{"type": name, "count": count, "bytes": size} for name, count, size in types],
        "bytes": sum(size for _, _, size in types),
        "objects": 1000,
        "share": 1.0,
        "seconds": 0.1,
        "containers": [{"type": "list", "bytes": 8000, "length": 1000, "name": "shop.app.kept"}],
    }


def answer(*workers: dict[str, Any]) -> dict[str, Any]:
    return {"name": "shop", "limits": {"memory_limit": 200 * MB, "memory_kill": 250 * MB}, "workers": list(workers)}


def test_a_leaking_worker_is_named_with_its_type_and_who_holds_it() -> None:
    """In the JSON, and in words."""
    said = report(survey=survey(("shop.app.Order", 1000, 55 * MB), ("str", 10, MB)), trace={"on": False})

    judged = memory_report.judged(answer(worker(report=said)))

    [found] = judged["workers"]
    assert found["memory"] == {"rss": 100 * MB, "uss": 60 * MB, "pss": 70 * MB, "shared": 40 * MB}
    assert found["verdict"] == "leak suspected"
    assert "shop.app.Order (1,000, 55.0M)" in found["why"]
    assert "shop.app.kept" in found["why"]
    text = memory_display.plain(judged, detailed=True)
    assert "shop.app.Order" in text
    assert "next: which types grow: swarmctl memory 0 --growth 30" in text


def test_a_worker_that_does_not_answer_shows_what_the_kernel_knows() -> None:
    """RSS, USS, PSS and the trend; and says that the rest needs its cooperation."""
    judged = memory_report.judged(answer(worker(report=None, unanswered="it did not answer within 5 s")))

    text = memory_display.plain(judged, detailed=False)
    assert judged["workers"][0]["trend"]["rising"]
    assert "100M" in text
    assert "did not answer within 5 s" in text
    assert "needs its cooperation" in text


def test_a_worker_without_a_process_is_shown_as_unknown() -> None:
    nothing = {"rss": None, "uss": None, "pss": None}
    gone = worker(pid=None, memory=nothing, report=None, samples=[], unanswered="it has no process at the moment")

    judged = memory_report.judged(answer(gone, worker(1)))

    assert judged["workers"][0]["verdict"] is None
    assert judged["workers"][0]["memory"]["shared"] is None
    assert " - " in memory_display.plain(judged, detailed=False)
    assert not memory_report.failed(judged)


def test_unused_is_no_more_than_what_is_in_memory() -> None:
    """Free bytes may have gone back to the kernel: 75 MiB are there, 70 are used."""
    assert memory_report.unused(report()) == 5 * MB
    assert memory_report.unused(report(anonymous=60 * MB)) == 0
    assert memory_report.unused(report(malloc=None)) is None


def test_growth_is_between_two_looks_at_one_process() -> None:
    """Largest first; what shrank is left out; another process is another matter."""
    then = answer(worker(report=report(survey=survey(("bytes", 10, 1000), ("str", 5, 500), ("dict", 1, 100)))))
    now = answer(worker(report=report(survey=survey(("bytes", 30, 3000), ("str", 4, 400), ("shop.Order", 7, 70)))))
    judged = memory_report.judged(now)

    memory_report.add_growth(judged, then, 30.0)

    assert judged["workers"][0]["growth"]["types"] == [
        {"type": "bytes", "count": 20, "bytes": 2000},
        {"type": "shop.Order", "count": 7, "bytes": 70},
    ]
    assert "+2.0K" in memory_display.plain(judged, detailed=True)
    other = memory_report.judged(answer({**now["workers"][0], "pid": 999}))
    memory_report.add_growth(other, then, 30.0)
    assert other["workers"][0]["growth"] is None
    assert memory_report.failed(other)


def test_a_dump_that_failed_is_a_failure() -> None:
    judged = memory_report.judged(answer(worker(report=report(dump={"path": "/nowhere/x", "error": "No such file"}))))

    assert memory_report.failed(judged)
    assert "No such file" in memory_display.plain(judged, detailed=True)


def test_what_was_collected_traced_and_dumped_is_shown() -> None:
    collected = {"objects": 5, "rss_before": 100 * MB, "rss_collected": 90 * MB, "rss": 60 * MB, "trimmed": True, "seconds": 0.2, "before": {}}  # fmt: skip
    trace = {"on": True, "seconds": 60.0, "bytes": MB, "peak": MB, "own": 10, "lines": [{"bytes": MB, "count": 9, "lines": ["/srv/app.py:12", "/srv/main.py:1"]}]}  # fmt: skip
    said = report(collected=collected, trace=trace, survey=survey(), dump={"path": "/tmp/x", "objects": 9, "bytes": 99})

    text = memory_display.plain(memory_report.judged(answer(worker(report=said))), detailed=True)

    assert "100M before, 60.0M now (-40.0M)" in text
    assert "1.0M in 9  /srv/app.py:12" in text
    assert "called from /srv/main.py:1" in text
    assert "9 objects are in /tmp/x" in text


def test_the_queue_that_all_partitions_share_counts_once() -> None:
    """As librdkafka's statistics have it: each partition with the count of all."""
    one = '"fetchq_cnt":%d, "fetchq_size":%d, "fetch_state":"active"'

    assert queued("{" + one % (9000, 8_999_000) + one % (9000, 8_999_000) + one % (0, 0) + "}") == (9000, 8_999_000)
    assert queued("{}") == (0, 0)


def test_partitions_whose_next_messages_an_open_transaction_hides_are_told_from_those_that_are_being_read() -> None:
    """All up to the last stable offset was fetched, and more stands behind it."""

    def report(*offsets: tuple[int, int, int]) -> str:
        one = '"%d": {"partition":%d, "next_offset":%d, "hi_offset":%d, "ls_offset":%d}'
        partitions = ", ".join(one % (number, number, *each) for number, each in enumerate(offsets))
        return '{"topics": {"orders": {"topic": "orders", "partitions": {%s}}}}' % partitions  # noqa: UP031

    assert withheld(report((5, 9, 9), (0, 0, 0))) == frozenset()
    assert withheld(report((5, 9, 7), (-1001, -1001, -1001))) == frozenset()
    assert withheld(report((7, 9, 7), (9, 9, 9), (8, 9, 7))) == {("orders", 0), ("orders", 2)}


def test_partitions_that_nobody_leads_are_told_from_the_one_that_librdkafka_keeps_for_itself() -> None:
    """A report has a partition -1, which has no leader either."""

    def report(leader: int) -> str:
        one = '"%d": { "partition":%d, "broker":%d, "leader":%d, "fetchq_cnt":0}'
        partitions = ", ".join(one % (each, each, by, by) for each, by in ((0, 1), (1, leader), (-1, -1)))
        return '{"topics": {"orders": {"topic": "orders", "partitions": {%s}}}}' % partitions  # noqa: UP031

    assert leaderless(report(2)) == frozenset()
    assert leaderless(report(-1)) == {("orders", 1)}
