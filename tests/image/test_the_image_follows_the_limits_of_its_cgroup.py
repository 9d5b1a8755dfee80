from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest

from tests.image.conftest import Shop
from tests.support.cgroups import limited

APP = """
    from swarm import App

    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass
"""
MIB = 2**20


def test_workers_and_their_memory_are_what_the_container_may_use(shop: Callable[..., Shop]) -> None:
    """`workers = "auto"` of half a CPU is one; its soft limit is 80 % of the container's memory."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one CPU: the limit could not be told from it")
    container = shop(APP, {"swarm": {"workers": "auto"}})
    with contextlib.ExitStack() as stack:
        try:
            groups = stack.enter_context(limited(cpus=0.5, memory=600 * MIB))
        except OSError as error:
            pytest.skip(f"no cgroup with limits can be made here: {error}")
        running = container.start(groups=groups)
        status = container.until_up()
        code = running.stop()

    assert code == 0
    assert len(status["workers"]) == 1
    assert status["limits"]["memory_limit"] == 480 * MIB
    assert status["limits"]["memory_kill"] == 600 * MIB


def test_without_limits_the_machine_is_the_limit(shop: Callable[..., Shop]) -> None:
    """Otherwise the test above could be green with any number."""
    container = shop(APP, {"swarm": {"workers": "auto"}})
    running = container.start()

    status = container.until_up()

    assert len(status["workers"]) == len(os.sched_getaffinity(0))
    assert status["limits"]["memory_limit"] > 600 * MIB
    assert running.stop() == 0
