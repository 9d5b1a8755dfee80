"""Under which identity a worker joins its groups, and with which properties. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from swarm.client import consumer_properties
from swarm.config import Settings
from swarm.plan import Plan


def instance_id(settings: Settings, index: int) -> str | None:
    """`group.instance.id` (KIP-345): NAME.HOST.INDEX, the same for every successor of a worker; None without static membership."""
    if not settings.supervision.static_membership:
        return None
    return f"{settings.swarm.name}.{settings.swarm.host}.{index}"


QUEUE: Final = 64 << 20
"""Bytes: librdkafka's default of `queued.max.messages.kbytes`, for all partitions of a client together."""
RESPONSE: Final = 50 << 20
"""Bytes: its default of `fetch.max.bytes`, for one answer of a broker, which comes on top of what is queued."""
SMALLEST: Final = 4 << 20
"""Bytes: less than that of either makes many small requests, and gains little."""


def group_properties(
    settings: Settings, group: str, plans: Sequence[Plan], index: int, room: int = 0
) -> dict[str, Any]:
    """What the client of one group is made with in worker `index`. room: bytes that it may hold of what was fetched (0: as librdkafka does)."""
    user: dict[str, Any] = dict(settings.kafka)
    for plan in plans:
        user.update(plan.kafka)
    user.setdefault("client.id", f"{settings.swarm.name}-{index}")
    if room:
        queue, response = (min(most, max(SMALLEST, room // 2)) for most in (QUEUE, RESPONSE))
        user.setdefault("queued.max.messages.kbytes", queue >> 10)
        # librdkafka makes no client with less than `message.max.bytes` (measured).
        user.setdefault("fetch.max.bytes", max(response, int(user.get("message.max.bytes", 0))))
    direct = any(plan.is_direct for plan in plans)  # nobody is a member there, so there is no seat
    return consumer_properties(user, group, None if direct else instance_id(settings, index))
