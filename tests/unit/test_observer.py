"""What the observer says about given facts: no process, no socket; boards and bulletin are real memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from swarm.scoreboard import (
    ASSIGN_SEQ,
    LOOP_AT,
    PID,
    RETRIES,
    SIZE_BOUNDS,
    Bulletin,
    Scoreboard,
)
from swarm.supervisor.exposition import ApplicationMetrics, Exposition, ProcessorTime
from swarm.supervisor.observer import View, health, parse, readiness

NOW = 1_000.0


@pytest.fixture
def boards() -> Iterator[list[Scoreboard]]:
    """Three workers' boards, nothing on them."""
    made = [Scoreboard.create(index) for index in range(3)]
    yield made
    for board in made:
        board.close()


def worker(index: int, pid: int | None, state: str = "running", **more: object) -> dict[str, object]:
    return {"index": index, "pid": pid, "state": state, "restarts_by_reason": {}, "memory": {}, **more}


def snapshot(*workers: dict[str, object], **more: object) -> dict[str, object]:
    return {
        "name": "shop",
        "version": "1.2",
        "state": "running",
        "groups": ["shop"],
        "limits": {"poll_timeout": 30.0},
        "workers": list(workers),
        **more,
    }


def member(board: Scoreboard, pid: int, group: str = "shop", *, joined_at: float = 900.0, poll_at: float = NOW) -> None:
    board.ints[PID] = pid
    slot = board.add_group(group)
    board.polled(slot, poll_at)
    board.joined(slot, joined_at, 1)


def view_of(posted: object, boards: list[Scoreboard]) -> View:
    bulletin = Bulletin.create()
    os.close(bulletin.fd)  # the mapping stays
    if isinstance(posted, dict):
        bulletin.post(posted)
    return View(boards, bulletin, lambda: NOW)


def scrape(view: View, metrics_dir: Path | None = None, accept: str = "") -> dict[str, dict[frozenset[str], float]]:
    """name -> {labels as "key=value": value}."""
    _, page = Exposition(view, metrics_dir, lambda _key, _text: None).page(accept)
    samples: dict[str, dict[frozenset[str], float]] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = frozenset(f"{key}={value}" for key, value in sample.labels.items())
            assert labels not in samples.setdefault(sample.name, {}), f"{sample} twice"
            samples[sample.name][labels] = sample.value
    return samples


def labels(*pairs: str) -> frozenset[str]:
    return frozenset(pairs)


# -- health and readiness --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loop_at", "status", "age"),
    [(NOW, 200, 0.0), (NOW - 10.0, 200, 10.0), (NOW - 10.1, 500, 10.1), (0.0, 500, None), (float("nan"), 500, None)],
)
def test_healthy_is_a_supervisor_whose_loop_came_round_in_ten_seconds(
    loop_at: float, status: int, age: float | None
) -> None:
    """500 once it is older, and before the first round; the body says why, and the age in seconds."""
    answer, body = health(loop_at, NOW)
    assert (answer, body["ok"], body["age"]) == (status, status == 200, age)
    assert "loop" in str(body["why"])


def test_ready_is_a_swarm_with_a_polling_member_in_every_group(boards: list[Scoreboard]) -> None:
    """One member that polls is enough for a group; one group without is too little for the swarm."""
    member(boards[0], 10)
    member(boards[1], 11, poll_at=NOW - 31.0)
    both = {"shop": {"members": 2, "polling": 1}}

    assert readiness(parse(snapshot(worker(0, 10), worker(1, 11))), boards, NOW) == (
        200,
        {"ok": True, "why": "every consumer group has a member that is polling", "groups": both},
    )
    status, body = readiness(parse(snapshot(worker(0, 10), worker(1, 11), groups=["shop", "audit"])), boards, NOW)
    assert (status, body["groups"]) == (503, {**both, "audit": {"members": 0, "polling": 0}})
    assert body["why"] == "group audit: no worker has joined it"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": "stopping"}, "the swarm is stopping"),
        ({"workers": [worker(0, None, "backoff")]}, "group shop: no worker has joined it"),
        ({"workers": [worker(0, 10, "stopping")]}, "group shop: no worker has joined it"),
        ({"workers": [worker(0, 12)]}, "group shop: no worker has joined it"),  # a new process; the board shows the old
        ({"workers": []}, "group shop: no worker has joined it"),
        ({"limits": {"poll_timeout": 4.0}}, "group shop: none of its members polled in the last 4 s"),
        ({"groups": []}, "the supervisor has not said which consumer groups there are"),
    ],
)
def test_not_ready_says_why(boards: list[Scoreboard], change: dict[str, object], why: str) -> None:
    """503 for a stop, a worker that is away, stopping or replaced, a poll that is overdue, no group."""
    member(boards[0], 10, poll_at=NOW - 5.0)
    assert readiness(parse(snapshot(worker(0, 10))), boards, NOW)[0] == 200

    status, body = readiness(parse({**snapshot(worker(0, 10)), **change}), boards, NOW)

    assert (status, body["ok"], body["why"]) == (503, False, why)


