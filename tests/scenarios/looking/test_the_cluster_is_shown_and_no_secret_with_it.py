"""`swarmctl lag`, `topics` and `peek` on a real cluster, whether a daemon runs or not; planted secrets are in no output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.support.daemon import Daemon
from tests.support.kafka import Broker

APP = """
    import json, os, time
    from swarm import App

    app = App("looked")

    class Order:
        def __init__(self, raw):
            self.__dict__.update(json.loads(raw))

    @app.each("ORDERS", deserializer=Order)
    def handle(message):
        while message.offset >= 3 and not os.path.exists("go on"):
            time.sleep(0.05)

    @app.subscribe("NOT-THERE", group="GROUP-other")
    def other(messages): ...
"""
PLANTED = ("hunter2-in-json", "hunter2-in-header", "hunter2-in-text", "hunter2-of-kafka", "hunter2-in-key")


def produce(broker: Broker, topic: str) -> None:
    producer = Producer({"bootstrap.servers": broker.direct})
    now = int(time.time() * 1000)
    for number in range(10):
        value = {
            "id": number,
            "login": {"apiToken": "hunter2-in-json"},
            "note": "password=hunter2-in-text hunter2-of-kafka",
        }
        producer.produce(
            topic,
            json.dumps(value),
            key=json.dumps({"id": number, "secret": "hunter2-in-key"}),
            headers=[("Authorization", b"Bearer hunter2-in-header"), ("trace", b"%d" % number)],
            partition=0,
            timestamp=now - 60_000 + number,
        )
    assert producer.flush(30.0) == 0


def printed(daemon: Daemon, *args: str, code: int = 0) -> str:
    done = daemon.run(*args)
    assert done.returncode == code, f"{args}: {done.stderr}"
    assert not [secret for secret in PLANTED if secret in done.stdout + done.stderr], args
    return done.stdout if code == 0 else done.stderr


def asked(daemon: Daemon, *args: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(printed(daemon, *args, "--json"))
    return answer


@pytest.mark.limit(360)  # s, for some thirty commands of a second each on a machine that is busy
def test_lag_topics_and_messages_are_shown_with_and_without_a_daemon(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """A partition in work, one that is empty; a topic that does not exist; and a look that changes no offset and joins no group."""
    orders = topic(2)
    produce(broker, orders)
    app = APP.replace("ORDERS", orders).replace("NOT-THERE", f"{orders}-gone").replace("GROUP", group)
    daemon = swarm_project(
        app,
        {
            "swarm": {"workers": 1, "group_id": group},
            "kafka": {"sasl.password": "hunter2-of-kafka"},
            "worker": {"commit_interval": 0.2},
        },
    )

    # Nobody has ever committed anything: unknown is not 0.
    before = {row["partition"]: row for row in asked(daemon, "lag", "--group", group)["partitions"]}
    assert (before[0]["committed"], before[0]["lag"], before[0]["seconds"]) == (None, None, None)

    daemon.start()

    def stands() -> dict[int, dict[str, Any]] | None:
        rows = {row["partition"]: row for row in asked(daemon, "lag", "--group", group)["partitions"]}
        return rows if rows[0]["committed"] == 3 and rows[1]["committed"] == 0 else None

    rows = daemon.wait_for(stands, what="the first three to be committed")
    assert (rows[0]["end"], rows[0]["lag"]) == (10, 7)
    assert 60 <= rows[0]["seconds"] < 600
    assert (rows[1]["lag"], rows[1]["seconds"]) == (0, 0.0)
    assert str(rows[0]["holder"]).startswith("shop.")
    every = asked(daemon, "lag")
    assert [each["missing_topics"] for each in every["groups"]] == [[], [f"{orders}-gone"]]
    assert "lag 7" in printed(daemon, "lag", "--group", group)

    (daemon.folder / "go on").touch()
    daemon.wait_for(lambda: asked(daemon, "lag", "--group", group)["total"]["lag"] == 0, what="all to be done")
    assert daemon.stop() == 0

    # Without a daemon: nobody holds anything, and it is all there still.
    total = asked(daemon, "lag", "--group", group)["total"]
    assert (total["lag"], total["unheld"], total["partitions"]) == (0, 2, 2)
    [about] = asked(daemon, "topics", orders)["topics"]
    assert (about["partitions"], about["messages"], about["in_sync"], about["read_by"]) == (2, 10, 1, [group])
    assert about["newest"] < time.time() * 1000 - 50_000
    assert orders in printed(daemon, "topics")

    held = broker.committed(group)
    looked = asked(daemon, "peek", f"{orders}/0", "--offset", "7", "--limit", "2")["messages"]
    assert [(each["offset"], each["value_as"], each["value"]["id"]) for each in looked] == [
        (7, "app", 7),
        (8, "app", 8),
    ]
    assert looked[0]["value"]["login"] == {"apiToken": "********"}
    assert looked[0]["headers"] == [["Authorization", "********"], ["trace", "7"]]
    newest = asked(daemon, "peek", orders, "--last", "3", "--raw")["messages"]
    assert [(each["offset"], each["value_as"]) for each in newest] == [(7, "json"), (8, "json"), (9, "json")]
    assert len(asked(daemon, "peek", orders, "--time", "5m")["messages"]) == 10
    assert asked(daemon, "peek", orders, "--time", "2030-01-01T00:00")["messages"] == []
    assert "there is no 99 yet" in asked(daemon, "peek", f"{orders}/0", "--offset", "99")["notes"][0]
    assert f"{orders}/0@9" in printed(daemon, "peek", orders)
    assert "there is no topic" in printed(daemon, "peek", f"{orders}-gone", code=1)
    assert "numbered 0 to 1" in printed(daemon, "peek", f"{orders}/2", code=1)
    assert "there is no topic" in printed(daemon, "topics", f"{orders}-gone", code=1)
    assert asked(daemon, "lag", "--group", group)["total"]["lag"] == 0
    assert (broker.committed(group), broker.members(group)) == (held, []), "who looks has no part in the group"


def test_deleted_compacted_and_aborted_offsets_are_said_not_shown(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Retention's beginning, a transaction's marker, and messages that were aborted: they are there only for who asks for them."""
    name = topic(1)
    producer = Producer({"bootstrap.servers": broker.direct, "transactional.id": name})
    producer.init_transactions(30.0)
    for text, commit in (("first", True), ("aborted", False), ("last", True)):
        producer.begin_transaction()
        producer.produce(name, text, partition=0)
        assert producer.flush(30.0) == 0
        if commit:
            producer.commit_transaction(30.0)
        else:
            producer.abort_transaction(30.0)
    daemon = swarm_project(APP.replace("ORDERS", name).replace("GROUP", name).replace("deserializer=Order", ""))

    committed = asked(daemon, "peek", f"{name}/0", "--offset", "0")
    everything = asked(daemon, "peek", f"{name}/0", "--offset", "0", "--read-uncommitted")

    assert [each["value"] for each in committed["messages"]] == ["first", "last"]
    assert committed["notes"] == [f"{name}/0: no message at 1..3 (compacted away, aborted, or a transaction's marker)"]
    assert [each["value"] for each in everything["messages"]] == ["first", "aborted", "last"]


