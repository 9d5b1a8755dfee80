"""`swarmctl memory`: what grows for a while and is bounded. A handler's cache that fills up, and lanes before a handler that stands."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from tests.support.daemon import Daemon
from tests.support.kafka import Broker

APP = """
    import functools, time
    from pathlib import Path
    from swarm import App, RateLimit

    app = App("fat")
    GATE = Path(__file__).with_name("gate")

    @functools.lru_cache(maxsize=None)
    def customer(number):
        return bytes(70_000)  # each of its own, for nobody changes it

    @app.each("CACHE", group="GROUP-cache", workers=[0], rate_limit=RateLimit(300))
    def cached(message):
        customer(int(message.raw))

    @app.subscribe("LANES", group="GROUP-lanes", workers=[1], max_messages=1000, kafka={
        "queued.max.messages.kbytes": 1024, "fetch.message.max.bytes": 262144, "statistics.interval.ms": 500})
    def stands(messages):
        while not GATE.exists():
            time.sleep(0.05)
"""
CUSTOMERS = 1500
"""Of whom 300 come in a second, at random: what is new among them falls to a half within 3.5 s."""
LARGE = "x" * 8000


def verdicts(daemon: Daemon) -> dict[int, dict[str, Any]]:
    """What is said of each worker."""
    done = daemon.run("memory", "--json")
    assert done.returncode == 0, done.stderr
    return {worker["index"]: worker for worker in json.loads(done.stdout)["workers"]}


def until(daemon: Daemon, worker: int, verdict: str, within: float) -> dict[str, Any]:
    """Asks until this is said of a worker, and returns all that is said of it then."""
    said: list[tuple[str, Any]] = []

    def there() -> dict[str, Any] | None:
        each = verdicts(daemon)[worker]
        said.append((each["verdict"], each["trend"]))
        return each if each["verdict"] == verdict else None

    try:
        return daemon.wait_for(there, within, f"{verdict} of worker {worker}")
    except AssertionError as error:
        raise AssertionError(f"{said}\n{error}") from None


def test_a_cache_that_fills_and_full_lanes_are_named(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """The cache is a warm-up while it grows ever less and flat when it is full; the lanes hold what their handler has not taken."""
    names = {"CACHE": topic(), "LANES": topic(3)}
    app = APP.replace("GROUP", group)
    for what, name in names.items():
        app = app.replace(f'"{what}"', f'"{name}"')
    order = random.Random(1)
    broker.produce(names["CACHE"], [(None, str(order.randrange(CUSTOMERS))) for _ in range(30_000)])
    for partition in range(3):
        broker.produce(names["LANES"], [(None, LARGE)] * 5000, partition)
    daemon = swarm_project(
        app,
        {
            "swarm": {"workers": 2},
            "worker": {"commit_interval": 1.0},
            "supervision": {"check_interval": 0.2},
            "log": {"level": "info"},
        },
    )
    daemon.start().until_running()

    filling = until(daemon, 0, "warm-up", 60.0)
    full = until(daemon, 0, "flat", 60.0)
    held = until(daemon, 1, "held in the lanes", 30.0)
    (daemon.folder / "gate").touch()
    daemon.wait_for(
        lambda: sum(broker.committed(f"{group}-lanes").values()) == 15_000, what="what was held to be worked on"
    )
    assert daemon.stop() == 0

    assert "it grows, but ever less: caches and pools fill up" in filling["why"]
    assert filling["trend"]["rising"]
    assert not full["trend"]["rising"]
    lanes = held["queues"]["lanes"]
    assert lanes["bytes"] > 16 << 20
    assert lanes["bytes"] > sum(client["bytes"] for client in held["queues"]["clients"])
    assert "in the lanes behind it" in held["why"]
