"""Fixtures of all tests: one broker for the whole run, fresh names on it, and swarms that never outlive their test."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Also where pytest is not started as `python -m pytest`: the tests' own package stands beside them.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.cluster import Cluster
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.ports import free_port
from tests.support.project import Sections, merged, write_project
from tests.support.proxy import Proxy, proxied_broker

# Whether a change lands is decided by the change: the same examples each time, however busy the machine is. `make simulation` looks
# for others.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", _PATIENT, derandomize=True)
settings.register_profile("random", _PATIENT)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


_DAEMONS = pytest.StashKey[list[Daemon]]()
_SHUTDOWN_TIMEOUT = 10.0  # s; a test that fails to stop its swarm should say so soon


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A real Apache Kafka, started by the first test that wants one and shared by all: use fresh names on it.

    A test that stops or kills it starts it again before it ends, or better takes a `Broker()` of its own.
    """
    with Broker() as running:
        yield running


@pytest.fixture(scope="session")
def _proxied() -> Iterator[tuple[Broker, Proxy]]:
    with proxied_broker() as running:
        yield running


@pytest.fixture
def proxied(_proxied: tuple[Broker, Proxy]) -> Iterator[tuple[Broker, Proxy]]:
    """A broker that clients reach through a proxy, which a test may slow down, hold and cut; it is healed after the test.

    One for the whole run. Swarms get `broker.bootstrap`; topics are made with `broker.create_topic`.
    """
    yield _proxied
    _proxied[1].heal()


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture
def cluster(_cluster: Cluster) -> Iterator[Cluster]:
    """Three brokers, each behind a proxy, of which a test may kill or freeze one and do what it likes to the network.

    One cluster for the whole run, whole again after the test.
    """
    yield _cluster
    _cluster.heal()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> Callable[..., str]:
    """`topic(partitions=1, config=None, create=True)` -> the name of a fresh topic; `create=False`: only the name."""

    def make(partitions: int = 1, config: Mapping[str, str] | None = None, *, create: bool = True) -> str:
        name = _fresh_name(request.node.name)
        if create:
            kafka: Broker = request.getfixturevalue("broker")
            kafka.create_topic(name, partitions, config)
        return name

    return make


@pytest.fixture
def group(request: pytest.FixtureRequest) -> str:
    """A fresh name for a consumer group."""
    return _fresh_name(request.node.name)


@pytest.fixture
def swarm_project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """`swarm_project(app, settings=None, *, bootstrap=None, name="shop", module="app", folder=None)` -> `Daemon`.

    Writes `app`, the source of a module with `app = App(…)`, and a `swarm.toml` beside it, and starts nothing.
    `settings` are sections laid over the defaults below; a value of None takes a key out. Without `bootstrap` it
    is the shared broker's address, which starts that broker. Each call makes a swarm with its own run and state
    directory and metrics port; all are ended with the test.
    """
    daemons: list[Daemon] = request.node.stash.setdefault(_DAEMONS, [])
    short = Path(tempfile.mkdtemp(prefix="swarm-"))  # a Unix socket's path has at most 107 bytes; tmp_path is long

    def make(
        app: str,
        settings: Sections | None = None,
        *,
        bootstrap: str | None = None,
        name: str = "shop",
        module: str = "app",
        folder: Path | None = None,
    ) -> Daemon:
        number = len(daemons)
        if bootstrap is None:
            kafka: Broker = request.getfixturevalue("broker")
            bootstrap = kafka.bootstrap
        folder = folder or tmp_path / f"project{number}"
        defaults: Sections = {
            "swarm": {
                "app": f"{module}:app",
                "name": name,
                "group_id": _fresh_name(request.node.name),
                "workers": 2,
                "run_dir": short / f"run{number}",
                "state_dir": folder / "state",
                "shutdown_timeout": _SHUTDOWN_TIMEOUT,
            },
            "kafka": {"bootstrap.servers": bootstrap},
            "observer": {"port": free_port()},
        }
        chosen = merged(defaults, settings or {})
        config = write_project(folder, app, chosen, module)
        daemons.append(Daemon(config, chosen))
        return daemons[-1]

    yield make

    problems = []
    for daemon in daemons:
        try:
            daemon.close()
        except AssertionError as problem:
            problems.append(str(problem))
    shutil.rmtree(short, ignore_errors=True)
    assert not problems, "\n".join(problems)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where processes share the work (`make test`), what is costly to start is started by one of them."""
    for item in items:
        for costly in ("cluster", "proxied"):
            if costly in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(costly))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the test's swarms have logged."""
    report = yield
    if report.failed:
        for daemon in item.stash.get(_DAEMONS, []):
            report.sections.append((f"log of the swarm in {daemon.folder.name}", daemon.story(lines=80)))
    return report


def _fresh_name(test: str) -> str:
    """Readable in a broker's log, and never used before: topics of an earlier run may still be on a broker."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", test.removeprefix("test_"))
    return f"{words[:60].strip('-')}-{uuid.uuid4().hex[:8]}"
