"""Under which identity a worker joins its groups, and with which properties. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swarm.client import consumer_properties
from swarm.config import Settings
from swarm.plan import Plan


def instance_id(settings: Settings, index: int) -> str | None:
    """`group.instance.id` (KIP-345): NAME.HOST.INDEX, the same for every successor of a worker; None without static membership."""
    if not settings.supervision.static_membership:
        return None
    return f"{settings.swarm.name}.{settings.swarm.host}.{index}"


def group_properties(settings: Settings, group: str, plans: Sequence[Plan], index: int) -> dict[str, Any]:
    """What the client of one group is made with in worker `index`."""
    user: dict[str, Any] = dict(settings.kafka)
    for plan in plans:
        user.update(plan.kafka)
    user.setdefault("client.id", f"{settings.swarm.name}-{index}")
    direct = any(plan.is_direct for plan in plans)  # nobody is a member there, so there is no seat
    return consumer_properties(user, group, None if direct else instance_id(settings, index))
