"""What the service manager hears: datagrams, only if it asked for them, and only from us."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from swarm.supervisor.notify import Notifier

Make = Callable[[Mapping[str, str] | None], Notifier]


@pytest.fixture
def made() -> Iterator[Make]:
    """Makes notifiers, and closes them with the test."""
    notifiers: list[Notifier] = []

    def make(environ: Mapping[str, str] | None) -> Notifier:
        notifiers.append(Notifier(environ))
        return notifiers[-1]

    yield make
    for notifier in notifiers:
        if notifier._socket is not None:
            notifier._socket.close()


def test_the_manager_hears_assignments_line_by_line(made: Make, tmp_path: Path) -> None:
    """One datagram for each call."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        made({"NOTIFY_SOCKET": str(tmp_path / "notify")}).send("READY=1", "STATUS=running")

        assert manager.recv(1000) == b"READY=1\nSTATUS=running"


def test_an_abstract_address_is_understood(made: Make) -> None:
    """`@name` is a socket without a file."""
    name = f"swarm-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        made({"NOTIFY_SOCKET": "@" + name}).send("READY=1")

        assert manager.recv(1000) == b"READY=1"


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/nowhere/notify"])
def test_without_a_manager_nothing_is_sent_and_nothing_fails(made: Make, address: str) -> None:
    """In a terminal, in a container, or with a manager that has gone."""
    made({"NOTIFY_SOCKET": address}).send("READY=1")

    assert made({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "x"}).watchdog is None


@pytest.mark.parametrize(
    ("pid", "usec", "seconds"),
    [
        ("", "30000000", 15.0),
        (str(os.getpid()), "1000000", 0.5),
        ("1", "30000000", None),
        ("", "0", None),
        ("", "", None),
    ],
    ids=["for anybody", "for us", "for another", "never", "not asked for"],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_asks(made: Make, pid: str, usec: str, seconds: float | None) -> None:
    """Half of WATCHDOG_USEC, unless it is meant for another process."""
    env = {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_PID": pid, "WATCHDOG_USEC": usec}

    assert made(env).watchdog == seconds


def test_children_cannot_speak_in_our_name(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables are taken out of the environment that workers and what they start inherit."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")

    notifier = made(None)

    assert notifier.watchdog == 1.0
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
