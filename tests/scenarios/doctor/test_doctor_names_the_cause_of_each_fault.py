"""Faults are put into settings, application and cluster, one at a time; `doctor` names each of them, and nothing else."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.scenarios.doctor import ward
from tests.support.cluster import Cluster
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.ports import free_port
from tests.support.project import Sections

GENERATED = """
    import os
    from swarm import App

    app = App(f"shop-{{os.getpid()}}")


    @app.subscribe("{topic}")
    def orders(messages):
        pass
"""
TWO_GROUPS = """
    from swarm import App

    app = App("shop")


    @app.subscribe("{topic}")
    def orders(messages):
        pass


    @app.subscribe("{topic}", group="shop-audit")
    def audit(messages):
        pass
"""
SHARED = """
    from swarm import App

    app = App("shop")
    seen = 0


    @app.subscribe("{topic}")
    def orders(messages):
        global seen
        seen += len(messages)
"""
INSTANCE = """
    from swarm import App, Consumer

    app = App("shop")


    @app.subscribe("{topic}", concurrency_key="key")
    class Orders(Consumer):
        def __init__(self):
            self.total = 0

        def consume(self, messages):
            self.total += len(messages)
"""
LARGE = """
    from swarm import App

    app = App("shop")
    TABLE = bytes(range(256)) * (40 << 12)


    @app.subscribe("{topic}")
    def orders(messages):
        pass
"""
EXACTLY_ONCE = """
    from swarm import App

    app = App("shop")


    @app.subscribe("{topic}", delivery="exactly_once")
    def orders(messages, consumer):
        pass
"""
FEEDS_A_QUEUE = """
    import queue
    import threading
    from swarm import App

    app = App("shop")
    JOBS = queue.Queue()


    def work():
        while True:
            print(JOBS.get())


    @app.after_fork
    def start(worker):
        threading.Thread(target=work, daemon=True).start()


    @app.subscribe("{topic}")
    def orders(messages):
        for message in messages:
            JOBS.put(message.value)
"""
FEEDS_A_POOL = """
    from concurrent.futures import ThreadPoolExecutor
    from swarm import App, Consumer

    app = App("shop")
    POOL = None


    @app.after_fork
    def start(worker):
        global POOL
        POOL = ThreadPoolExecutor(4)


    @app.subscribe("{topic}")
    class Orders(Consumer):
        def consume(self, messages):
            for message in messages:
                POOL.submit(print, message.value)
"""
LOADS_ONCE = """
    from swarm import App

    open("taken", "x").close()
    app = App("shop")


    @app.subscribe("{topic}")
    def orders(messages):
        pass
