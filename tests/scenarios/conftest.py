"""What holds in every scenario, whatever it is about: no error event that it did not announce, and an end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.daemon import Daemon

_LIMIT = 120  # s, unless marked `limit(seconds)`


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"limit(seconds): this scenario may take longer than {_LIMIT} s")


@pytest.fixture
def swarm_project(swarm_project: Callable[..., Daemon]) -> Iterator[Callable[..., Daemon]]:
    """As everywhere (tests/conftest.py); at the end also no error that `Daemon.expect_errors` has not announced."""
    made: list[Daemon] = []

    def make(*args: Any, **kwargs: Any) -> Daemon:
        made.append(swarm_project(*args, **kwargs))
        return made[-1]

    yield make

    for daemon in made:
        daemon.close()
        surprises = daemon.unannounced_errors()
        assert not surprises, (
            f"errors that the scenario did not announce with expect_errors(…):\n{surprises}\n{daemon.story()}"
        )


@pytest.fixture(autouse=True)
def _limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ends a scenario that hangs, with the traceback of where it does."""
    marker = request.node.get_closest_marker("limit")
    seconds = marker.args[0] if marker else _LIMIT

    def overdue(*_: object) -> None:
        pytest.fail(f"the scenario is not over after {seconds} s")

    before = signal.signal(signal.SIGALRM, overdue)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
