"""What is raised in a callback of librdkafka's comes out of the call that served it, as it is; and a call that does not return."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from swarm.client import BULK, BULK_WAIT, Client, consumer_properties
from tests.unit.stage import record


class Callbacks:
    """Fails as C code does, whose exceptions librdkafka's binding loses: by what a conversion raises."""

    def on_error(self, *_: object) -> None:
        int("no number")


def test_an_exception_in_a_callback_is_raised_by_fetch() -> None:
    """Not as a SystemError about an exception of class str, of which nobody can tell where it came from."""
    properties = consumer_properties({"bootstrap.servers": "127.0.0.1:1"}, "shop", None)
    client = Client(properties, ["orders"], cast(Any, Callbacks()))

    with pytest.raises(ValueError, match="no number"):
        _serve(client)

    client._raised = None
    client._raw.close()


def test_a_client_that_does_not_close_is_left_to_itself_while_the_poller_is_seen_alive() -> None:
    """With the broker away librdkafka takes its time, for which a worker that was told to go must not be killed as stuck."""
    client = Client(
        consumer_properties({"bootstrap.servers": "127.0.0.1:1"}, "shop", None), ["orders"], cast(Any, Callbacks())
    )
    raw, client._raw = client._raw, cast(Any, Hanging())
    alive: list[None] = []

    assert not client.close(leave=False, alive=lambda: alive.append(None), patience=0.3)

    assert alive
    cast(Hanging, client._raw).go_on.set()
    raw.close()


def test_a_fetch_waits_for_more_only_where_there_is_a_backlog() -> None:
    """A message that comes alone goes on at once; where there are many, each pass takes as many as it may."""
    client = Client(
        consumer_properties({"bootstrap.servers": "127.0.0.1:1"}, "shop", None), ["orders"], cast(Any, Callbacks())
    )
    raw, there = client._raw, Queue()
    client._raw = cast(Any, there)

    for waiting in (3, BULK + 5, BULK + 5, 3, 3, BULK + 5, 0, 3):
        there.waiting = waiting
        assert len(client.fetch(2000, 0.0)) == waiting

    assert there.patience == [0, 0, BULK_WAIT, BULK_WAIT, 0, 0, 0]
    raw.close()


class Queue:
    """Librdkafka's consumer, with so many messages in hand, and how long it was asked to wait for more."""

    def __init__(self) -> None:
        self.waiting = 0
        self.patience: list[float] = []

    def poll(self, timeout: float) -> Any:
        return record(0) if self.waiting else None

    def consume(self, most: int, timeout: float) -> list[Any]:
        self.patience.append(timeout)
        return [record(offset) for offset in range(1, self.waiting)]


class Hanging:
    """Librdkafka's consumer, in a close that waits for a broker."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def close(self) -> None:
        self.go_on.wait(30)


def _serve(client: Client) -> None:
    """Nobody is there, so librdkafka reports an error within a second."""
    for _ in range(100):
        client.fetch(1, 0.1)