"""
UNIT = "[Service]\nExecStart=/usr/local/bin/swarmctl start\nTimeoutStopSec=8\n"

Fault = tuple[str, str, Sections, list[str]]
FAULTS: dict[str, Fault] = {
    "two groups on one topic": ("several_groups_on_topic", TWO_GROUPS, {}, []),
    "an ephemeral host": ("ephemeral_host", ward.APP, {"swarm": {"host": "3f2a9c1b7d4e"}}, []),
    "rare heartbeats": (
        "heartbeat_too_rare",
        ward.APP,
        {"kafka": {"session.timeout.ms": 6000, "heartbeat.interval.ms": 4000}},
        [],
    ),
    "a session that the broker refuses": (
        "session_refused",
        ward.APP,
        {"kafka": {"session.timeout.ms": 600, "heartbeat.interval.ms": 100}},
        [],
    ),
    "jobs that may outlast a rebalance": (
        "job_limit_above_poll_interval",
        ward.APP,
        {"supervision": {"consume_timeout": "15m"}},
        [],
    ),
    "a poll timeout above the interval": (
        "poll_timeout_above_poll_interval",
        ward.APP,
        {"kafka": {"max.poll.interval.ms": 50000}, "supervision": {"consume_timeout": 30.0}},
        [],
    ),
    "a join timeout below it": (
        "join_timeout_below_poll_interval",
        ward.APP,
        {"supervision": {"join_timeout": "2m"}},
        [],
    ),
    "a unit that loses patience": ("stop_limit_too_short", ward.APP, {}, ["--manifest", "shop.service"]),
    "more workers than partitions": ("more_workers_than_partitions", ward.APP, {"swarm": {"workers": 7}}, []),
    "acknowledgement by one": (
        "producer_acks",
        ward.APP,
        {"kafka": {"acks": 1, "enable.idempotence": False}},
        [],
    ),
    "no idempotence": ("producer_not_idempotent", ward.APP, {"kafka": {"enable.idempotence": False}}, []),
    "a counter that threads share": ("shared_state", SHARED, {}, []),
    "an instance that threads share": ("instance_in_two_threads", INSTANCE, {}, []),
    "a queue whose threads nobody waits for": ("handler_feeds_threads", FEEDS_A_QUEUE, {}, []),
    "a pool that nobody waits for": ("handler_feeds_threads", FEEDS_A_POOL, {}, []),
    "a property that is none": ("check_fails", ward.APP, {"kafka": {"no.such.property": 1}}, []),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_settings_or_application_is_named_alone(
    name: str, swarm_project: Callable[..., Daemon], topic: Callable[..., str]
) -> None:
    """On a broker that is well, without a daemon."""
    rule, app, settings, args = FAULTS[name]
    daemon = swarm_project(app.format(topic=topic(4)), ward.settings(ward.name(), settings))
    (daemon.folder / "shop.service").write_text(UNIT)

    found = ward.examine(daemon, "--seconds", "0", *args)

    assert found.rules == {rule}, found.answer
    assert not found.remarks


def test_a_group_id_with_the_pid_in_it_is_named(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str]
) -> None:
    """A number looks like any other; that a second process gives another one is what tells."""
    daemon = swarm_project(GENERATED.format(topic=topic(4)), ward.settings(None))

    found = ward.examine(daemon, "--seconds", "0")

    assert found.rules == {"group_id_generated"}, found.answer
    evidence = re.fullmatch(
        r"shop-(\d+) \(App\('shop-\d+'\)\); a second load of the application, in another process, gave shop-(\d+)",
        found.evidence("group_id_generated"),
    )
    assert evidence, found.findings
    assert evidence[1] != evidence[2]


def test_what_could_not_be_found_out_is_said(swarm_project: Callable[..., Daemon], topic: Callable[..., str]) -> None:
    """An application that cannot be loaded a second time: whether its group id would be another one stays open."""
    daemon = swarm_project(LOADS_ONCE.format(topic=topic(4)), ward.settings(ward.name()))

    found = ward.examine(daemon, "--seconds", "0")

    assert not found.rules, found.answer
    [why] = [each["why"] for each in found.answer["not_checked"] if each["rule"] == "group_id_generated"]
    assert "FileExistsError" in why
    assert "group_id_generated" not in found.answer["passed"]
    (daemon.folder / "taken").unlink()
    shown = daemon.run("doctor", "--seconds", "0").stdout
    assert "everything is in order" in shown, shown
    assert "whether a second load of the application gives the same group id: it failed: " in shown


def test_what_bears_upon_memory_is_named(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many arenas; and a large application that each worker imports by itself, which is a remark."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "64")
    daemon = swarm_project(LARGE.format(topic=topic(4)), ward.settings(ward.name(), {"swarm": {"preload": False}}))

    found = ward.examine(daemon, "--seconds", "0")

    assert (found.rules, found.remarks) == ({"allocator"}, {"preload"}), found.findings
    assert "MALLOC_ARENA_MAX = 64" in found.evidence("allocator")


def test_a_topic_that_is_missing_and_a_broker_that_is_away_are_named(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str]
) -> None:
    """The one where the broker answers; where none does, that is one finding, and what needs no broker is checked all the same."""
    daemon = swarm_project(ward.APP.format(topic=topic(4, create=False)), ward.settings(ward.name()))
    assert ward.examine(daemon, "--seconds", "0").rules == {"topic_missing"}

    away = ward.examine(daemon, "-o", f"kafka.bootstrap.servers=127.0.0.1:{free_port()}")

    assert away.rules == {"broker_unreachable"}
    assert "refused" in away.evidence("broker_unreachable")
    assert "group_id_generated" in away.answer["passed"]


# -- the live cluster ------------------------------------------------------------------------------------------------


def polled(consumer: Any, after: Callable[[Any], None] = lambda message: None) -> AbstractContextManager[None]:
    """A visitor that stays a member."""

    def work(done: threading.Event) -> None:
        while not done.is_set():
            message = consumer.poll(0.02)
            if message is not None and message.error() is None:
                after(message)

    return ward.working(work)


def test_members_that_are_not_ours_are_named(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], broker: Broker
) -> None:
    """One that reads our topic, and one that reads another application's under our group id."""
    ours, other, group = topic(4), topic(1), ward.name()
    daemon = swarm_project(ward.APP.format(topic=ours), ward.settings(group))

    with ward.visitor(broker, group, ours, "console-consumer") as guest, polled(guest):
        found = ward.examine(daemon, "--seconds", "0")
        assert found.rules == {"members_not_ours"}, found.findings
        assert "console-consumer" in found.evidence("members_not_ours")
    with ward.visitor(broker, group, other, "billing") as guest, polled(guest):
        found = ward.examine(daemon, "--seconds", "0")
        assert found.rules == {"group_shared"}, found.findings
        assert "billing" in found.evidence("group_shared")


