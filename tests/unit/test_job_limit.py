"""How long one job may run before its worker counts as stuck."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from swarm.message import Messages
from swarm.plan import make_plan
from swarm.worker import Runtime


def nothing(messages: Messages) -> None:
    pass


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({}, 300.0),
        ({"consume_timeout": 5.0}, 5.0),
        ({"long_running": True}, 0.0),
        ({"long_running": True, "consume_timeout": 3600.0}, 3600.0),
    ],
)
def test_a_long_running_job_has_a_time_limit_only_where_one_is_given(options: dict[str, Any], limit: float) -> None:
    """An ordinary one has the setting's unless its subscription says otherwise; 0 is none."""
    runtime = SimpleNamespace(settings=SimpleNamespace(supervision=SimpleNamespace(consume_timeout=300.0)))

    assert Runtime.job_limit(cast(Any, runtime), make_plan(handler=nothing, topics=("orders",), **options)) == limit
