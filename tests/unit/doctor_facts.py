"""A healthy set-up as facts, and small ways to make it sick. Knows no process and no Kafka."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from swarm.config import Settings
from swarm.doctor import Facts, Finding, examine
from swarm.doctor.facts import (
    Application,
    Batches,
    Cluster,
    Daemon,
    Group,
    Held,
    LiveGroup,
    Look,
    Machine,
    Member,
    StopLimit,
    Subscription,
    Topic,
    Value,
    Worker,
)

NOW = 1_790_000_000.0
GAP = 3.0
STOCK = {
    "auto.create.topics.enable": "false",
    "group.max.session.timeout.ms": "1800000",
    "group.min.session.timeout.ms": "6000",
    "min.insync.replicas": "2",
    "offsets.retention.minutes": "10080",
}


def settings(**sections: Mapping[str, Any]) -> Settings:
    """Of a daemon `shop` on a machine `web1`, with what is given laid over it."""
    swarm = {"app": "shop:app", "name": "shop", "host": "web1", "workers": 2, **sections.pop("swarm", {})}
    return Settings.model_validate({"swarm": swarm, "kafka": {"bootstrap.servers": "b:9092"}, **sections})


def subscription(*topics: str, **more: Any) -> Subscription:
    topics = topics or ("orders",)
    return Subscription(f"subscription to {', '.join(topics)} (handle)", topics, **more)


def group(name: str = "shop", *subscriptions: Subscription, members: int = 2, **properties: str) -> Group:
    """properties: with underscores for dots."""
    given = {key.replace("_", "."): Value(value, "swarm.toml") for key, value in properties.items()}
    ours = {"heartbeat.interval.ms": Value("1000", "default of kafka-swarm")}
    return Group(name, "App('shop')", members, subscriptions or (subscription(),), {**ours, **given})


def application(*groups: Group, **more: Any) -> Application:
    groups = groups or (group(),)
    return Application("shop", groups, **{"groups_again": tuple(each.name for each in groups), **more})


def member(index: int = 0, *places: tuple[str, int], **more: Any) -> Member:
    fields = {"client_id": f"shop-{index}", "instance_id": f"shop.web1.{index}", "host": "/10.0.0.7", **more}
    return Member(**fields, held=frozenset(places))


def topic(name: str = "orders", partitions: int = 4, replication: int = 3, **config: str) -> Topic:
    given = {key.replace("_", "."): value for key, value in config.items()}
    return Topic(name, partitions, replication, {"min.insync.replicas": "2", **given}, NOW - 1)


MEMBERS = (member(0, ("orders", 0), ("orders", 1)), member(1, ("orders", 2), ("orders", 3)))


def live(name: str = "shop", members: tuple[Member, ...] = MEMBERS, stable: bool = True) -> LiveGroup:
    return LiveGroup(name, stable, members)


def look(
    after: float = 0.0,
    ends: tuple[int, ...] = (100, 100, 100, 100),
    done: tuple[int, ...] = (100, 100, 100, 100),
    groups: Mapping[str, LiveGroup] | None = None,
    stable: tuple[int, ...] | None = None,
) -> Look:
    """A look at the four partitions of `orders`, `after` seconds."""
    places = [("orders", number) for number in range(4)]
    return Look(
        50.0 + after,
        NOW + after,
        dict(zip(places, ends, strict=True)),
        dict(zip(places, stable or ends, strict=True)),
        {("shop", *place): offset for place, offset in zip(places, done, strict=True)},
        {"shop": live()} if groups is None else groups,
    )


def cluster(*looks: Look, **more: Any) -> Cluster:
    looks = looks or (look(), look(GAP, (130, 130, 130, 130), (130, 130, 130, 130)))
    fields = {
        "brokers": 3,
        "config": STOCK,
        "topics": {"orders": topic(), "__consumer_offsets": topic("__consumer_offsets", 50)},
        "groups": dict(looks[-1].groups),
        **more,
    }
    return Cluster(looks=looks, **fields)


def worker(index: int = 0, **more: Any) -> Worker:
    held = tuple(Held(("shop", "orders", number), 130, 130) for number in (2 * index, 2 * index + 1))
    fields = {"pid": 100 + index, "state": "running", "health": "ok", "uptime": 3600.0, "held": held, **more}
    return Worker(index, **fields)


def daemon(*workers: Worker, **more: Any) -> Daemon:
    return Daemon(99, workers or (worker(0), worker(1)), **more)


def batches(**more: Any) -> Batches:
    fields = {"count": 1000, "messages": 100_000, "seconds": 500.0, "longest": 2.5, "source": "status, up 1h", **more}
    return Batches(**fields)


def healthy(**more: Any) -> Facts:
    """Everything is known, and nothing is wrong."""
    fields: dict[str, Any] = {
        "settings": settings(),
        "machine": Machine("web1", "3.12.9", "2.16.1", "2.16.0"),
        "sources": {"swarm.workers": "swarm.toml", "kafka.bootstrap.servers": "swarm.toml"},
        "producer": {"enable.idempotence": Value("true", "default of kafka-swarm")},
        "app": application(),
        "daemon": daemon(),
        "cluster": cluster(),
        "stop_limit": StopLimit(50.0, "TimeoutStopSec", "systemctl show swarm@shop.service"),
        "batches": (batches(),),
        **more,
    }
    return Facts(**fields)


def found(facts: Facts) -> list[Finding]:
    return list(examine(facts).findings)


def rules(facts: Facts) -> list[str]:
    """The ids of the rules that found something, each once."""
    return list(dict.fromkeys(finding.rule for finding in found(facts)))


def with_topic(facts: Facts, *topics: Topic, **more: Any) -> Facts:
    assert facts.cluster is not None
    known = {**facts.cluster.topics, **{each.name: each for each in topics}}
    return replace(facts, cluster=replace(facts.cluster, topics=known, **more))