def test_the_same_daemon_in_another_group_is_named(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], broker: Broker
) -> None:
    """A member of our name that consumes our topic under another group id: an old setting, or one that changes."""
    ours, old = topic(4), ward.name("old")
    daemon = swarm_project(ward.APP.format(topic=ours), ward.settings(ward.name()))

    with ward.visitor(broker, old, ours, "shop-0", "shop.web1.0") as guest, polled(guest):
        found = ward.examine(daemon, "--seconds", "0")

    assert found.rules == {"several_groups_on_topic"}, found.findings
    assert "shop.web1.0" in found.evidence("several_groups_on_topic")


def test_transactional_ids_of_two_daemons_that_clash_are_named(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], broker: Broker
) -> None:
    """Two daemons of one name on one host without static ids: where those are, the broker itself says so (seat_contested)."""
    ours, group = topic(4), ward.name()
    dynamic: Sections = {"supervision": {"static_membership": False}}
    daemon = swarm_project(EXACTLY_ONCE.format(topic=ours), ward.settings(group, dynamic))

    with (
        ward.visitor(broker, group, ours, "shop-0") as first,
        polled(first),
        ward.visitor(broker, group, ours, "shop-0") as second,
        polled(second),
    ):
        found = ward.examine(daemon, "--seconds", "0")

    assert found.rules == {"transactional_ids_clash"}, found.findings


def test_a_lag_that_grows_is_named_and_one_that_does_not_is_not(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], broker: Broker
) -> None:
    """A member that processes fifty messages a second of the hundreds that come, and then all of them."""
    ours, group = topic(1), ward.name()
    daemon = swarm_project(ward.APP.format(topic=ours), ward.settings(group, {"swarm": {"workers": 1}}))
    slow = threading.Event()
    slow.set()

    with ward.visitor(broker, group, ours, "shop-0", "shop.web1.0") as consumer:

        def handle(message: Any) -> None:
            if slow.is_set():
                threading.Event().wait(0.02)
                consumer.commit(message=message, asynchronous=False)
            elif message.offset() % 10 == 0:
                consumer.commit(message=message, asynchronous=False)

        with ward.growing(broker, ours, each=30), polled(consumer, handle):
            found = ward.examine(daemon, "--seconds", "2")
            assert found.rules == {"lag_growing"}, found.findings
            slow.clear()
            ward.until(
                lambda: broker.ends(ours)[0] - broker.committed(group)[(ours, 0)] < 200, "the lag to be caught up with"
            )
            found = ward.examine(daemon, "--seconds", "2")
            assert not found.rules, found.findings


