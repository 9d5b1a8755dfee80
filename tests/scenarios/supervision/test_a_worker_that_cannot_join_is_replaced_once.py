"""A join that does not come to an end although the brokers answer: the worker is shown and replaced, and not over and over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer

from tests.scenarios.supervision.explaining import until
from tests.scenarios.supervision.incidents import incidents
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from recording import record
    from swarm import App

    app = App("shop")

    @app.each("TOPIC")
    def handle(message):
        record(message)
"""

EAGER = "range"
"""With this strategy a member gives everything back before it joins anew, for which it has to poll."""


@contextmanager
def member_that_does_not_answer(broker: Broker, group: str, topic: str) -> Iterator[threading.Event]:
    """A member of the group which, once it has its partitions, does not poll before the event is set: it holds up each rebalance."""
    client = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": group,
            "partition.assignment.strategy": EAGER,
            "max.poll.interval.ms": 300_000,  # so long may it take, and its heartbeats go on
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    joined, goes_on, done = threading.Event(), threading.Event(), threading.Event()
    client.subscribe([topic], on_assign=lambda *_: joined.set(), on_revoke=lambda *_: None)

    def poll() -> None:
        while not joined.is_set():
            client.poll(0.1)
        goes_on.wait()
        while not done.is_set():
            client.poll(0.1)

    thread = threading.Thread(target=poll, name="the other member")
    thread.start()
    try:
        assert joined.wait(30.0)
        yield goes_on
    finally:
        goes_on.set()
        done.set()
        thread.join()
        client.close()


def test_a_worker_whose_join_does_not_end_is_replaced_under_its_own_reason(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """With backtrace and incident; when the group can go on, so does the successor."""
    name = topic(partitions=2)
    daemon = swarm_project(
        APP.replace("TOPIC", name),
        {
            "swarm": {"workers": 1},
            "kafka": {"partition.assignment.strategy": EAGER},
            "supervision": {"join_timeout": 3.0, "check_interval": 0.2},
        },
    )
    recording = Recording(daemon.folder)
    with member_that_does_not_answer(broker, daemon.group, name) as goes_on:
        daemon.start()
        said = until(daemon, "join_stuck")["verdict"]
        [exited] = daemon.wait_for_event("worker_exited", reason="join_stuck")
        [stuck] = [incident for incident in incidents(daemon) if incident["reason"] == "join_stuck"]
        daemon.wait_for_event("worker_started", restarts=1)
        goes_on.set()
        daemon.until_running()
    broker.produce(name, [(None, "x")], 0)
    daemon.wait_for(lambda: recording.seen(name) == {(0, 0)}, what="its message")
    [worker] = daemon.workers()
    assert daemon.stop() == 0

    assert f"has not joined group {daemon.group} for " in said
    assert stuck["pid"] == exited["pid"]
    assert '"poller' in stuck["backtrace"]
    assert (worker["restarts"], worker["last_exit"]["reason"]) == (1, "join_stuck")
