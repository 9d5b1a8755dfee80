"""`swarmctl memory`: a handler that leaks, one that fragments, one before which everything is queued, and a healthy one."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.support.daemon import Daemon
from tests.support.kafka import Broker

# One worker for each of them. They are preloaded, so what they keep hangs on what came with the fork.
APP = """
    import time
    from swarm import App, Consumer, RateLimit

    app = App("fat")
    kept = []
    pieces = []

    class Order:
        def __init__(self, body):
            self.body = body

    @app.subscribe("LEAK", group="GROUP-leak", workers=[0], rate_limit=RateLimit(300))
    class Leak(Consumer):
        def consume(self, messages):
            for message in messages:
                kept.append(Order(bytes(8000)))

    @app.subscribe("FRAGMENT", group="GROUP-fragment", workers=[1], rate_limit=RateLimit(300))
    def fragment(messages):
        if not pieces:
            every = [bytes(600 + 37 * n % 1500) for n in range(80_000)]
            pieces.extend(every[::50])

    @app.subscribe("QUEUE", group="GROUP-queue", workers=[2], max_messages=2000, kafka={
        "queued.max.messages.kbytes": 262144, "queued.min.messages": 100000, "statistics.interval.ms": 500,
        "fetch.max.bytes": 4194304})  # answers are small against what is queued
    def slow(messages):
        time.sleep(0.5)  # each batch makes room for what one pass fetches, so the lane never stays full

    @app.subscribe("FLAT", group="GROUP-flat", workers=[3], rate_limit=RateLimit(300))
    def flat(messages):
        sum(len(message.raw) for message in messages)
"""

SMALL = b"x" * 20
LARGE = b"x" * 1000

WANTED = {0: "leak suspected", 1: "fragmented", 2: "held by librdkafka's queue", 3: "flat"}


def asked(daemon: Daemon, *args: str) -> dict[str, Any]:
    done = daemon.run("memory", "--json", *args)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def until(daemon: Daemon, wanted: Mapping[int, str], within: float) -> dict[str, Any]:
    """Asks until these are the verdicts, all at one moment."""
    answer: dict[str, Any] = {}

    def there() -> bool:
        answer.update(asked(daemon))
        return {worker["index"]: worker["verdict"] for worker in answer["workers"]} == wanted

    try:
        daemon.wait_for(there, within, "the verdicts")
    except AssertionError as error:
        said = [(w["index"], w["verdict"], w["why"], w["trend"], w.get("malloc")) for w in answer["workers"]]
        raise AssertionError(f"{said}\n{error}") from None
    return answer


@pytest.mark.limit(300)
def test_leak_fragmentation_queue_and_health_are_told_apart(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """Each by its verdict, at one moment; and the leak by its type, by who holds it, and by the line that allocates it."""
    names = {what: topic() for what in ("LEAK", "FRAGMENT", "QUEUE", "FLAT")}
    app = APP.replace("GROUP", group)
    for what, name in names.items():
        app = app.replace(f'"{what}"', f'"{name}"')
        if what != "QUEUE":
            broker.produce(name, [(None, SMALL)] * 120_000)
    daemon = swarm_project(
        app,
        {
            "swarm": {"workers": 4},
            "worker": {"commit_interval": 1.0},
            "supervision": {"check_interval": 0.2, "report_timeout": 60.0},  # one of them is stopped for a while
            "log": {"level": "info"},  # the batches of four handlers would be most of its work
        },
    )
    daemon.start().until_running()

    until(daemon, WANTED | {2: "flat"}, 90.0)
    produce_compressed(broker, names["QUEUE"], LARGE, 120_000)
    answer = until(daemon, WANTED, 60.0)
    [leak] = asked(daemon, "0", "--growth", "2")["workers"]
    assert daemon.run("memory", "0", "--trace").returncode == 0
    text = daemon.wait_for(lambda: traced(daemon), what="the line that leaks")

    assert {worker["index"] for worker in answer["workers"]} == set(WANTED)
    for worker in answer["workers"]:
        memory = worker["memory"]
        assert 0 < memory["uss"] <= memory["pss"] <= memory["rss"]
        assert memory["shared"] == memory["rss"] - memory["uss"]
    grown = {row["type"]: row for row in leak["growth"]["types"]}
    assert grown["bytes"]["bytes"] > 8000 * 100
    assert grown["app.Order"]["count"] > 100
    assert leak["containers"][0]["name"] == "app.kept"
    assert "app.Order" in text
    [queue] = [worker for worker in answer["workers"] if worker["index"] == 2]
    [client] = queue["queues"]["clients"]
    assert client["bytes"] > 30 << 20
    # librdkafka counts the two one after the other, while its thread goes on.
    assert abs(client["messages"] * 1000 - client["bytes"]) <= 0.01 * client["bytes"]
    assert daemon.run("memory", "0", "--trace-off").returncode == 0

    [fragments] = asked(daemon, "1", "--collect")["workers"]
    assert fragments["collected"]["trimmed"]
    assert fragments["collected"]["rss"] < fragments["collected"]["rss_before"] - (10 << 20)

    into = daemon.folder / "worker0.heap"
    done = daemon.run("memory", "0", "--dump", str(into))
    assert done.returncode == 0, done.stderr
    assert_dump(into)
    again = daemon.run("memory", "0", "--dump", str(into))
    assert again.returncode == 1
    assert "File exists" in again.stdout + again.stderr

    stuck = daemon.workers()[3]["pid"]
    os.kill(stuck, signal.SIGSTOP)
    try:
        [worker] = asked(daemon, "3")["workers"]
    finally:
        os.kill(stuck, signal.SIGCONT)
    assert worker["memory"]["uss"] > 0
    assert worker["unanswered"].startswith("it did not answer within")
    assert worker["verdict"] in ("flat", "warm-up")
    assert daemon.stop() == 0


def traced(daemon: Daemon) -> str | None:
    """What is said of the worker that leaks, once its line is among it."""
    text = daemon.run("memory", "0").stdout
    line = next(n for n, each in enumerate(APP.strip("\n").splitlines(), 1) if "bytes(8000)" in each)
    return text if f"app.py:{line}" in text else None


def produce_compressed(broker: Broker, topic: str, value: bytes, count: int) -> None:
    """So that the broker has little to write, and the client what it is worth."""
    producer = Producer({"bootstrap.servers": broker.direct, "compression.type": "lz4", "linger.ms": 20})
    for _ in range(count):
        while True:
            try:
                producer.produce(topic, value)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(30.0) == 0


def assert_dump(file: Path) -> None:
    head, *objects = map(json.loads, file.read_text().splitlines())

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert head["format"] == "swarm-heap-1"
    orders = [each for each in objects if each.get("type") == "app.Order"]
    [kept] = [each for each in objects if each.get("name") == "app.kept"]
    assert len(set(kept["refs"]) & {each["id"] for each in orders}) == len(orders) > 100