def test_a_partition_that_stands_is_named_with_its_holder(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], broker: Broker
) -> None:
    """Its holder is a live member and commits the other partition."""
    ours, group = topic(2), ward.name()
    daemon = swarm_project(ward.APP.format(topic=ours), ward.settings(group))
    broker.produce(ours, [(None, "x")] * 5, partition=0)

    with ward.visitor(broker, group, ours, "shop-0", "shop.web1.0") as consumer:
        consumer.commit(offsets=[TopicPartition(ours, 0, 3), TopicPartition(ours, 1, 0)], asynchronous=False)

        def handle(message: Any) -> None:
            if message.partition() == 1:
                consumer.commit(message=message, asynchronous=False)

        with polled(consumer, handle), ward.growing(broker, ours, partition=0), ward.growing(broker, ours, partition=1):
            found = ward.examine(daemon, "--seconds", "1.5")

    assert found.rules == {"partition_stuck"}, found.findings
    assert f"{ours}/0 stands still" in found.findings[0]["what"]
    assert "shop.web1.0" in found.evidence("partition_stuck")


def test_a_partition_that_nobody_has_is_named(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], broker: Broker
) -> None:
    """The topic has grown, and the group has not noticed."""
    ours, group = topic(1), ward.name()
    daemon = swarm_project(ward.APP.format(topic=ours), ward.settings(group, {"swarm": {"workers": 1}}))

    with ward.visitor(broker, group, ours, "shop-0", "shop.web1.0") as guest, polled(guest):
        broker.add_partitions(ours, 2)
        found = ward.examine(daemon, "--seconds", "1")

    assert found.rules == {"partition_unowned"}, found.findings
    assert f"{ours}/1" in found.findings[0]["what"]


def test_partitions_that_go_to_and_fro_are_named(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], broker: Broker
) -> None:
    """A member that comes and goes takes the first partition with it: its id sorts before that of the one that stays."""
    ours, group = topic(2), ward.name()
    daemon = swarm_project(ward.APP.format(topic=ours), ward.settings(group))
    eager = {"partition.assignment.strategy": "range"}

    def come_and_go(done: threading.Event) -> None:
        # With `range` the first by its static id has the first partition: shop.web1.0 whenever it is there.
        while not done.is_set():
            with ward.visitor(
                broker, group, ours, "shop-0", "shop.web1.0", **eager, **{"session.timeout.ms": 1500}
            ) as guest:
                for _ in range(15):
                    guest.poll(0.1)
                guest.unsubscribe()  # so that a static member leaves
                while guest.memberid() and not done.is_set():
                    guest.poll(0.05)
            done.wait(1.5)

    with (
        ward.visitor(broker, group, ours, "shop-1", "shop.web1.1", **eager) as stays,
        polled(stays),
        ward.working(come_and_go),
    ):
        found = ward.examine(daemon, "--seconds", "9")

    assert found.rules == {"ownership_ping_pong"}, found.findings
    assert "shop.web1.0" in found.evidence("ownership_ping_pong")


def test_an_open_transaction_is_named(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], broker: Broker
) -> None:
    """It was begun a minute ago, and nobody ends it."""
    ours = topic(1)
    daemon = swarm_project(ward.APP.format(topic=ours), ward.settings(ward.name(), {"swarm": {"workers": 1}}))
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": ward.name("tx"), "log_level": 0})
    producer.init_transactions(30.0)
    producer.begin_transaction()
    producer.produce(ours, b"held", timestamp=ward.now_ms() - 60_000)
    producer.flush(30.0)
    try:
        found = ward.examine(daemon)
    finally:
        producer.abort_transaction(30.0)

    assert found.rules == {"open_transaction"}, found.findings
    assert "last stable offset 0" in found.evidence("open_transaction")
    assert not ward.examine(daemon).rules


