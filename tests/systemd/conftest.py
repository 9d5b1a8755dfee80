"""Fixtures: one booted machine for the run, and instances of our unit in it. Root, debootstrap and systemd-nspawn are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.kafka import Broker
from tests.support.machine import Machine, make_tree
from tests.support.project import Sections, merged
from tests.support.service import Service


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """Booted once; set up as the head of the unit says."""
    with Machine(make_tree()) as booted:
        booted.run("useradd", "--system", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", "swarm")
        booted.systemctl("log-level", "debug")  # it then says in the journal what it is told
        yield booted


@pytest.fixture
def service(
    machine: Machine, broker: Broker, group: str, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Service]]:
    """`service(app, settings=None, unit="")` -> a `Service` that is installed and not started; stopped with the test.

    `unit`: lines for [Service] that this machine's administrator would add by `systemctl edit`.
    """
    made: list[Service] = []

    def make(app: str, settings: Sections | None = None, unit: str = "") -> Service:
        made.append(Service(machine, group))
        made[-1].install(app, merged({"kafka": {"bootstrap.servers": broker.bootstrap}}, settings or {}), unit)
        return made[-1]

    yield make
    for each in made:
        machine.systemctl("kill", "--signal=CONT", each.unit, check=False)
        machine.systemctl("stop", each.unit, check=False)
        machine.systemctl("reset-failed", each.unit, check=False)
