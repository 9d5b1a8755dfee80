"""Each rule of `doctor` on facts: a set-up with one fault, which it names and no other rule does, and healthy ones, which nobody names."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.doctor import RULES, Facts, display, examine
from swarm.doctor.facts import Handoff, Handovers, Held, Machine, StopLimit, Value, Write
from tests.unit import doctor_facts as make
from tests.unit.doctor_facts import GAP, NOW, STOCK, found, healthy

Sick = Callable[[], Facts]
WEB1 = ("web1", "3.12.9", "2.16.1", "2.16.0")


def grouped(name: str, **more: Any) -> Facts:
    """An application whose group is called so, and nobody is in it."""
    return healthy(
        app=make.application(make.group(name), **more),
        daemon=None,
        cluster=make.cluster(make.look(groups={}), make.look(GAP, groups={}), groups={}),
    )


def members(*others: Any) -> Facts:
    group = {"shop": make.live(members=(*make.MEMBERS, *others))}
    return healthy(cluster=make.cluster(make.look(groups=group), make.look(GAP, groups=group)))


LEFT = f"the handler of the {make.subscription().label} returns before its work is done"


def told(rule: str, severity: str = "warning", what: str = "it") -> Facts:
    finding = {"rule": rule, "severity": severity, "what": what, "cause": "why", "fix": "how", "evidence": "seen"}
    return healthy(daemon=make.daemon(findings=(finding,)))


def written(kind: str, **more: Any) -> Facts:
    write = Write(kind, "COUNT", "shop.py:12", "COUNT += 1")
    return healthy(app=make.application(make.group("shop", make.subscription(writes=(write,)))), **more)


def handed_over(*, sure: bool, **more: Any) -> Facts:
    handoff = Handoff("queue", "JOBS", "shop.py:12", "JOBS.put(message)", sure)
    return healthy(app=make.application(make.group("shop", make.subscription(handoffs=(handoff,)))), **more)


def limited(**more: Any) -> Facts:
    return healthy(app=make.application(make.group("shop", **more)))


SICK: dict[str, tuple[str, Sick]] = {
    "a pid in the group id": ("group_id_generated", lambda: grouped("shop-4711", groups_again=("shop-4712",))),
    "a UUID in it": ("group_id_generated", lambda: grouped("shop-6f1e2d3c-9a8b-4c7d-8e6f-5a4b3c2d1e0f")),
    "a random number in it": ("group_id_generated", lambda: grouped("shop_9f86d081884c7d65")),
    "a moment in it": ("group_id_generated", lambda: grouped("shop.1763424000")),
    "a pod's name in it": ("group_id_generated", lambda: grouped("shop-7d9c6b5f4d-x2zkq")),
    "the host's name in it": ("group_id_generated", lambda: grouped("shop-web1")),
    "an application that reads other topics in the group": (
        "group_shared",
        lambda: members(make.member(9, ("clicks", 0), client_id="billing", instance_id=None)),
    ),
    "a console consumer in the group": (
        "members_not_ours",
        lambda: members(make.member(9, client_id="console-consumer", instance_id=None)),
    ),
    "two groups on a topic": (
        "several_groups_on_topic",
        lambda: healthy(app=make.application(make.group("shop"), make.group("audit"))),
    ),
    "another group of this daemon's name on its topic": (
        "several_groups_on_topic",
        lambda: healthy(cluster=make.cluster(strangers=(make.live("shop-old", (make.member(0, ("orders", 0)),)),))),
    ),
    "another group with the name that this daemon was given": (
        "several_groups_on_topic",
        lambda: healthy(
            sources={"swarm.name": "swarm.toml"},
            cluster=make.cluster(
                strangers=(make.live("mailer", (make.member(0, ("orders", 0), instance_id="shop.web9.0"),)),)
            ),
        ),
    ),
    "a container's id as the host": (
        "ephemeral_host",
        lambda: healthy(
            settings=make.settings(swarm={"host": "3f2a9c1b7d4e"}), machine=Machine("3f2a9c1b7d4e", *WEB1[1:])
        ),
    ),
    "two daemons without static ids, with transactions": (
        "transactional_ids_clash",
        lambda: healthy(
            settings=make.settings(supervision={"static_membership": False}),
            app=make.application(make.group("shop", make.subscription(exactly_once=True))),
            cluster=make.cluster(
                *(
                    make.look(
                        after,
                        groups={
                            "shop": make.live(
                                members=(
                                    make.member(0, ("orders", 0), ("orders", 1), instance_id=None),
                                    make.member(0, ("orders", 2), ("orders", 3), instance_id=None),
                                )
                            )
                        },
                    )
                    for after in (0.0, GAP)
                )
            ),
        ),
    ),
    "rare heartbeats": (
        "heartbeat_too_rare",
        lambda: limited(session_timeout_ms="10000", heartbeat_interval_ms="6000"),
    ),
    "a session that brokers refuse": ("session_refused", lambda: limited(session_timeout_ms="5000")),
    "a job limit above the poll interval": (
        "job_limit_above_poll_interval",
        lambda: healthy(app=make.application(make.group("shop", make.subscription(limit=900.0)))),
    ),
    "a poll timeout above the poll interval": (
        "poll_timeout_above_poll_interval",
        lambda: healthy(
            settings=make.settings(supervision={"poll_timeout": 400.0}),
        ),
    ),
    "a join timeout below the poll interval": (
        "join_timeout_below_poll_interval",
        lambda: healthy(settings=make.settings(supervision={"join_timeout": 200.0})),
    ),
    "a unit that kills too early": (
        "stop_limit_too_short",
        lambda: healthy(stop_limit=StopLimit(20.0, "TimeoutStopSec", "shop.service")),
    ),
    "batches longer than a stop waits": (
        "batches_outlast_shutdown",
        lambda: healthy(batches=(make.batches(longest=45.0),)),
    ),
    "batches near their limit": (
        "batches_near_limit",
        lambda: healthy(
            app=make.application(make.group("shop", make.subscription(limit=3.0))), batches=(make.batches(longest=2.5),)
        ),
    ),
    "batches too large for their time": (
        "batches_too_large",
        lambda: healthy(app=make.application(make.group("shop", make.subscription(max_messages=100_000)))),
    ),
    "more workers than partitions": (
        "more_workers_than_partitions",
        lambda: healthy(
            settings=make.settings(swarm={"workers": 6}), app=make.application(make.group("shop", members=6))
        ),
    ),
    "a lag that grows": (
        "lag_growing",
        lambda: healthy(cluster=make.cluster(make.look(ends=(500,) * 4), make.look(GAP, (900,) * 4, (150,) * 4))),
    ),
    "a partition that stands": (
        "partition_stuck",
        lambda: healthy(
            cluster=make.cluster(
                make.look(ends=(102, 100, 100, 100)), make.look(GAP, (104, 130, 130, 130), (100, 130, 130, 130))
            )
        ),
    ),
    "a partition that stands, with all that the lag grows by": (
        "partition_stuck",
        lambda: healthy(
            cluster=make.cluster(
                make.look(ends=(102, 100, 100, 100)), make.look(GAP, (500, 130, 130, 130), (100, 130, 130, 130))
            )
        ),
    ),
    "a partition that nobody has, as the daemon says": (
        "partition_unowned",
        lambda: healthy(daemon=make.daemon(unowned=((("shop", "orders", 2), 75.0),))),
    ),
    "a partition that nobody has, as two looks say": (
        "partition_unowned",
        lambda: healthy(
            cluster=make.cluster(
                *(make.look(after, groups={"shop": make.live(members=make.MEMBERS[:1])}) for after in (0.0, GAP))
            )
        ),
    ),
    "partitions to and fro, in the journal": (
        "ownership_ping_pong",
        lambda: healthy(handovers=(Handovers(("shop", "orders", 1), 12, 3600.0),)),
    ),
    "partitions to and fro, in the looks": (
        "ownership_ping_pong",
        lambda: healthy(
            cluster=make.cluster(
                make.look(),
                make.look(
                    1.0,
                    groups={
                        "shop": make.live(
                            members=(make.member(0, *make.MEMBERS[1].held), make.member(1, *make.MEMBERS[0].held))
                        )
                    },
                ),
                make.look(GAP, (130,) * 4, (130,) * 4),
            )
        ),
    ),
    "rebalances without end": (
        "ownership_ping_pong",
        lambda: healthy(daemon=make.daemon(make.worker(0, rebalances=90), make.worker(1))),
    ),
    "no broker": ("broker_unreachable", lambda: healthy(cluster=None, unreachable="Connection refused")),
    "a topic that is not there": (
        "topic_missing",
        lambda: healthy(app=make.application(make.group("shop", make.subscription("orders", "ordres")))),
    ),
    "a dead letter topic that is not there": (
        "topic_missing",
        lambda: healthy(app=make.application(make.group("shop", make.subscription(dead_letter="orders.dead")))),
    ),
    "offsets forgotten after a day": (
        "offsets_retention",
        lambda: healthy(cluster=make.cluster(config={**STOCK, "offsets.retention.minutes": "1440"})),
    ),
    "one replica of three": ("replication", lambda: make.with_topic(healthy(), make.topic(replication=1))),
    "one acknowledgement of three": (
        "min_insync_replicas",
        lambda: make.with_topic(healthy(), make.topic(min_insync_replicas="1")),
    ),
    "all acknowledgements needed": (
        "min_insync_replicas",
        lambda: make.with_topic(healthy(), make.topic(min_insync_replicas="3")),
    ),
    "topics that brokers make": (
        "auto_created_topics",
        lambda: healthy(cluster=make.cluster(config={**STOCK, "auto.create.topics.enable": "true"})),
    ),
    "acknowledgement by one": (
        "producer_acks",
        lambda: healthy(
            producer={"acks": Value("1", "swarm.toml"), "enable.idempotence": Value("false", "swarm.toml")}
        ),
    ),
    "no idempotence": (
        "producer_not_idempotent",
        lambda: healthy(producer={"enable.idempotence": Value("false", "SWARM_KAFKA__ENABLE_IDEMPOTENCE")}),
    ),
    "an open transaction": (
        "open_transaction",
        lambda: healthy(
            cluster=make.cluster(
                make.look(stable=(90, 100, 100, 100), done=(90, 100, 100, 100)),
                make.look(GAP, stable=(90, 100, 100, 100), done=(90, 100, 100, 100)),
                withheld={("orders", 0): 75.0},
            )
        ),
    ),
    "an open transaction, and a log that grows behind it": (
        "open_transaction",
        lambda: healthy(
            cluster=make.cluster(
                make.look(stable=(90, 100, 100, 100), done=(89, 100, 100, 100)),
                make.look(GAP, ends=(500, 100, 100, 100), stable=(90, 100, 100, 100), done=(89, 100, 100, 100)),
                withheld={("orders", 0): 75.0},
            )
        ),
    ),
    "a message from the future": (
        "clock_skew",
        lambda: make.with_topic(healthy(), replace(make.topic(), newest=NOW + 600)),
    ),
    "a clock that is behind the brokers'": (
        "clock_skew",
        lambda: make.with_topic(
            healthy(), replace(make.topic(message_timestamp_type="LogAppendTime"), newest=NOW + 20)
        ),
    ),
    "what check finds": (
        "check_fails",
        lambda: healthy(problems=(("kafka.linger", "swarm.toml", "no such property", ""),), app=None),
    ),
    "a second daemon": ("seat_contested", lambda: told("seat_contested", "error")),
    "a worker that keeps dying": ("crash_loop", lambda: told("crash_loop", "error")),
    "a cgroup that dies together": ("oom_group", lambda: told("oom_group")),
    "a handler that leaves threads": ("handler_leaves_threads", lambda: told("handler_leaves_threads")),
    "a handler that feeds threads": ("handler_feeds_threads", lambda: handed_over(sure=True)),
    "a handler that feeds threads, and was seen to": (
        "handler_leaves_threads",
        lambda: handed_over(sure=True, daemon=told("handler_leaves_threads", what=LEFT).daemon),
    ),
    "a listener that raises, by name": ("listener_fails", lambda: told("listener_fails")),
    "listeners that raise, by number": (
        "listener_fails",
        lambda: healthy(daemon=make.daemon(make.worker(0, listener_errors=3), make.worker(1))),
    ),
    "what a newer daemon says": ("daemon_says", lambda: told("something_new")),
    "a reload that was refused": ("reload_refused", lambda: healthy(daemon=make.daemon(reload_error="no module"))),
    "a counter of the module": ("shared_state", lambda: written("global")),
    "a list of the class": ("shared_state", lambda: written("class")),
    "an instance in several threads": ("instance_in_two_threads", lambda: written("instance")),
    "many arenas": (
        "allocator",
        lambda: healthy(machine=Machine(*WEB1, environment={"MALLOC_ARENA_MAX": "32"})),
    ),
    "jemalloc that is not there": (
        "allocator",
        lambda: healthy(machine=Machine(*WEB1, environment={"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"})),
    ),
    "an old librdkafka": ("old_versions", lambda: healthy(machine=Machine("web1", "3.12.9", "2.16.1", "2.5.0"))),
}
"""A name -> the one rule that has to find it, and the facts."""

REMARKS: dict[str, tuple[str, Sick]] = {
    "a handler that tells of its messages": ("handler_feeds_threads", lambda: handed_over(sure=False)),
    "a cache in the module": ("shared_state", lambda: written("container")),
    "another swarm in the group": (
        "members_not_ours",
        lambda: members(make.member(3, client_id="shop2-3", instance_id="shop2.web1.3")),
    ),
    "another application whose daemon has the same name, by default": (
        "several_groups_on_topic",
        lambda: healthy(
            cluster=make.cluster(
                strangers=(make.live("billing", (make.member(0, ("orders", 0), instance_id="shop.web9.0"),)),)
            )
        ),
    ),
    "a single broker that makes topics": (
        "auto_created_topics",
        lambda: healthy(cluster=make.cluster(brokers=1, config={**STOCK, "auto.create.topics.enable": "true"})),
    ),
    "two replicas of three": (
        "replication",
        lambda: make.with_topic(healthy(), make.topic(replication=2, min_insync_replicas="1")),
    ),
    "a large application that is not shared": (
        "preload",
        lambda: healthy(settings=make.settings(swarm={"preload": False}), app=make.application(import_bytes=200 << 20)),
    ),
    "a large application of which nothing is shared any more": (
        "preload",
        lambda: healthy(
            app=make.application(import_bytes=200 << 20),
            daemon=make.daemon(make.worker(0, memory={"rss": 300 << 20, "uss": 290 << 20}), make.worker(1)),
        ),
    ),
    "Python 3.12.1": ("old_versions", lambda: healthy(machine=Machine("web1", "3.12.1", "2.16.1", "2.16.0"))),
}
"""What is worth a remark and no warning."""

WELL: dict[str, Sick] = {
    "everything known": healthy,
    "nothing but settings": lambda: Facts(make.settings(), Machine(*WEB1)),
    "no daemon": lambda: healthy(daemon=None, batches=(), stop_limit=None),
    "a single broker": lambda: make.with_topic(
        healthy(), make.topic(replication=1), make.topic("__consumer_offsets", 50, 1), brokers=1
    ),
    "a group that is called like its host": lambda: grouped("web1"),
    "a group with a number": lambda: grouped("shop-v2"),
    "a group with a date": lambda: grouped("orders-20260131"),
    "a group with a word in hexadecimal letters": lambda: grouped("facade-deadbeef"),
    "a StatefulSet's pod": lambda: healthy(
        settings=make.settings(swarm={"host": "shop-0"}), machine=Machine("shop-0", *WEB1[1:])
    ),
    "an ephemeral host without static ids": lambda: healthy(
        settings=make.settings(swarm={"host": "3f2a9c1b7d4e"}, supervision={"static_membership": False}),
        cluster=make.cluster(make.look(groups={}), make.look(GAP, groups={}), groups={}),
    ),
    "another host of the same swarm": lambda: members(make.member(0, instance_id="shop.web2.0", host="/10.0.0.8")),
    "the new protocol, whose session is the broker's": lambda: limited(
        group_protocol="consumer", session_timeout_ms="1000", heartbeat_interval_ms="900"
    ),
    "long-running jobs": lambda: healthy(
        app=make.application(make.group("shop", make.subscription(limit=0.0, long_running=True)))
    ),
    "two groups on different topics": lambda: make.with_topic(
        healthy(app=make.application(make.group("shop"), make.group("clicks", make.subscription("clicks")))),
        make.topic("clicks"),
    ),
    "a burst that is under way": lambda: healthy(
        cluster=make.cluster(make.look(ends=(102, 100, 100, 100)), make.look(GAP, (500,) * 4, (350,) * 4))
    ),
    "commits by interval": lambda: healthy(
        daemon=None, cluster=make.cluster(make.look(), make.look(11.0, (1200,) * 4, (800,) * 4))
    ),
    "batches that take longer than the looks": lambda: healthy(
        batches=(make.batches(seconds=10_000.0, longest=20.0),),
        daemon=make.daemon(make.worker(0, job_age=8.0), make.worker(1, job_age=9.0)),
        cluster=make.cluster(make.look(), make.look(GAP, (200,) * 4, (100,) * 4)),
    ),
    "a rate limit": lambda: healthy(
        app=make.application(make.group("shop", make.subscription(waits=1e9))),
        cluster=make.cluster(make.look(), make.look(GAP, (200,) * 4, (100,) * 4)),
    ),
    "a paused partition": lambda: healthy(
        daemon=make.daemon(
            make.worker(0, held=tuple(replace(held, paused=True) for held in make.worker(0).held)), make.worker(1)
        ),
        cluster=make.cluster(make.look(), make.look(GAP, (200, 200, 100, 100), (100,) * 4)),
    ),
    "a quiet swarm": lambda: healthy(
        daemon=make.daemon(make.worker(0, state="quiet"), make.worker(1, state="quiet")),
        cluster=make.cluster(make.look(), make.look(GAP, (200,) * 4, (100,) * 4)),
    ),
    "a stopped swarm, while its log grows": lambda: healthy(
        daemon=None,
        cluster=make.cluster(
            make.look(groups={"shop": make.live(members=(), stable=False)}),
            make.look(GAP, (900,) * 4, (100,) * 4, groups={"shop": make.live(members=(), stable=False)}),
        ),
    ),
    "a partition that has moved": lambda: healthy(
        cluster=make.cluster(
            make.look(
                groups={"shop": make.live(members=(make.member(0, *make.MEMBERS[0].held, *make.MEMBERS[1].held),))}
            ),
            make.look(GAP, (130,) * 4, (130,) * 4),
        )
    ),
    "a rebalance": lambda: healthy(
        cluster=make.cluster(
            make.look(groups={"shop": make.live(members=make.MEMBERS[:1], stable=False)}),
            make.look(GAP, (130,) * 4, (130,) * 4),
        )
    ),
    "a short transaction": lambda: healthy(
        cluster=make.cluster(
            make.look(stable=(90, 100, 100, 100), done=(90, 100, 100, 100)),
            make.look(GAP, stable=(90, 100, 100, 100), done=(90, 100, 100, 100)),
            withheld={("orders", 0): 4.0},
        )
    ),
    "readers of what is not committed": lambda: healthy(
        app=make.application(make.group("shop", isolation_level="read_uncommitted")),
        cluster=make.cluster(make.look(stable=(90,) * 4), make.look(GAP, stable=(90,) * 4)),
    ),
    "one thread, and a counter of the module": lambda: written(
        "global", settings=make.settings(worker={"concurrency": 1})
    ),
    "two arenas": lambda: healthy(machine=Machine(*WEB1, environment={"MALLOC_ARENA_MAX": "2"})),
    "jemalloc that is there": lambda: healthy(
        machine=Machine(*WEB1, allocator="jemalloc", environment={"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"})
    ),
    "a job that hangs, which says nothing of how long batches take": lambda: healthy(
        batches=(
            make.batches(),
            make.batches(count=1, messages=0, seconds=87.0, longest=87.0, source="a job that is running now"),
        )
    ),
    "a message that came when all was done": lambda: healthy(
        cluster=make.cluster(
            make.look(ends=(56, 130, 130, 130), done=(56, 130, 130, 130)),
            make.look(GAP, (57, 130, 130, 130), (56, 130, 130, 130)),
        )
    ),
    "offsets kept for ever": lambda: healthy(
        cluster=make.cluster(config={**STOCK, "offsets.retention.minutes": "2147483647"})
    ),
    "brokers that tell nothing": lambda: healthy(cluster=make.cluster(config={})),
}


@pytest.mark.parametrize("name", SICK)
def test_a_fault_is_named_by_its_rule_and_by_no_other(name: str) -> None:
    rule, facts = SICK[name]
    findings = found(facts())

    assert {finding.rule for finding in findings} == {rule}
    assert all(finding.severity in ("warning", "error") for finding in findings)
    assert all(finding.what and finding.cause and finding.fix and finding.evidence for finding in findings)


def test_a_partition_that_stands_is_said_to_stand_at_what_is_committed() -> None:
    """Its handler has had more: what it hangs on may be long before that."""
    holder = make.worker(0, held=(Held(("shop", "orders", 0), 100, 65),))
    looks = make.look(ends=(102, 100, 100, 100)), make.look(GAP, (104, 130, 130, 130), (100, 130, 130, 130))
    [finding] = found(healthy(cluster=make.cluster(*looks), daemon=make.daemon(holder, make.worker(1))))

    assert finding.rule == "partition_stuck"
    assert finding.evidence.startswith("offset 65 committed, and its handler has had what is below 100, at both looks")


def test_a_lag_that_grows_beside_a_partition_that_stands_is_named_by_what_the_others_got() -> None:
    ends = make.look(ends=(500,) * 4), make.look(GAP, (700, 900, 900, 900), (100, 150, 150, 150))
    findings = {finding.rule: finding for finding in found(healthy(cluster=make.cluster(*ends)))}

    assert set(findings) == {"partition_stuck", "lag_growing"}
    assert "1200 came and 150 were processed; lag 1200 -> 2250, without what stands still" in (
        findings["lag_growing"].evidence
    )


@pytest.mark.parametrize("name", REMARKS)
def test_what_may_be_meant_is_a_remark(name: str) -> None:
    rule, facts = REMARKS[name]

    assert [(finding.rule, finding.severity) for finding in found(facts())] == [(rule, "info")]


@pytest.mark.parametrize("name", WELL)
def test_a_healthy_set_up_yields_nothing(name: str) -> None:
    assert found(WELL[name]()) == []


def test_a_partition_that_is_bound_to_no_worker_is_not_for_the_group_to_share_out() -> None:
    """No restart helps there, and no member is to blame."""
    bound = make.application(make.group("shop", make.subscription(bound=True)))
    daemon = make.daemon(unowned=((("shop", "orders", 2), 75.0),))

    [group] = found(healthy(daemon=daemon))
    [nobodys] = found(healthy(daemon=daemon, app=bound))

    assert "swarmctl restart" in group.fix
    assert nobodys.what == "orders/2 is bound to no worker, so the group shop reads nothing of it"
    assert "partitions=" in nobodys.fix
    assert "member" not in nobodys.cause


def test_a_version_of_which_nothing_is_known_is_not_called_defective() -> None:
    """Older than what kafka-swarm was made with is another thing than known to be broken."""
    [old] = found(healthy(machine=Machine("web1", "3.12.9", "2.15.0", "2.16.1")))
    [broken] = found(healthy(machine=Machine("web1", "3.12.9", "2.16.1", "2.5.0")))

    assert old.what == "confluent-kafka 2.15.0 is older than what kafka-swarm was made for"
    assert old.cause == "It was built and measured with 2.16; what older ones do is not known."
    assert broken.what == "librdkafka 2.5.0 has a known defect"
    assert broken.cause.startswith("Before 2.5.3 an assertion ends the process")


def test_every_rule_is_tried_on_a_fault() -> None:
    tried = {rule for rule, _ in (*SICK.values(), *REMARKS.values())}

    assert tried == {rule.id for rule in RULES}
    assert len({rule.id for rule in RULES}) == len(RULES)


@settings(max_examples=200, deadline=None)
@given(
    came=st.lists(st.integers(0, 400), min_size=4, max_size=4),
    late=st.lists(st.integers(0, 12), min_size=4, max_size=4),
    workers=st.integers(1, 4),
    shutdown=st.floats(5.0, 45.0),
    longest=st.floats(0.0, 4.9),
    session=st.integers(6000, 300_000),
    replication=st.integers(1, 5),
    parts=st.sets(st.sampled_from(["app", "daemon", "cluster", "stop_limit", "batches"])),
)
def test_small_variations_of_a_healthy_set_up_yield_no_warning(
    came: list[int],
    late: list[int],
    workers: int,
    shutdown: float,
    longest: float,
    session: int,
    replication: int,
    parts: set[str],
) -> None:
    """Whatever comes, and whatever of it is still in hand at the second look, as long as the pace is kept."""
    ends = tuple(100 + number for number in came)
    done = tuple(max(101 if number else 100, end - rest) for number, end, rest in zip(came, ends, late, strict=True))
    brokers = min(3, replication)
    topics = {"orders": make.topic(replication=brokers, min_insync_replicas=str(max(1, brokers - 1)))}
    facts = healthy(
        settings=make.settings(swarm={"workers": workers, "shutdown_timeout": shutdown}),
        app=make.application(make.group("shop", members=workers, session_timeout_ms=str(session))),
        cluster=make.cluster(make.look(), make.look(GAP, ends, done), brokers=brokers, topics=topics),
        batches=(make.batches(longest=longest),),
    )
    lost: dict[str, Any] = {part: () if part == "batches" else None for part in parts}
    facts = replace(facts, **lost)

    assert examine(facts).healthy, found(facts)


def test_a_rule_without_its_facts_is_not_asked_and_says_why() -> None:
    diagnosis = examine(healthy(cluster=None, unreachable="refused", missing={"cluster": "no broker answers"}))

    assert {why for rule, why in diagnosis.skipped if "cluster" in rule.needs} == {"no broker answers"}
    assert [finding.rule for finding in diagnosis.findings] == ["broker_unreachable"]


def test_a_second_load_that_failed_is_said_whether_or_not_the_name_tells_already() -> None:
    for name, rules in (("shop", []), ("shop-2f1c0a9e-5d1b-4d7e-8a55-0a9d0b6f1c2d", ["group_id_generated"])):
        app = make.application(make.group(name, members=2), groups_again=(), again_failed="the port is taken")
        diagnosis = examine(healthy(app=app, cluster=None, missing={"cluster": "not asked"}))

        assert [finding.rule for finding in diagnosis.findings] == rules
        assert [why for rule, why in diagnosis.skipped if rule.id == "group_id_generated"] == [
            "whether a second load of the application gives the same group id: it failed: the port is taken"
        ]
        assert "group_id_generated" not in {rule.id for rule in diagnosis.passed}


def test_planted_secrets_do_not_come_out() -> None:
    """Whoever quotes one: librdkafka, the application, a setting."""
    kafka = {
        "bootstrap.servers": "b:9092",
        "sasl.password": "hunter2secret",
        "ssl.key.password": "keysecret99",
        "sasl.oauthbearer.token.endpoint.url": "https://idp/token?client_secret=urlsecret77",
    }
    facts = healthy(
        settings=make.settings(kafka=kafka),
        cluster=None,
        unreachable="SASL authentication error: hunter2secret is wrong",
        problems=(
            ("swarm.app", "swarm.toml", "KeyError: keysecret99 at https://idp/token?client_secret=urlsecret77", "a"),
            ("swarm.app", "swarm.toml", "cannot get https://me:userinfo1@registry/?access_token=query123&x=1", "b"),
        ),
    )
    said = display.text(examine(facts), verbose=True) + json.dumps(display.as_json(examine(facts)))

    for secret in ("hunter2secret", "keysecret99", "urlsecret77", "userinfo1", "query123"):
        assert secret not in said


def test_people_read_the_gravest_first_and_a_sum() -> None:
    facts = healthy(
        cluster=None,
        unreachable="Connection refused",
        producer={"acks": Value("1", "swarm.toml"), "enable.idempotence": Value("false", "swarm.toml")},
    )
    lines = display.text(examine(facts), verbose=False).splitlines()

    assert lines[0] == "error     no broker answers"
    assert [line.split()[0] for line in lines if line and not line.startswith(" ")][:2] == ["error", "warning"]
    assert lines[-1].startswith("1 error, 1 warning; ")
    assert "could not be made" in lines[-1]
    assert all(len(line) <= 120 for line in lines[:-1])


def test_people_read_that_all_is_well_and_how_much_was_looked_at() -> None:
    diagnosis = examine(healthy())

    assert display.text(diagnosis, verbose=False) == f"everything is in order ({len(RULES)} checks)."
    verbose = display.text(diagnosis, verbose=True)
    assert all(rule.id in verbose for rule in RULES)


def test_json_has_the_fields_of_the_contract() -> None:
    rule, facts = SICK["no idempotence"]
    answer = display.as_json(examine(facts()))

    assert [set(each) for each in answer["findings"]] == [
        {"rule", "severity", "what", "cause", "fix", "evidence"},
    ]
    assert answer["findings"][0]["rule"] == rule
    assert "SWARM_KAFKA__ENABLE_IDEMPOTENCE" in answer["findings"][0]["evidence"]
