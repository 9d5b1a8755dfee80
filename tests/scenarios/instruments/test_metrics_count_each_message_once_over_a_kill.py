"""The metrics are those of what was really handled, to the message: over a kill -9 in the middle of a batch, retries, a dead letter."""

from __future__ import annotations

import os
import re
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

# The handler of orders marks as it goes; at "hold" it stays until its process is killed. Who holds it again goes on.
SHOP = """
    import os
    import time
    from prometheus_client import Counter, Gauge
    from recording import record
    from swarm import App, Backoff, Consumer, DeadLetter

    app = App("shop")
    seen = Counter("shop_orders", "Orders seen.", ["kind"])
    size = Gauge("shop_basket", "Orders in hand.", multiprocess_mode="livesum")

    def first(name):
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    @app.subscribe("ORDERS")
    class Orders(Consumer):
        def consume(self, messages):
            size.set(len(messages))
            for message in messages:
                if message.raw == b"hold" and first("held"):
                    time.sleep(600)
                record(message)
                seen.labels("order").inc()
                self.mark_as_consumed(message)

    @app.each("EMAILS", dead_letter=DeadLetter("LETTERS", max_attempts=3), backoff=Backoff(initial=0.01))
    def email(message):
        if message.raw == b"poison":
            raise ValueError("no such address")
        record(message)
        seen.labels("email").inc()
"""

LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


class Page:
    """One scrape of /metrics."""

    def __init__(self, daemon: Daemon) -> None:
        with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=10) as answer:
            self.samples = [
                (n, labels or "", float(value)) for n, labels, value in LINE.findall(answer.read().decode())
            ]

    def sum(self, name: str, *labels: str) -> float:
        """Over all samples of this name that have these labels; 0 where there is none."""
        return sum(v for n, those, v in self.samples if n == name and all(each in those for each in labels))


def test_metrics_agree_with_what_was_handled(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """What was committed in the middle of the batch that a kill ended is counted, and nothing is counted twice that was handled once."""
    orders, emails, letters = topic(2), topic(1), topic(1)
    source = SHOP.replace("ORDERS", orders).replace("EMAILS", emails).replace("LETTERS", letters)
    daemon = swarm_project(source, {"worker": {"commit_interval": 0.1}})
    daemon.expect_errors("consume_failed", "message_dead_lettered", "metrics_set_aside")
    recording = Recording(daemon.folder)
    values = ["a"] * 60 + ["hold"] + ["b"] * 39
    daemon.start().until_running()
    # Else the group would share out anew while the order is held, and the kill come in the middle of that.
    daemon.wait_for(lambda: sorted(len(w["assignment"]) for w in daemon.workers()) == [1, 2], what="a settled group")
    broker.produce(orders, [(None, value) for value in values], partition=0)
    broker.produce(orders, [(None, "c")] * 50, partition=1)
    broker.produce(emails, [(None, value) for value in ["x"] * 20 + ["poison"] + ["y"] * 20])

    def holder() -> int | None:
        """The pid that holds the order, when all that was done is committed."""
        committed = {(h["topic"], h["partition"]): h["committed"] for w in daemon.workers() for h in w["assignment"]}
        if committed != {(orders, 0): 60, (orders, 1): 50, (emails, 0): 41}:
            return None
        return next(
            int(worker["pid"])
            for worker in daemon.workers()
            if any((held["topic"], held["partition"]) == (orders, 0) for held in worker["assignment"])
        )

    pid = daemon.wait_for(holder, what="the half of a batch to be committed")
    before = Page(daemon)
    os.kill(pid, signal.SIGKILL)
    daemon.wait_for_event("worker_exited", pid=pid)
    total = len(values) + 50 + 41

    def all_done() -> Page | None:
        done = sum(held["lag"] or 0 for worker in daemon.workers() for held in worker["assignment"]) == 0
        return (
            Page(daemon) if done and len(recording.seen(orders)) == 150 and len(recording.seen(emails)) == 40 else None
        )

    page = daemon.until_running().wait_for(all_done, what="everything to be committed")

    assert len(recording.all(topic=orders)) == 150, (
        "nothing was handled twice: all that was done at the kill was committed"
    )
    assert page.sum("swarm_messages_total") == total
    assert page.sum("swarm_errors_total", 'kind="handler"') == 3
    assert page.sum("swarm_retries_total") == 2
    assert page.sum("swarm_dead_letters_total") == 1
    assert page.sum("swarm_worker_restarts_total", 'reason="killed"') == 1
    assert page.sum("swarm_worker_restarts_total") == 1
    assert page.sum("swarm_worker_up") == 2
    assert page.sum("swarm_batch_size_count") == page.sum("swarm_batches_total") > 0
    assert page.sum("swarm_worker_cpu_seconds_total") >= before.sum("swarm_worker_cpu_seconds_total") > 0
    assert page.sum("swarm_commit_duration_seconds_count") > 0
    # The application's own: summed over the workers, and over the process that was killed.
    assert page.sum("shop_orders_total", 'kind="order"') == 150
    assert page.sum("shop_orders_total", 'kind="email"') == 40
    assert "pid=" not in str(page.samples)

    # A file that somebody damaged costs what it counted, not the scrape, and not a single message of the worker that goes on with it.
    [index] = {worker["index"] for worker in daemon.workers() if worker["restarts"]}
    damaged = Path(str(daemon.settings["swarm"]["run_dir"])) / "metrics" / f"counter_{index}.db"
    with damaged.open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 40)
    page = Page(daemon)
    assert page.sum("swarm_damaged_metric_files") == 1
    assert page.sum("swarm_messages_total") == total
    os.kill(daemon.workers()[index]["pid"], signal.SIGKILL)
    [event] = daemon.wait_for_event("metrics_set_aside")
    assert event["path"] == str(damaged)
    broker.produce(orders, [(None, "d")] * 10, partition=0)
    broker.produce(orders, [(None, "d")] * 10, partition=1)
    daemon.wait_for(lambda: len(recording.seen(orders)) == 170, what="messages after the damage")
    page = daemon.wait_for(
        lambda: page if (page := Page(daemon)).sum("swarm_messages_total") >= total + 20 else None, what="their count"
    )
    assert page.sum("swarm_messages_total") == total + 20
    assert page.sum("swarm_damaged_metric_files") == 1
    assert page.sum("shop_orders_total", 'kind="order"') >= 20
    assert daemon.stop() == 0