@pytest.mark.parametrize("state", ["starting", "running", "quiet"])
def test_a_worker_counts_while_it_consumes_or_is_quiet(boards: list[Scoreboard], state: str) -> None:
    """Quiet takes no new work but polls on, so the swarm stays ready; a member that has not joined does not count."""
    member(boards[0], 10)
    member(boards[1], 11, joined_at=0.0)
    status, body = readiness(parse(snapshot(worker(0, 10, state), worker(1, 11, state))), boards, NOW)
    assert (status, body["groups"]) == (200, {"shop": {"members": 1, "polling": 1}})


def test_a_ready_swarm_says_who_waits_for_a_next_start(boards: list[Scoreboard]) -> None:
    """Its groups are served, so it is ready; but somebody may want to know."""
    member(boards[0], 10)

    status, body = readiness(parse(snapshot(worker(0, 10), worker(1, None, "backoff"))), boards, NOW)

    assert status == 200
    assert str(body["why"]).endswith("; worker 1 died and waits for the next start")


TEXT = st.text(st.sampled_from('a1 "\\\n\ud800é'), max_size=4)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    *("name", "version", "state", "groups", "limits", "poll_timeout", "index", "pid", "memory", "restarts_by_reason"),
    *("unowned", "suspects", "group", "topic", "failures"),
)


@settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(
    st.dictionaries(
        st.sampled_from((*KEYS, "workers")),
        ANYTHING | st.lists(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=6), max_size=3),
    )
)
def test_no_bulletin_is_too_strange(garbage: dict[str, Any]) -> None:
    """Whatever JSON the bulletin holds, there is an answer and a page, as UTF-8 and without a series twice."""
    board = Scoreboard.create(0)
    view = view_of(garbage, [board])
    status, body = readiness(view.notice(), view.boards, NOW)
    assert status == 503
    assert json.loads(json.dumps(body))["ok"] is False
    assert scrape(view)["swarm_messages_total"] == {labels("worker=0"): 0.0}
    board.close()


# -- metrics ---------------------------------------------------------------------------------------------------------


def test_partitions_that_nobody_works_on_are_counted_by_group_and_topic(boards: list[Scoreboard]) -> None:
    """From 0 on where a topic is consumed; what a worker that is gone has left on its board is nobody's."""
    member(boards[0], 10)
    member(boards[1], 11)
    for board, standing in ((boards[0], 900.0), (boards[1], 900.0)):
        ids = board.string("shop"), board.string("orders")
        board.set_assigned([(*ids, 0, 5, 5, 9, NOW, True, 0.0), (*ids, 1, 5, 5, 9, NOW, False, standing)])
    posted = snapshot(
        worker(0, 10, failures=2),
        worker(1, None, "backoff", failures=7),
        unowned=[{"group": "shop", "topic": "clicks", "partition": n, "for": 1.0} for n in range(3)],
        suspects=[{"group": "shop", "topic": "orders", "condemned": condemned} for condemned in (True, False)],
    )

    page = scrape(view_of(posted, boards))

    def counted(name: str) -> dict[str, float]:
        return {topic: page[name][labels("group=shop", f"topic={topic}")] for topic in ("clicks", "orders")}

    assert counted("swarm_paused_partitions") == {"clicks": 0, "orders": 1}
    assert counted("swarm_standing_partitions") == {"clicks": 0, "orders": 1}
    assert counted("swarm_unowned_partitions") == {"clicks": 3, "orders": 0}
    assert counted("swarm_suspected_ranges") == {"clicks": 0, "orders": 2}
    assert counted("swarm_condemned_messages") == {"clicks": 0, "orders": 1}
    assert page["swarm_worker_failures"] == {labels("worker=0"): 2.0, labels("worker=1"): 7.0}


