"""The machine's clock is set, a day forward and two days back: no deadline, order or commit depends on it."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

# Supervisor and workers share this module, and so what they take for the time: `hours` says how far it is off.
APP = """
    import pathlib, time
    from swarm import App
    from recording import record

    app = App("shop")
    right = time.time
    right_ns = time.time_ns

    def hours():
        try:
            return float(pathlib.Path("hours").read_text())
        except (FileNotFoundError, ValueError):
            return 0.0

    time.time = lambda: right() + hours() * 3600.0
    time.time_ns = lambda: right_ns() + int(hours() * 3600e9)

    @app.each("{topic}")
    def orders(message):
        record(message)
"""
HOURS = (0.0, 24.0, -24.0, 0.0)


def test_messages_go_on_once_and_in_order_and_nobody_is_replaced(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    orders = topic(partitions=4)
    daemon = swarm_project(
        APP.format(topic=orders),
        {"worker": {"commit_interval": 0.2}, "supervision": {"report_timeout": 3.0, "poll_timeout": 3.0}},
    )
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    before = [worker["pid"] for worker in daemon.workers()]

    def work(hours: float, end: int) -> None:
        (daemon.folder / "hours").write_text(str(hours))
        for partition in range(4):
            broker.produce(orders, [(None, str(number)) for number in range(25)], partition)
        ends = {(orders, partition): end for partition in range(4)}
        daemon.wait_for(lambda: broker.committed(daemon.group) == ends, what=f"the work at {hours:+g} h")

    for step, hours in enumerate(HOURS, 1):
        work(hours, 25 * step)
    ages = [worker["report_age"] for worker in daemon.workers()]
    audit = daemon.audit()

    assert [worker["pid"] for worker in daemon.workers()] == before
    assert all(0 <= age < 3.0 for age in ages)
    assert daemon.stop() == 0
    assert recording.offsets(orders) == {partition: list(range(100)) for partition in range(4)}
    assert (audit["duplicates"], audit["gaps"]) == ([], [])
