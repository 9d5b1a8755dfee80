"""The pytest plugin: fixtures `swarm_broker` and `swarm_daemon` for an application's own tests. Installed with the package.

Nothing of it is imported before a test asks for a fixture.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from swarm.testing.broker import SwarmBroker
    from swarm.testing.daemon import SwarmDaemon

VARIABLE = "SWARM_TESTING_BOOTSTRAP"
_DAEMONS = pytest.StashKey[list["SwarmDaemon"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("swarm").addoption(
        "--swarm-bootstrap",
        metavar="HOST:PORT",
        help=f"the Kafka that swarm_broker is (default: ${VARIABLE}, else an embedded broker that the tests start)",
    )


@pytest.fixture(scope="session")
def swarm_broker(request: pytest.FixtureRequest) -> Iterator[SwarmBroker]:
    """A broker for all tests of the run: embedded, or the one of `--swarm-bootstrap`. Use fresh names for topics and groups on it."""
    from swarm.testing.broker import SwarmBroker

    bootstrap = request.config.getoption("--swarm-bootstrap") or os.environ.get(VARIABLE)
    with SwarmBroker(bootstrap) if bootstrap else SwarmBroker.embedded() as broker:
        yield broker


@pytest.fixture
def swarm_daemon(request: pytest.FixtureRequest) -> Iterator[Callable[..., SwarmDaemon]]:
    """`swarm_daemon(app, settings=None, broker=None, folder=None)` -> a running `SwarmDaemon`.

    app: "module:name", or the path of a `swarm.toml`, seen from `folder` (default: where the test's file is). settings: sections laid
    over the defaults for tests. At the end of the test it is stopped, and a broken invariant fails the test.
    """
    from swarm.testing.daemon import SwarmDaemon
    from swarm.testing.violations import report

    daemons: list[SwarmDaemon] = request.node.stash.setdefault(_DAEMONS, [])

    def make(
        app: str | Path,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        broker: SwarmBroker | None = None,
        folder: Path | None = None,
    ) -> SwarmDaemon:
        where: SwarmBroker = broker or request.getfixturevalue("swarm_broker")
        daemons.append(SwarmDaemon(app, where, settings, folder or request.path.parent))
        return daemons[-1].start()

    yield make

    found: list[str] = []
    for daemon in daemons:
        try:
            if daemon.is_running:
                daemon.stop()
            if violations := daemon.violations():
                found.append(report(violations))
        finally:
            daemon.close()
    if found:
        pytest.fail("invariants that did not hold:\n" + "\n".join(found), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failure shows what the test's swarms have logged."""
    report: pytest.TestReport = yield
    if report.failed:
        daemons: list[SwarmDaemon] = item.stash.get(_DAEMONS, [])
        for number, daemon in enumerate(daemons):
            report.sections.append((f"log of swarm {number}", daemon.story()))
    return report
