from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

from tests.scenarios.supervision.explaining import until
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import time
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("{orders}")
    def order(message):
        record(message, "message")
        record(message, "{version}")
        time.sleep(0.003)  # the work
"""


def produce(broker: Broker, topic: str, count: int) -> None:
    """So many into each partition."""
    for partition in range(4):
        broker.produce(topic, [(None, str(number)) for number in range(count)], partition)


def change(path: Path, old: str, new: str) -> None:
    """A deployment."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_new_code_and_settings_are_taken_without_a_stop_and_refused_where_they_do_not_load(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Same pid, worker by worker, also more of them; what does not load is refused with the reason and changes nothing; nothing is
    lost and nothing repeated."""
    orders = topic(partitions=4)
    daemon = swarm_project(APP.format(orders=orders, version="first"), {"swarm": {"workers": 2}})
    daemon.expect_errors("reload_refused")
    recording = Recording(daemon.folder)
    produce(broker, orders, 300)
    daemon.start().until_running()
    pid, before = daemon.pid, [worker["pid"] for worker in daemon.workers()]
    daemon.wait_for(lambda: recording.all("first"), what="messages by the first version")

    change(daemon.folder / "app.py", '"first"', '"second"')
    change(daemon.config, '"workers" = 2', '"workers" = 3')
    reloaded = daemon.run("reload")
    produce(broker, orders, 100)
    after = [worker["pid"] for worker in daemon.workers()]
    daemon.wait_for(lambda: recording.all("second"), what="messages by the second version")
    seen_by_first = len(recording.all("first"))

    change(daemon.folder / "app.py", "app = App", "app = Appp")
    broken = daemon.run("reload")
    said = until(daemon, "reload_refused")["verdict"]
    examined = json.loads(daemon.run("doctor", "--json", "--seconds", "0").stdout)["findings"]
    unmoved = [worker["pid"] for worker in daemon.workers()]
    change(daemon.folder / "app.py", "app = Appp", "app = App")
    change(daemon.config, '"workers" = 3', '"workers" = 0')
    wrong = daemon.run("reload")
    change(daemon.config, '"workers" = 0', '"workers" = 2')
    change(daemon.folder / "app.py", '"second"', '"third"')
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_event("swarm_reloaded", count=2)
    last = daemon.workers()
    produce(broker, orders, 100)
    daemon.wait_for(lambda: len(recording.seen(orders)) == 2000, what="the end", within=60)
    assert daemon.stop() == 0

    assert "the newest code or settings are not in use" in said
    assert "reload_refused" in {each["rule"] for each in examined}
    assert (reloaded.returncode, reloaded.stderr) == (0, "")
    assert daemon.pid == pid
    assert len(after) == 3
    assert not set(before) & set(after)
    assert len(recording.all("first")) == seen_by_first, "the old code went on after the reload"
    assert broken.returncode == 1
    assert "Appp" in broken.stderr
    assert wrong.returncode == 1
    assert "swarm.workers" in wrong.stderr
    assert unmoved == after
    assert len(last) == 2
    assert not {worker["pid"] for worker in last} & set(after)
    assert {line["reason"] for line in daemon.events("worker_exited")} == {"requested"}
    assert {p: sorted(seen) for p, seen in recording.offsets(orders).items()} == {p: list(range(500)) for p in range(4)}
    assert broker.committed(daemon.group) == {(orders, partition): 500 for partition in range(4)}
    assert recording.all("third")