def test_a_message_from_the_future_is_named(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], broker: Broker
) -> None:
    """The producer's clock is ten minutes ahead."""
    ours = topic(4)
    daemon = swarm_project(ward.APP.format(topic=ours), ward.settings(ward.name()))
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    producer.produce(ours, b"x", timestamp=ward.now_ms() + 600_000)
    producer.flush(30.0)

    found = ward.examine(daemon, "--seconds", "0")

    assert found.rules == {"clock_skew"}, found.findings


def test_what_a_broker_is_set_to_is_named(swarm_project: Callable[..., Daemon]) -> None:
    """Offsets forgotten within an hour; topics that come by themselves, which one broker alone makes a remark."""
    with Broker(config={"offsets.retention.minutes": "60", "auto.create.topics.enable": "true"}) as ill:
        ours = ward.name("orders")
        ill.create_topic(ours, 4)
        daemon = swarm_project(ward.APP.format(topic=ours), ward.settings(ward.name()), bootstrap=ill.bootstrap)
        found = ward.examine(daemon, "--seconds", "0")

    assert found.rules == {"offsets_retention"}, found.findings
    assert found.remarks == {"auto_created_topics"}
    assert "offsets.retention.minutes = 60" in found.evidence("offsets_retention")


def test_too_few_copies_are_named_and_enough_are_not(swarm_project: Callable[..., Daemon], cluster: Cluster) -> None:
    """Three brokers: a topic with one replica, one that a single replica may acknowledge, one that needs all, one that is right."""
    topics = {
        "single": (1, {}, {"replication"}),
        "lonely": (3, {"min.insync.replicas": "1"}, {"min_insync_replicas"}),
        "strict": (3, {"min.insync.replicas": "3"}, {"min_insync_replicas"}),
        "right": (3, {}, set()),
    }
    for kind, (replicas, config, rules) in topics.items():
        name = ward.name(kind)
        admin = AdminClient({"bootstrap.servers": cluster.direct, "log_level": 0})
        admin.create_topics([NewTopic(name, 4, replicas, config=config)])[name].result(timeout=30.0)
        daemon = swarm_project(ward.APP.format(topic=name), ward.settings(ward.name()), bootstrap=cluster.bootstrap)
        ward.until(lambda name=name: len(cluster.ends(name)) == 4, f"{name} to be there")  # type: ignore[misc]

        found = ward.examine(daemon, "--seconds", "0")

        assert found.rules == rules, (kind, found.findings)


def test_planted_secrets_come_out_nowhere(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], tmp_path: Path
) -> None:
    """In properties, in an application that quotes them as it fails to load, and in what librdkafka says of them."""
    app = """
        raise RuntimeError("no answer from https://me:plantedinfo@idp/?access_token=plantedtoken with plantedpassword")
    """
    secrets = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "planteduser",
        "sasl.password": "plantedpassword",
        "ssl.key.password": "plantedkey",
        "ssl.key.pem": "-----BEGIN PRIVATE KEY-----plantedpem",
    }
    planted = ("plantedinfo", "plantedtoken", "planteduser", "plantedpassword", "plantedkey", "plantedpem")
    loads = ward.APP.format(topic=topic(4))
    for source in (app, loads):
        daemon = swarm_project(source, ward.settings(ward.name(), {"kafka": secrets}))
        for args in (["--json"], ["--verbose"]):
            done = daemon.run("doctor", *args, within=90.0)
            assert done.returncode == 1
            # Not merely "planted": the path of swarm.toml, which evidence quotes, has the name of this test in it.
            said = done.stdout + done.stderr
            assert not [each for each in planted if each in said]
