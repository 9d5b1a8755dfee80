"""`start --isolate TOPIC[/PARTITION]`: one message at a time of one place, and nothing else. Pure.

The group, its offsets, retries and dead letters are the real ones: what is handled is done. Other partitions of the topic are assigned,
for Kafka knows no membership of a part of a topic, and stand paused meanwhile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from swarm.pauses import Word
from swarm.plan import Plan
from swarm.wording import counted

Place = tuple[str, int | None]


def place(text: str) -> Place:
    """`orders/3` as ("orders", 3), `orders` as ("orders", None)."""
    topic, slash, number = text.rpartition("/")
    return (topic, int(number)) if slash else (text, None)


def isolated(groups: Mapping[str, Sequence[Plan]], text: str) -> dict[str, list[Plan]]:
    """What is left of an app's groups: the subscriptions to this topic, of it alone, one message at a time, in one slice, on any worker."""
    topic, _ = place(text)
    found = {
        group: [
            dataclasses.replace(
                plan,
                topics=(topic,),
                pattern=None,
                max_messages=1,
                max_wait=0.0,
                transaction_partitions=1,
                virtual_partitions=None,
                workers=None,
            )
            for plan in plans
            if plan.matches(topic)
        ]
        for group, plans in groups.items()
    }
    return {group: plans[:1] for group, plans in found.items() if plans}


def words(text: str | None) -> list[dict[str, Any]]:
    """The pauses with which such a swarm begins: all of the topic but the partition that is meant."""
    if text is None:
        return []
    topic, partition = place(text)
    if partition is None:
        return []
    return [dataclasses.asdict(Word(True, topic)), dataclasses.asdict(Word(False, topic, partition))]


def settings(text: str) -> list[str]:
    """Overrides for `start`: they go before what a user's own `-o` says."""
    return [
        f"swarm.isolate={text}",
        "swarm.workers=1",
        "worker.concurrency=1",
        "instrumentation.listeners=false",
    ]


def company(members: Mapping[str, int], text: str, others: str) -> str:
    """Why isolating is refused while others consume; empty: nobody does. members: of each group by the broker's word."""
    busy = {group: count for group, count in members.items() if count}
    if not busy:
        return ""
    who = ", ".join(f"{group} has {counted(count, 'member')}" for group, count in sorted(busy.items()))
    return (
        f"--isolate {text}: group {who} already. An isolated worker would take a share of the partitions from them, handle messages "
        f"of {text} only if it happens to be given them, and let the others of its share stand.\n"
        f"Stop that swarm first ({others}), or say --join if that is what you want."
    )
