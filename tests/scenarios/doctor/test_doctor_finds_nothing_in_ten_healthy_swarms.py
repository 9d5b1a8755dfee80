"""Ten swarms of different shapes run, consume and are well: `doctor` has nothing to say of any of them, with the daemon and without."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.scenarios.doctor import ward
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
    "three workers": (PLAIN, {"swarm": {"workers": 3}}),
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


@pytest.mark.limit(240)
@pytest.mark.parametrize("half", [0, 1])
def test_ten_healthy_swarms_are_found_in_order(
    half: int, swarm_project: Callable[..., Daemon], topic: Callable[..., str], broker: Broker
) -> None:
    """Running, with messages that come before they are looked at; and again when they have stopped. Five at a time."""
    assert len(SHAPES) == 10
    swarms: dict[str, Daemon] = {}
    topics: list[str] = []
    for shape, (source, settings) in list(SHAPES.items())[half::2]:
        ours, other, group = topic(4), topic(4), ward.name()
        app = (HEAD + source).format(topic=ours, other=other, group=group)
        swarms[shape] = swarm_project(app, ward.settings(group, {"log": {"level": "info"}, **settings})).start()
        topics.append(ours)
    for ours in topics:
        broker.produce(ours, [(str(n % 7), "x" * 50) for n in range(200)])
    for daemon in swarms.values():
        daemon.until_running(within=90.0)

    def examined(*args: str) -> dict[str, list[dict[str, str]]]:
        """What was found, by shape; nothing is left out of the checks that a daemon and a cluster make possible."""
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda daemon: ward.examine(daemon, *args), swarms.values()))
        assert all("lag_growing" in each.answer["passed"] for each in answers if not args)
        return {shape: each.findings for shape, each in zip(swarms, answers, strict=True) if each.findings}

    assert examined() == {}
    assert [daemon.stop() for daemon in swarms.values()] == [0] * len(swarms)
    assert examined("--seconds", "0") == {}