def test_the_page_shows_the_scoreboards_and_the_bulletin_under_the_contracts_names(boards: list[Scoreboard]) -> None:
    """Names and labels of DESIGN section 7; the label `worker` is the index."""
    board = boards[1]
    member(board, 4_000_011)
    board.floats[LOOP_AT] = NOW - 2.5
    board.batch_done(9, 10, 0.004)
    board.add(RETRIES, 3)
    board.count_error("handler")
    memory = {"rss": 1000, "uss": None, "pss": 700}
    restarts = {"crashed": 2, "of the future": 1}
    posted = snapshot(
        worker(0, None, "backoff"),
        worker(1, 4_000_011, memory=memory, restarts_by_reason=restarts),
        worker(2, 4_000_012),
    )

    page = scrape(view_of(posted, boards))

    assert page["swarm_info"] == {labels("version=1.2", "name=shop"): 1.0}
    assert page["swarm_state"] == {
        labels(f"state={state}"): float(state == "running") for state in ("starting", "running", "quiet", "stopping")
    }
    assert page["swarm_workers"] == {labels(): 3.0}
    assert page["swarm_worker_up"] == {labels("worker=0"): 0.0, labels("worker=1"): 1.0, labels("worker=2"): 1.0}
    assert page["swarm_worker_report_age_seconds"] == {labels("worker=1"): 2.5}
    assert page["swarm_worker_memory_bytes"] == {
        labels("worker=1", "kind=rss"): 1000.0,
        labels("worker=1", "kind=pss"): 700.0,
    }, "what is unknown is left out"
    assert page["swarm_worker_restarts_total"][labels("worker=1", "reason=crashed")] == 2.0
    assert page["swarm_worker_restarts_total"][labels("worker=1", "reason=of the future")] == 1.0
    assert page["swarm_worker_restarts_total"][labels("worker=0", "reason=killed")] == 0.0
    assert page["swarm_messages_total"][labels("worker=1")] == 9.0
    assert page["swarm_batches_total"][labels("worker=1")] == 1.0
    assert page["swarm_retries_total"][labels("worker=1")] == 3.0
    assert page["swarm_errors_total"][labels("worker=1", "kind=handler")] == 1.0
    assert {"swarm_dead_letters_total", "swarm_rebalances_total"} <= page.keys()


def test_histograms_are_cumulative_and_add_up(boards: list[Scoreboard]) -> None:
    """Each bucket counts all values up to its bound; the last is all of them, as is the count."""
    for size in (1, 2, 3, 60_000):
        boards[0].observe("batch_size", size)

    page = scrape(view_of(snapshot(), boards))

    buckets = {
        bound: page["swarm_batch_size_bucket"][labels("worker=0", f"le={bound}")]
        for bound in ("1.0", "2.0", "5.0", "50000.0", "+Inf")
    }
    assert buckets == {"1.0": 1.0, "2.0": 2.0, "5.0": 3.0, "50000.0": 3.0, "+Inf": 4.0}
    assert len(page["swarm_batch_size_bucket"]) == len(boards) * (len(SIZE_BOUNDS) + 1)
    assert page["swarm_batch_size_sum"][labels("worker=0")] == 60_006.0
    assert page["swarm_batch_size_count"][labels("worker=0")] == 4.0
    assert {"swarm_batch_duration_seconds_bucket", "swarm_commit_duration_seconds_bucket"} <= page.keys()


def test_lag_is_shown_once_per_partition_and_only_where_it_is_known(boards: list[Scoreboard]) -> None:
    """Two workers naming one partition: the fresher one. Unknown offsets, and workers that are away: nothing."""
    for board, high, high_at in ((boards[0], 50, NOW - 9.0), (boards[1], 70, NOW - 1.0), (boards[2], 999, NOW)):
        group, topic = board.string("shop"), board.string("orders")
        unknown = (group, topic, 4, -1001, -1001, high, high_at, False, 0.0)
        board.set_assigned([(group, topic, 3, 40, 40, high, high_at, False, 0.0), unknown])
        board.ints[PID] = 10 + board.index

    page = scrape(view_of(snapshot(worker(0, 10), worker(1, 11), worker(2, None, "backoff")), boards))

    orders = labels("group=shop", "topic=orders", "partition=3")
    assert page["swarm_consumer_lag"] == {orders: 30.0}
    assert page["swarm_consumer_lag_age_seconds"] == {orders: 1.0}


def test_a_worker_that_died_while_writing_does_not_stop_the_scrape(boards: list[Scoreboard]) -> None:
    """Its sequence word stays odd for ever; the rest of the page is there."""
    boards[0].ints[ASSIGN_SEQ] = 7
    boards[0].batch_done(5, 5, 0.1)
    page = scrape(view_of(snapshot(worker(0, 10)), boards))
    assert page["swarm_messages_total"][labels("worker=0")] == 5.0


def test_processor_time_goes_on_over_the_processes_of_an_index() -> None:
    """Also while no process is there, and before the bulletin says what the last one had used; an index never seen has none."""
    readings = iter([5.0, 6.0, None, 0.5, None, 0.25])
    meter = ProcessorTime(lambda _pid: next(readings))

    asked = ((10, 0.0), (10, 0.0), (10, 0.0), (11, 6.25), (None, 7.0), (11, 7.0), (12, 7.0))
    totals = [meter.total(0, pid, former) for pid, former in asked]

    assert totals == [5.0, 6.0, 6.0, 6.75, 7.0, 7.0, 7.25]
    assert ProcessorTime(lambda _pid: 0.5).total(0, 12, 7.0) == 7.5, "a new observer knows what the bulletin says"
    assert meter.total(1, None, 0.0) is None


