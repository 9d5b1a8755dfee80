"""What a worker's clients may hold of what they have fetched is a part of the memory that the worker may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from swarm import App
from swarm.config import Settings, fetch_budget
from swarm.membership import group_properties

MIB = 1 << 20


def properties(kafka: dict[str, Any], room: int) -> dict[str, Any]:
    app = App("shop")
    app.subscribe("orders")(lambda messages: None)
    return group_properties(Settings(kafka={"bootstrap.servers": "", **kafka}), "shop", app.groups()["shop"], 0, room)


def bounds(kafka: dict[str, Any], room: int) -> tuple[int, int]:
    made = properties(kafka, room)
    return made["queued.max.messages.kbytes"], made["fetch.max.bytes"]


@pytest.mark.parametrize(
    ("room", "kafka", "expected"),
    [
        (50 * MIB, {}, (25 * 1024, 25 * MIB)),
        (1000 * MIB, {}, (64 * 1024, 50 * MIB)),  # never more than librdkafka would
        (1 * MIB, {}, (4 * 1024, 4 * MIB)),
        (1 * MIB, {"message.max.bytes": 10_000_000}, (4 * 1024, 10_000_000)),
        (50 * MIB, {"queued.max.messages.kbytes": 7, "fetch.max.bytes": 9 * MIB}, (7, 9 * MIB)),
    ],
)
def test_queue_and_response_share_the_room_and_the_user_wins(
    room: int, kafka: dict[str, Any], expected: tuple[int, int]
) -> None:
    """And librdkafka makes a client with it."""
    assert bounds(kafka, room) == expected
    Consumer(properties(kafka, room)).close()


def test_without_a_limit_librdkafkas_defaults_stay() -> None:
    made = properties({}, 0)

    assert not {"queued.max.messages.kbytes", "fetch.max.bytes"} & set(made)


def test_all_groups_of_a_worker_together_get_a_quarter_of_its_limit(tmp_path: Path) -> None:
    limited = Settings.model_validate({"supervision": {"memory_limit": "400MiB"}})

    assert [fetch_budget(limited, groups, tmp_path) for groups in (0, 1, 4)] == [100 * MIB, 100 * MIB, 25 * MIB]
    assert fetch_budget(Settings.model_validate({"supervision": {"memory_limit": 0}}), 1, tmp_path) == 0
