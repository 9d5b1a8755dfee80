"""Ten swarms of different shapes run, consume and are well: neither `doctor` nor `why` nor `audit` has anything to say of any of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.scenarios.doctor import ward
from tests.scenarios.supervision.explaining import until, why
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.project import Sections

HEAD = """
    import asyncio
    from swarm import App, Consumer, DeadLetter, VirtualPartitions

    app = App("shop")
"""
PLAIN = '''
    @app.subscribe("{topic}")
    def orders(messages):
        """Nothing."""
'''
SHAPES: dict[str, tuple[str, Sections]] = {
    "one worker": (PLAIN, {"swarm": {"workers": 1}}),
    "three workers, and the commits of everyday": (
        PLAIN,
        {"swarm": {"workers": 3}, "worker": {"commit_interval": 5.0}},
    ),
    "dynamic members": (PLAIN, {"swarm": {"workers": 1}, "supervision": {"static_membership": False}}),
    "the new protocol": (PLAIN, {"swarm": {"workers": 1}, "kafka": {"group.protocol": "consumer"}}),
    "exactly once": (
        """
    @app.subscribe("{topic}", delivery="exactly_once")
    def orders(messages, consumer):
        for message in messages:
            consumer.producer.produce("{other}", message.raw)
""",
        {"swarm": {"workers": 1}},
    ),
    "at most once": (
        """
    @app.subscribe("{topic}", delivery="at_most_once")
    def orders(messages):
        pass
""",
        {},
    ),
    "virtual partitions": (
        """
    @app.subscribe("{topic}", virtual_partitions=VirtualPartitions(by="key", maximum=3))
    class Orders(Consumer):
        def consume(self, messages):
            total = 0
            for message in messages:
                total += len(message.raw)
""",
        {},
    ),
    "async": (
        """
    @app.each("{topic}", concurrency_key="key")
    async def order(message):
        await asyncio.sleep(0)
""",
        {"swarm": {"workers": 1}},
    ),
    "several groups": (
        """
    @app.subscribe("{topic}")
    def orders(messages):
        pass


    @app.subscribe("{other}", group="{group}-clicks", long_running=True)
    def clicks(messages):
        pass
""",
        {},
    ),
    "dead letters and manual offsets, not preloaded": (
        """
    @app.subscribe("{topic}", dead_letter=DeadLetter("{other}", max_attempts=2), offsets="manual")
    class Orders(Consumer):
        def consume(self, messages):
            for message in messages:
                self.mark_as_consumed(message)
""",
        {"swarm": {"preload": False, "workers": 1}},
    ),
}
ENOUGH = 2000
"""Messages of each swarm during which `why` is asked again and again: some ten seconds."""


@pytest.mark.limit(400)
@pytest.mark.parametrize("half", [0, 1])
def test_ten_healthy_swarms_are_found_in_order(
    half: int, swarm_project: Callable[..., Daemon], topic: Callable[..., str], broker: Broker
) -> None:
    """While messages come, when all of them are done, and again, where that can be asked, when they have stopped. Five at a time."""
    assert len(SHAPES) == 10
    swarms: dict[str, Daemon] = {}
    topics: dict[str, str] = {}
    for shape, (source, settings) in list(SHAPES.items())[half::2]:
        ours, other, group = topic(4), topic(4), ward.name()
        app = (HEAD + source).format(topic=ours, other=other, group=group)
        swarms[shape] = swarm_project(app, ward.settings(group, {"log": {"level": "info"}, **settings})).start()
        topics[shape] = ours
    for ours in topics.values():
        broker.produce(ours, [(str(n % 7), "x" * 50) for n in range(200)])
    for daemon in swarms.values():
        daemon.until_running(within=90.0)

    def everywhere(look: Callable[[str], Any]) -> dict[str, Any]:
        """What is found, by shape, where anything is."""
        with ThreadPoolExecutor(2) as pool:
            return {shape: found for shape, found in zip(swarms, pool.map(look, swarms), strict=True) if found}

    def examined(*args: str) -> dict[str, Any]:
        """What `doctor` finds; nothing is left out of the checks that a daemon and a cluster make possible."""

        def look(shape: str) -> list[dict[str, str]]:
            found = ward.examine(swarms[shape], *args)
            assert args or "lag_growing" in found.answer["passed"]
            return found.findings

        return everywhere(look)

    def audited() -> dict[str, Any]:
        """Repetitions and gaps; each of the audits has messages to look at."""

        def look(shape: str) -> Any:
            answer = swarms[shape].audit()
            assert answer["messages"] >= 200
            return [*answer["duplicates"], *answer["gaps"]] or answer["exit"]

        return everywhere(look)

    def troubled() -> dict[str, Any]:
        """What `why` names as a trouble, of the swarm and of each worker."""

        def look(shape: str) -> list[dict[str, Any]]:
            answers = [why(swarms[shape])]
            answers += [why(swarms[shape], str(worker["index"])) for worker in answers[0]["facts"]["workers"]]
            return [each for answer in answers for each in answer["findings"] if each["level"] in ("error", "warning")]

        return everywhere(look)

    def done(shape: str) -> int:
        return sum(int(worker["messages"]) for worker in why(swarms[shape])["facts"]["workers"])

    def well_until_enough() -> bool:
        assert troubled() == {}
        return all(done(shape) > before[shape] + ENOUGH for shape in swarms)

    with contextlib.ExitStack() as coming:
        for ours in topics.values():
            coming.enter_context(ward.growing(broker, ours, each=10))
        before = {shape: done(shape) for shape in swarms}
        ward.until(well_until_enough, f"{ENOUGH} messages of each")
        assert audited() == {}
        assert examined() == {}
        assert troubled() == {}
    for daemon in swarms.values():
        until(daemon, "no_lag")
    assert (troubled(), audited(), examined()) == ({}, {}, {})
    assert [daemon.stop() for daemon in swarms.values()] == [0] * len(swarms)
    assert (audited(), examined("--seconds", "0")) == ({}, {})