def test_what_an_open_transaction_withholds_is_said(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Two messages that nobody may read yet, of one partition of two: in one line, and nothing once they may."""
    name = topic(2)
    broker.produce(name, [(None, "first")], 0)
    daemon = swarm_project(APP.replace("ORDERS", name).replace("GROUP", name).replace("deserializer=Order", ""))
    assert asked(daemon, "peek", name)["notes"] == [f"{name}/1 is empty"]
    producer = Producer({"bootstrap.servers": broker.direct, "transactional.id": name})
    producer.init_transactions(30.0)
    producer.begin_transaction()
    for text in ("second", "third"):
        producer.produce(name, text, partition=0)
    assert producer.flush(30.0) == 0

    said = f"{name}: 2 offsets are withheld by an open transaction: swarmctl lag says who waits for it, swarmctl doctor"
    look = asked(daemon, "peek", f"{name}/0")
    assert ([each["value"] for each in look["messages"]], look["withheld"]) == (["first"], 2)
    (note,) = look["notes"]
    assert note.startswith(said)
    assert note.endswith(f"({name}/0 from 1 on)")
    behind = asked(daemon, "peek", f"{name}/0", "--offset", "2")
    assert (behind["messages"], behind["notes"]) == ([], [note])
    plain = daemon.run("peek", f"{name}/0")
    assert f"{name}/0@0" in plain.stdout
    assert [line for line in plain.stderr.splitlines() if said in line] == plain.stderr.splitlines()
    everything = asked(daemon, "peek", f"{name}/0", "--read-uncommitted")
    assert [each["value"] for each in everything["messages"]] == ["first", "second", "third"]
    assert (everything["notes"], everything["withheld"]) == ([], 0)

    producer.commit_transaction(30.0)
    after = asked(daemon, "peek", f"{name}/0")
    assert [each["value"] for each in after["messages"]] == ["first", "second", "third"]
    assert (after["notes"], after["withheld"]) == ([], 0)
