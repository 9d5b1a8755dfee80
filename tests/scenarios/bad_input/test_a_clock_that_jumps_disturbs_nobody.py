"""The machine's clock is set, a day forward and two days back: no deadline, order or commit depends on it."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

# Supervisor and workers share this module, and so what they take for the time: `hours` says how far it is off.
APP = """
    import pathlib, time
    from swarm import App, Backoff, DeadLetter, RateLimit
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

    @app.each("{paced}", rate_limit=RateLimit(50), backoff=Backoff(initial=0.05), dead_letter=DeadLetter("{dead}", max_attempts=2))
    def paced(message):
        record(message)
        if message.raw == b"bad":
            raise ValueError("no order")

    @app.each("{delayed}", not_before=0.5)
    def delayed(message):
        record(message)

    @app.each("{urgent}", expires_after=3600)
    def urgent(message):
        record(message)
"""
HOURS = (0.0, 24.0, -24.0, 0.0)
EACH = 25


def test_messages_go_on_once_and_in_order_and_nobody_is_replaced(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Neither a rate nor a retry nor a delay waits for the wrong clock; what has expired by it is skipped, and said to be."""
    orders, paced, delayed, urgent, dead = topic(partitions=4), topic(), topic(), topic(), topic()
    daemon = swarm_project(
        APP.format(topic=orders, paced=paced, delayed=delayed, urgent=urgent, dead=dead),
        {"worker": {"commit_interval": 0.2}, "supervision": {"report_timeout": 3.0, "poll_timeout": 3.0}},
    )
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    daemon.start().until_running()
    before = [worker["pid"] for worker in daemon.workers()]

    def work(hours: float, end: int) -> None:
        (daemon.folder / "hours").write_text(str(hours))
        for partition in range(4):
            broker.produce(orders, [(None, str(number)) for number in range(EACH)], partition)
        for name in (paced, delayed, urgent):
            broker.produce(name, [(None, "bad" if number == 7 else "good") for number in range(EACH)])
        ends = {(orders, partition): end for partition in range(4)} | {(n, 0): end for n in (paced, delayed, urgent)}
        daemon.wait_for(lambda: broker.committed(daemon.group) == ends, what=f"the work at {hours:+g} h")

    for step, hours in enumerate(HOURS, 1):
        work(hours, EACH * step)
    ages = [worker["report_age"] for worker in daemon.workers()]
    audit = daemon.audit()

    assert [worker["pid"] for worker in daemon.workers()] == before
    assert all(0 <= age < 3.0 for age in ages)
    assert daemon.stop() == 0
    assert recording.offsets(orders) == {partition: list(range(100)) for partition in range(4)}
    assert recording.offsets(delayed) == {0: list(range(100))}
    assert list(dict.fromkeys(recording.offsets(paced)[0])) == list(range(100))
    assert [letter.value() for letter in broker.read_all(dead)] == [b"bad"] * len(HOURS)
    expired = {number for number in range(100) if HOURS[number // EACH] == 24.0}
    assert recording.offsets(urgent)[0] == sorted(set(range(100)) - expired)
    assert sum(event["count"] for event in daemon.events("messages_skipped")) == len(expired)
    again = sorted((each["topic"], each["first_offset"], each["last_offset"]) for each in audit["duplicates"])
    assert again == [(paced, offset, offset) for offset in (7, 32, 57, 82)]
    assert {each["cause"] for each in audit["duplicates"]} == {"retry"}
    assert audit["gaps"] == []
