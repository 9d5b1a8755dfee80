"""What only a run can show: handlers, listeners, batches and partitions of live daemons."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.scenarios.doctor import ward
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.project import Sections

LEAVES_THREADS = """
    import threading
    import time
    from swarm import App

    app = App("shop")


    def later(values):
        time.sleep(3)


    @app.subscribe("{topic}", max_messages=5)
    def orders(messages):
        threading.Thread(target=later, args=([m.value for m in messages],), daemon=True).start()
"""
WAITS_FOR_THREADS = """
    import threading
    import time
    from swarm import App

    app = App("shop")


    def part(values):
        time.sleep(0.01)


    @app.subscribe("{topic}", max_messages=5)
    def orders(messages):
        threads = [threading.Thread(target=part, args=(m.value,)) for m in messages]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
"""
RAISING_LISTENER = """
    from swarm import App
    from swarm.events import BatchConsumed

    app = App("shop")


    @app.subscribe("{topic}", max_messages=10)
    def orders(messages):
        pass


    @app.on(BatchConsumed)
    def audit(event):
        raise ValueError("cannot write to https://me:plantedinfo@audit/?token=plantedtoken")
"""
FAILS = """
    from swarm import App, Backoff

    app = App("shop")


    @app.subscribe("{topic}", backoff=Backoff(initial=60, maximum=60))
    def orders(messages):
        if messages.partition == 1:
            raise ValueError("cannot")
"""
SLOW = """
    import time
    from swarm import App

    app = App("shop")


    @app.subscribe("{topic}", max_messages=1, consume_timeout=3)
    def orders(messages):
        time.sleep(2.6)
"""
OUTLASTS = """
    import time
    from swarm import App

    app = App("shop")


    @app.subscribe("{topic}", max_messages=1)
    def orders(messages):
        time.sleep(2.6)
"""
LARGE = """
    import time
    from swarm import App

    app = App("shop")


    @app.subscribe("{topic}", max_messages=5000, consume_timeout=20)
    def orders(messages):
        time.sleep(0.01 * len(messages))
"""
CRASHES = """
    import os
    from swarm import App

    app = App("shop")


    @app.after_fork
    def connect(worker):
        if worker == 1:
            os._exit(3)


    @app.subscribe("{topic}")
    def orders(messages):
        pass
"""


@pytest.mark.limit(200)
def test_each_fault_of_a_run_is_named_alone(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], broker: Broker
) -> None:
    """Seven swarms at once, six of them with a fault and one that only looks like the first of these."""
    faults: dict[str, tuple[str, Sections]] = {
        "handler_leaves_threads": (LEAVES_THREADS, {}),
        "": (WAITS_FOR_THREADS, {}),
        "listener_fails": (RAISING_LISTENER, {}),
        "partition_stuck": (FAILS, {}),
        "batches_near_limit": (SLOW, {}),
        "batches_outlast_shutdown": (OUTLASTS, {"swarm": {"shutdown_timeout": 2.0}}),
        "batches_too_large": (LARGE, {}),
    }
    swarms: dict[str, Daemon] = {}
    topics: dict[str, str] = {}
    for rule, (source, settings) in faults.items():
        topics[rule] = topic(2)
        one: Sections = {"swarm": {"workers": 1, **settings.get("swarm", {})}, "log": {"level": "info"}}
        swarms[rule] = swarm_project(source.format(topic=topics[rule]), ward.settings(ward.name(), one))
        if rule == "partition_stuck":
            swarms[rule].expect_errors("consume_failed")
        many = {"batches_too_large": 400, "batches_near_limit": 1, "batches_outlast_shutdown": 1}.get(rule, 100)
        broker.produce(topics[rule], [(None, "x")] * many, partition=0)
        swarms[rule].start()
    for daemon in swarms.values():
        daemon.until_running(within=90.0)
    for rule, name in topics.items():
        if rule not in ("batches_near_limit", "batches_outlast_shutdown"):
            broker.produce(name, [(None, "x")] * 50, partition=0)
        if rule == "partition_stuck":
            broker.produce(name, [(None, "x")] * 5, partition=1)
    stuck = swarms["partition_stuck"]
    stuck.wait_for_event("consume_failed", partition=1)
    for rule in ("batches_near_limit", "batches_outlast_shutdown", "batches_too_large"):
        swarms[rule].wait_for(lambda rule=rule: swarms[rule].workers()[0]["batches"] >= 1, what=f"a batch of {rule}")  # type: ignore[misc]

    for rule, daemon in swarms.items():
        if rule == "partition_stuck":
            continue
        found = ward.examine(daemon, "--seconds", "0")
        assert found.rules == ({rule} if rule else set()), (rule, found.findings)
        assert "planted" not in str(found.answer)
    with ward.growing(broker, topics["partition_stuck"], partition=1):
        found = ward.examine(stuck)
    assert found.rules == {"partition_stuck"}, found.findings
    assert f"worker 0 (pid {stuck.workers()[0]['pid']})" in found.evidence("partition_stuck")
    assert "handler fails" in found.findings[0]["cause"]


def test_a_worker_that_dies_again_and_again_is_named_with_what_ends_it(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str]
) -> None:
    """Five deaths in a row, each after a longer pause; the other worker is sound, and nothing else is found."""
    daemon = swarm_project(CRASHES.format(topic=topic(2)), ward.settings(ward.name()))
    daemon.expect_errors("worker_exited")
    daemon.start()
    daemon.wait_for(lambda: daemon.status()["findings"], within=60.0, what="a finding in its status")

    found = ward.examine(daemon, "--seconds", "0")

    assert found.rules == {"crash_loop"}, found.findings
    assert "5 deaths in a row" in found.evidence("crash_loop")
    assert "exited with code 3" in found.findings[0]["cause"]
