"""What is raised in a callback of librdkafka's comes out of the call that served it, as it is."""

from __future__ import annotations

from typing import Any, cast

import pytest

from swarm.client import Client, consumer_properties


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


def _serve(client: Client) -> None:
    """Nobody is there, so librdkafka reports an error within a second."""
    for _ in range(100):
        client.fetch(1, 0.1)