def test_prometheus_gets_openmetrics_if_it_asks_for_it(boards: list[Scoreboard]) -> None:
    """Prometheus prefers that format; it must end with the mark that proves it whole."""
    exposition = Exposition(view_of(snapshot(), boards), None, lambda _key, _text: None)
    content_type, page = exposition.page("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")


def test_a_notice_outlasts_a_post_that_is_under_way(boards: list[Scoreboard]) -> None:
    """A reader that meets the supervisor in the middle of a post goes on with what it said before."""
    view = view_of(snapshot(), boards)
    assert view.notice().name == "shop"
    view.bulletin._ints[0] += 1  # odd: the post has begun
    assert view.notice().name == "shop"


# -- the application's own metrics -----------------------------------------------------------------------------------


def write_metrics(path: Path, values: Mapping[tuple[str, str], float]) -> None:
    """(metric, label) -> value, as a worker with prometheus-client would."""
    file: Any = MmapedDict(str(path))  # type: ignore[no-untyped-call]
    for (metric, label), value in values.items():
        suffix = "_total" if path.name.startswith("counter") else ""
        file.write_value(mmap_key(metric, metric + suffix, ["label"], [label], "Help."), value, 0.0)
    file.close()


def own(
    directory: Path, live: tuple[str, ...] = (), complaints: Callable[[str, str], None] | None = None
) -> list[Sample]:
    metrics = ApplicationMetrics(directory, complaints or (lambda _key, _text: None))
    return [sample for family in metrics.families(set(live), {"swarm_messages"}) for sample in family.samples]


def test_the_applications_counters_are_added_up_over_workers(tmp_path: Path) -> None:
    """Also those of a worker that has no process now; a name of ours is not taken over."""
    write_metrics(tmp_path / "counter_0.db", {("orders", "a"): 2.0, ("swarm_messages", "a"): 5.0})
    write_metrics(tmp_path / "counter_1.db", {("orders", "a"): 3.0, ("orders", "b"): 1.0})
    assert [(s.name, s.labels, s.value) for s in own(tmp_path)] == [
        ("swarm_damaged_metric_files", {}, 0),
        ("orders_total", {"label": "a"}, 5.0),
        ("orders_total", {"label": "b"}, 1.0),
    ]


def test_the_applications_gauges_carry_the_workers_index(tmp_path: Path) -> None:
    """Under the name `worker`; those of the modes "live" only for workers that have a process."""
    write_metrics(tmp_path / "gauge_all_0.db", {("depth", "a"): 4.0})
    write_metrics(tmp_path / "gauge_liveall_0.db", {("open", "a"): 7.0})
    write_metrics(tmp_path / "gauge_liveall_1.db", {("open", "a"): 8.0})
    shown = [(s.name, s.labels, s.value) for s in own(tmp_path, live=("1",))]
    assert shown[1:] == [
        ("depth", {"label": "a", "worker": "0"}, 4.0),
        ("open", {"label": "a", "worker": "1"}, 8.0),
    ]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"\xff" * 300, id="ones"),
        pytest.param(lambda data: b"kafka swarm " * 300, id="text"),
        pytest.param(lambda data: data[:60], id="torn"),
        pytest.param(lambda data: data.replace(b"orders", b'or"ers'), id="no JSON"),
        pytest.param(lambda data: data.replace(b"orders", rb"\ud800"), id="no UTF-8"),
        pytest.param(lambda data: data.replace(b"orders_", b"strange"), id="a name of another family"),
    ],
)
def test_a_damaged_file_is_left_out_counted_and_named_once(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """It costs its own metrics only; the scrape and the other files' metrics are whole."""
    write_metrics(tmp_path / "counter_0.db", {("orders", "a"): 2.0})
    write_metrics(tmp_path / "counter_1.db", {("orders", "a"): 3.0})
    bad = tmp_path / "counter_1.db"
    bad.write_bytes(damage(bad.read_bytes()))
    complaints: dict[str, str] = {}

    samples = own(tmp_path, complaints=complaints.__setitem__)

    assert {s.name: s.value for s in samples} == {"swarm_damaged_metric_files": 1, "orders_total": 2.0}
    assert list(complaints) == ["counter_1.db"]
    assert str(bad) in complaints["counter_1.db"]


def test_no_directory_of_metrics_is_no_damage(tmp_path: Path) -> None:
    """An application without metrics of its own makes none."""
    assert [(s.name, s.value) for s in own(tmp_path / "none")] == [("swarm_damaged_metric_files", 0)]
