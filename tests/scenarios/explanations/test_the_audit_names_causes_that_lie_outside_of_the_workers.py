from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.scenarios.conftest import ExpectViolation
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.proxy import Proxy
from tests.support.recording import Recording
from tests.support.secured import GROUP, LOGIN, READ, TOPIC, SecuredBroker
from tests.support.waiting import wait_for

PLAIN = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each(TOPICS)
    def orders(message):
        record(message)
"""
FULL = {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.1}}


def told(answer: dict[str, Any], what: str = "duplicates") -> list[tuple[str, str, int, int]]:
    return sorted((each["topic"], each["cause"], each["first_offset"], each["last_offset"]) for each in answer[what])


# -- who produces --------------------------------------------------------------------------------------------------


def test_what_a_producer_has_written_twice_is_found_by_content(
    proxied: tuple[Broker, Proxy], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """A producer without idempotence that hears no answer sends again, with the timestamps of before; an application that produces twice
    is told from it by those. A topic of mere likeness has no finding."""
    broker, proxy = proxied
    resent, again, healthy = names = [f"{group}-{kind}" for kind in ("resent", "again", "healthy")]
    for name in names:
        broker.create_topic(name)
    _produce_unanswered(broker, proxy, resent, [("ann", "tea"), ("bob", "tea"), ("ann", "coffee")])
    began = 1_790_000_000_000
    _produce(broker, again, [("ann", "tea", began), ("bob", "tea", began + 100), ("ann", "tea", began + 250)])
    alike = [("ann", "tea"), ("ann", "cake"), ("bob", "tea"), ("", "tea"), (None, "tea"), ("ann", ""), ("ann", None)]
    _produce(broker, healthy, [(key, value, began) for key, value in alike])
    ends = {resent: 7, again: 3, healthy: 7}
    daemon = swarm_project(PLAIN.replace("TOPICS", ", ".join(map(repr, names))), FULL, bootstrap=broker.bootstrap)
    Recording(daemon.folder)
    daemon.start()
    daemon.wait_for(
        lambda: broker.committed(daemon.group) == {(name, 0): end for name, end in ends.items()}, what="all of it"
    )

    answer = daemon.audit("--by-content")  # it works beside the running daemon
    assert told(answer) == sorted([(resent, "produced_twice", 4, 6), (again, "produced_twice", 2, 2)])
    evidence = {each["topic"]: each["evidence"] for each in answer["duplicates"]}
    assert "key and value are those of 1 to 3, with the same timestamp" in evidence[resent]
    assert "a producer without idempotence" in evidence[resent]
    assert "key and value are those of 0, written 250 ms later" in evidence[again]
    assert (answer["gaps"], answer["unexplained"], answer["exit"]) == ([], 0, 0)
    alone = daemon.audit("--by-content", "--topic", healthy)
    assert (alone["duplicates"], alone["partitions"], alone["messages"], alone["exit"]) == ([], 1, 7, 0)
    assert daemon.audit()["duplicates"] == [], "each offset was processed once"
    assert daemon.stop() == 0


def _produce_unanswered(broker: Broker, proxy: Proxy, topic: str, records: list[tuple[str, str]]) -> None:
    """Through a network that breaks when the broker has taken all of it and before it can say so."""
    producer = Producer(
        {
            "bootstrap.servers": broker.bootstrap,
            "enable.idempotence": False,
            "linger.ms": 100,  # all in one request
            "log_level": 0,
        }
    )
    producer.produce(topic, key="cat", value="tea", partition=0)
    assert producer.flush(30) == 0  # it is connected with the leader
    proxy.mute()
    for key, value in records:
        producer.produce(topic, key=key, value=value, partition=0)
    written = 1 + len(records)
    wait_for(lambda: (producer.poll(0), broker.ends(topic)[0] == written)[1], what="the messages to be written")
    proxy.cut()
    proxy.heal()
    assert producer.flush(30) == 0
    assert broker.ends(topic)[0] == written + len(records)


def _produce(broker: Broker, topic: str, records: list[tuple[str | None, str | None, int]]) -> None:
    """With timestamps (ms) of one's own."""
    producer = Producer({"bootstrap.servers": broker.direct, "enable.idempotence": True, "log_level": 0})
    for key, value, at in records:
        producer.produce(topic, key=key, value=value, partition=0, timestamp=at)
    assert producer.flush(30) == 0


# -- who takes commits ---------------------------------------------------------------------------------------------


@pytest.fixture
def secured() -> Iterator[SecuredBroker]:
    with SecuredBroker() as broker:
        yield broker


@pytest.mark.parametrize("end", ["stop", "kill", "lose"])
def test_a_repetition_after_a_commit_that_was_refused_is_called_so(
    end: str, secured: SecuredBroker, group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """However the worker ended, or lost the partition, for who may not commit may not stay in the group either: without the refusal there
    would have been nothing to repeat."""
    session = {"session.timeout.ms": 3000, "heartbeat.interval.ms": 300} if end == "lose" else {}
    secured.create_topic("orders")
    secured.grant(READ, TOPIC, "orders")
    secured.grant(READ, GROUP, group)
    daemon = swarm_project(
        PLAIN.replace("TOPICS", "'orders'"),
        {**FULL, "swarm": {"workers": 1, "group_id": group}, "kafka": {**LOGIN, **session}},
        bootstrap=secured.secured,
    )
    recording = Recording(daemon.folder)
    secured.produce("orders", [(None, str(number)) for number in range(10)], 0)
    daemon.start()
    daemon.wait_for(lambda: secured.committed(group) == {("orders", 0): 10}, what="what is allowed")
    secured.revoke(READ, GROUP, group)
    secured.produce("orders", [(None, str(number)) for number in range(10, 20)], 0)
    refused = [["orders", 0, 20]]
    daemon.wait_for_event("commit_failed", offsets=refused, code="GROUP_AUTHORIZATION_FAILED")
    (worker,) = daemon.workers()
    if end == "stop":
        assert daemon.stop() == 0
        secured.grant(READ, GROUP, group)
        daemon.start()
    elif end == "kill":
        os.kill(worker["pid"], signal.SIGKILL)
        secured.grant(READ, GROUP, group)
    else:
        daemon.wait_for_event("partitions_lost")
        secured.grant(READ, GROUP, group)
    daemon.wait_for(lambda: len(recording.all()) == 30, what="what was not committed, once more")
    daemon.wait_for(lambda: secured.committed(group) == {("orders", 0): 20}, what="its commit")
    assert daemon.stop() == 0

    answer = daemon.audit()
    assert told(answer) == [("orders", "commit_failed", 10, 19)]
    (repeated,) = answer["duplicates"]
    assert repeated["earlier"]["pid"] == worker["pid"]
    assert (repeated["later"]["pid"] == worker["pid"]) == (end == "lose")
    assert f"(pid {worker['pid']}) could not commit 20 at " in repeated["evidence"]
    assert f"Grant this user Read on the group {group}" in repeated["evidence"]
    assert ("SIGKILL" in repeated["evidence"]) == (end == "kill")
    assert (answer["gaps"], answer["unexplained"], answer["exit"]) == ([], 0, 0)


# -- other daemons -------------------------------------------------------------------------------------------------


def test_two_daemons_of_two_groups_are_seen_over_both_journals(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """Each of them alone has processed everything once."""
    orders = topic(partitions=2)
    shop, stock = (
        swarm_project(
            PLAIN.replace("TOPICS", repr(orders)),
            {**FULL, "swarm": {"workers": 1, "group_id": f"{group}-{name}"}},
            name=name,
        )
        for name in ("shop", "stock")
    )
    for daemon in (shop, stock):
        Recording(daemon.folder)
    for partition in range(2):
        broker.produce(orders, [(None, str(number)) for number in range(10)], partition)
    for daemon in (shop, stock):
        daemon.start()
        daemon.wait_for(
            lambda daemon=daemon: broker.committed(daemon.group) == {(orders, p): 10 for p in range(2)},  # type: ignore[misc]
            what="all of it",
        )
        assert daemon.stop() == 0

    for daemon in (shop, stock):
        alone = daemon.audit()
        assert (alone["duplicates"], alone["gaps"], alone["messages"], alone["exit"]) == ([], [], 20, 0)
        assert alone["groups"] == [daemon.group], "it says whose journal that is"
    answer = shop.audit(*shop.journal, *stock.journal)
    assert told(answer) == [(orders, "second_group", 0, 9)] * 2
    for repeated in answer["duplicates"]:
        assert repeated["group"] == stock.group, "the later one"
        assert (repeated["earlier"]["name"], repeated["later"]["name"]) == ("shop", "stock")
        for daemon, name in ((shop, "shop"), (stock, "stock")):
            assert f"group {daemon.group}" in repeated["evidence"]
            assert f"daemon {name} on " in repeated["evidence"]
            assert str(daemon.folder) in repeated["evidence"]
    assert (answer["gaps"], answer["unexplained"], answer["exit"]) == ([], 0, 0)
    assert shop.audit(*shop.journal, *stock.journal, "--group", shop.group)["duplicates"] == []


SHARED = """
    import time
    from pathlib import Path
    from swarm import App
    from recording import note, record

    app = App("shop")
    hold = Path(__file__).with_name("hold")

    @app.each("TOPIC", max_messages=1)
    def orders(message):
        record(message)
        if message.offset == 22 and hold.exists():
            note("held")
            time.sleep(60)  # until it is killed
"""


def test_two_daemons_of_one_group_are_judged_by_both_journals(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """What the other host did is a gap to whoever looks at one journal alone, and none over both; a host that died with work in hand is
    the cause of what the other one repeats."""
    orders = topic()
    one, two = (
        swarm_project(
            SHARED.replace("TOPIC", orders),
            {
                "swarm": {"workers": 1, "group_id": group, "host": host},
                "worker": {"commit_interval": 0.1},
                "kafka": {"session.timeout.ms": 3000, "heartbeat.interval.ms": 300},
            },
        )
        for host in ("one", "two")
    )
    recordings = [Recording(daemon.folder) for daemon in (one, two)]

    def produce(first: int, end: int) -> None:
        broker.produce(orders, [(None, str(number)) for number in range(first, end)], 0)

    def until_committed(daemon: Daemon, end: int) -> None:
        daemon.wait_for(lambda: broker.committed(group).get((orders, 0)) == end, what=f"{end} to be committed")

    produce(0, 10)
    one.start()
    until_committed(one, 10)
    assert one.stop() == 0
    produce(10, 22)
    two.start()
    until_committed(two, 22)
    (two.folder / "hold").touch()
    produce(22, 30)
    two.wait_for(lambda: recordings[1].all("held"), what="the message in hand")
    (worker,) = two.workers()
    two.signal(signal.SIGKILL)  # first, so that nobody replaces the worker: what a host does that loses its power
    os.kill(worker["pid"], signal.SIGKILL)
    one.start()
    until_committed(one, 30)
    assert one.stop() == 0

    alone = one.audit()
    assert told(alone, "gaps") == [(orders, "offset_reset", 10, 21)]
    assert "a member processed them whose journal is not among these (--journal)" in alone["gaps"][0]["evidence"]
    assert (alone["duplicates"], alone["exit"]) == ([], 1)

    def repeated() -> dict[str, Any]:
        answer = one.audit(*one.journal, *two.journal)
        assert (answer["gaps"], answer["unexplained"], answer["exit"]) == ([], 0, 0)
        (found,) = answer["duplicates"]
        assert (found["first_offset"], found["last_offset"], found["earlier"]["outcome"]) == (22, 22, "in_hand")
        assert (found["earlier"]["host"], found["later"]["host"]) == ("two", "one")
        assert f"worker 0 of shop on two (pid {worker['pid']})" in found["evidence"]
        return dict(found)

    assert repeated()["cause"] == "rebalance", "nobody has said yet that it died"
    assert "gone with its host" in repeated()["evidence"]
    two.start().until_running()  # the host is back
    assert two.stop() == 0
    assert repeated()["cause"] == "crash"
    assert "ended without a word" in repeated()["evidence"]


# -- a journal that is not whole -----------------------------------------------------------------------------------

SOUGHT = """
    from pathlib import Path
    from swarm import App
    from recording import record

    app = App("shop")
    back = Path(__file__).with_name("back")

    @app.subscribe("TOPIC", max_messages=1)
    def orders(messages, consumer):
        record(messages[0])
        if messages.first_offset == 8 and not back.exists():
            back.touch()
            consumer.mark_as_consumed(messages[0])
            consumer.seek(5)
"""


def test_a_repetition_whose_record_is_damaged_is_unknown(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon], expect_violation: ExpectViolation
) -> None:
    """Nothing is guessed: it says which file is damaged, and leaves by exit code 1 what it had explained before."""
    orders = topic()
    daemon = swarm_project(SOUGHT.replace("TOPIC", orders), FULL)
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(10)], 0)
    daemon.start()
    daemon.wait_for(lambda: len(recording.all()) == 14, what="what was sought")
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 10}, what="the commit")
    assert daemon.stop() == 0

    before = daemon.audit()
    assert (told(before), before["exit"]) == ([(orders, "seek", 5, 8)], 0)
    (segment,) = _segments(daemon, "worker-0000")
    content = segment.read_bytes()
    assert content.count(b'"what":"moved"') == 1
    segment.write_bytes(content.replace(b'"what":"moved"', b'"what":"m\0ved"'))
    answer = daemon.audit()
    assert (told(answer), answer["gaps"]) == ([(orders, "unknown", 5, 8)], [])
    assert "nothing is recorded between them" in answer["duplicates"][0]["evidence"]
    assert answer["troubles"] == [f"{segment}: damaged in 1 place: what stood there is passed over"]
    assert (answer["unexplained"], answer["exit"]) == (1, 1)


def _segments(daemon: Daemon, writer: str) -> list[Path]:
    return sorted(Path(daemon.settings["swarm"]["state_dir"]).glob(f"journal/{writer}-*.seg"))


FAILS_ONCE = """
    from swarm import App, Backoff
    from recording import record

    app = App("shop")
    seen = set()

    @app.each("TOPIC", backoff=Backoff(initial=0.001, maximum=0.001))
    def orders(message):
        record(message)
        if message.offset not in seen:
            seen.add(message.offset)
            raise ValueError("a first time")  # so the journal has much to say
"""


def test_what_is_missing_in_the_middle_of_a_journal_is_said_and_not_judged(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A daemon ran three times; what is left of its journal is the beginning and the end. What it did between looks like offsets that
    somebody had set forward, and it says why that is not so."""
    orders = topic()
    daemon = swarm_project(FAILS_ONCE.replace("TOPIC", orders), {**FULL, "journal": {"size": "1MiB"}})
    daemon.expect_errors("consume_failed")
    Recording(daemon.folder)
    for turn in range(3):
        broker.produce(orders, [(None, str(number)) for number in range(300)], 0)
        daemon.start()
        daemon.wait_for(lambda end=300 * (turn + 1): broker.committed(daemon.group) == {(orders, 0): end}, what="all")  # type: ignore[misc]
        assert daemon.stop() == 0
        segments = _segments(daemon, "worker-0000")
        if turn == 0:
            first = len(segments)
        elif turn == 1:
            second = len(segments)
    whole = daemon.audit()
    assert (whole["gaps"], whole["missing"], whole["unexplained"]) == ([], [], 0)
    assert len(whole["duplicates"]) > 600

    assert 1 < first < second < len(segments)
    for segment in segments[first - 1 : second]:  # the second run began in the last one of the first
        segment.unlink()
    answer = daemon.audit()
    assert (answer["gaps"], answer["unexplained"], answer["exit"]) == ([], 0, 0)
    (missing,) = answer["missing"]
    assert missing.startswith("part of the journal of worker 0 is missing, from 20")
    assert str(segments[0].parent) in missing
    told = daemon.run("audit").stdout
    assert "Part of the journal of worker 0 is missing, from 20" in told
