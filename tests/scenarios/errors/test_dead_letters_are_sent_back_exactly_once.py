from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from click.testing import CliRunner
from confluent_kafka import Message, Producer

from swarm.cli import cli
from tests.support.daemon import SWARMCTL, Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from pathlib import Path

    from swarm import App, Backoff, DeadLetter
    from recording import record

    app = App("shop")
    print("hello from the app")

    @app.each("{orders}", backoff=Backoff(initial=0.02), dead_letter=DeadLetter("{dead}", max_attempts=2))
    def orders(message):
        if not Path("mended").exists():
            if message.raw == b"late":
                raise TimeoutError("the bank does not answer")
            if message.raw == b"bad":
                raise ValueError("no order")
        record(message)
"""

PLACEHOLDER = """
    from swarm import App

    app = App("shop")
"""


def headers(message: Message) -> dict[str, Any]:
    found: Any = message.headers()
    return dict(found or [])


def write_letters(broker: Broker, dead: str, letters: Iterable[dict[str, Any]]) -> None:
    """Dead letters as another daemon would have left them."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for letter in letters:
        producer.produce(dead, **letter)
        producer.poll(0)
    assert producer.flush(30) == 0


def letter(source: str, number: int, partition: int = 0, error: str = "ValueError: no") -> dict[str, Any]:
    return {
        "value": str(number),
        "key": f"key {number}",
        "headers": [
            ("trace", b"\x00\xff"),
            ("swarm.source.topic", source),
            ("swarm.source.partition", str(partition)),
            ("swarm.source.offset", str(number)),
            ("swarm.source.timestamp", str(1_700_000_000_000 + number)),
            ("swarm.source.group", "shop"),
            ("swarm.attempts", "3"),
            ("swarm.error", error),
        ],
        "partition": 0,
    }


SELECTIONS = {
    "--partition 1": 2,
    "--partition 0 --partition 2": 3,
    "--offsets 1..": 3,
    "--partition 2 --offsets 1": 1,
    "--source elsewhere": 0,
    "--group another": 0,
    "--error timeout --error value": 5,
    "--attempts 99..": 0,
    "--replayed 0": 5,
    "--replayed 1..": 0,
    "--since 2h": 5,
    "--until 2h": 0,
    "--limit 1": 1,
}
"""Options of a replay -> how many of the five letters below they choose: of partitions 1 (offsets 0, 1), 2 (0, 1) and 0 (2)."""


def selected(daemon: Daemon, *options: str) -> int:
    """How many letters a dry run with these options would send. In this process, for there are many."""
    done = CliRunner().invoke(cli, ["dlq", "replay", "--config", str(daemon.config), "--dry-run", "--json", *options])
    assert done.exit_code == 0, done.output
    return sum(topic["sent"] for topic in json.loads(done.stdout)["topics"])


def test_selected_letters_are_sent_back_as_they_were_and_processed_once(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """By error first, then the rest, then nothing; a dry run sends nothing. Partition, key, value and timestamp are the original's."""
    orders, dead = topic(partitions=3), topic(partitions=2)
    daemon = swarm_project(APP.format(orders=orders, dead=dead), {"swarm": {"workers": 1}})
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    values = ["late" if number in (1, 4) else "bad" if number in (2, 5, 6) else "good" for number in range(9)]
    for number, value in enumerate(values):
        broker.produce(orders, [(f"key {number}", value)], number % 3)
    daemon.start()
    daemon.wait_for_event("message_dead_lettered", 5)
    daemon.wait_for(lambda: len(recording.all()) == 4, what="the good ones")
    (daemon.folder / "mended").touch()

    listed = json.loads(daemon.run("dlq", "list", "--json").stdout)
    rehearsed = json.loads(daemon.run("dlq", "replay", "--dry-run", "--json").stdout)
    chosen = {options: selected(daemon, *options.split()) for options in SELECTIONS}
    untouched = len(broker.read_all(orders))
    first = daemon.run("dlq", "replay", "--error", "timeouterror", "--json")
    daemon.wait_for(lambda: len(recording.all()) == 6, what="the two that were late")
    rest = daemon.run("dlq", "replay")
    daemon.wait_for(lambda: len(recording.all()) == 9, what="the rest")
    nothing = daemon.run("dlq", "replay")
    after = json.loads(daemon.run("dlq", "list", "--json", "--error", "ValueError").stdout)
    assert daemon.stop() == 0

    assert {(row["error_type"], row["letters"], row["sent_back"]) for row in listed["counts"]} == {
        ("TimeoutError", 2, 0),
        ("ValueError", 3, 0),
    }
    assert Counter(each["value"] for each in listed["letters"]) == {"late": 2, "bad": 3}
    assert rehearsed["topics"][0]["sent"] == 5
    assert chosen == SELECTIONS
    assert selected(daemon, "--source", orders, "--group", daemon.group, "--again") == 5
    assert untouched == 9, "a dry run has sent something"
    assert json.loads(first.stdout)["topics"][0] | {"left": []} == {
        "topic": dead,
        "sent": 2,
        "targets": {orders: 2},
        "not_selected": 3,
        "left": [],
        "complete": True,
    }
    assert f"{dead}: 3 letters sent back ({orders} 3)" in rest.stdout
    assert f"{dead}: 0 letters sent back\n" == nothing.stdout
    assert [done.returncode for done in (first, rest, nothing)] == [0] * 3
    assert all(each["sent_back"] for each in after["letters"])
    assert len(after["letters"]) == 3

    replayed = [message for message in broker.read_all(orders) if headers(message)]
    assert len(replayed) == 5
    originals = {message.key(): message for message in broker.read_all(orders) if not headers(message)}
    for message in replayed:
        original = originals[message.key()]
        assert (message.partition(), message.value()) == (original.partition(), original.value())
        assert message.timestamp()[1] == original.timestamp()[1]
        assert headers(message) == {"swarm.replayed": b"1"}


def test_a_replay_that_is_killed_and_repeated_loses_nothing_and_sends_nothing_twice(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """kill -9 in the middle, twice: readers of committed messages see every letter once, in order; also the unselected stay behind."""
    orders, dead = topic(), topic()
    daemon = swarm_project(PLACEHOLDER)
    total = 12_000
    errors = ["ValueError: no", "KeyError: 'x'", "ValueError: never"]
    write_letters(broker, dead, [letter(orders, number, error=errors[number % 3]) for number in range(total)])
    command = [str(SWARMCTL), "dlq", "replay", "--config", str(daemon.config), "--topic", dead, "--error", ": no"]

    for _ in range(2):
        running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert running.stderr is not None
        assert "sent back so far" in running.stderr.readline()
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait(30) == -signal.SIGKILL, "it was over before it was killed"
        running.communicate()
    before = len(broker.read_all(orders, read_committed=True))
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=False)

    sent = [int(message.value() or b"") for message in broker.read_all(orders, read_committed=True)]
    assert done.returncode == 0, done.stderr
    assert 2 * 500 <= before < total // 3
    assert json.loads(done.stdout)["topics"][0]["sent"] == total // 3 - before
    assert sent == list(range(0, total, 3))


def test_what_cannot_be_sent_back_is_reported_and_left(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A record that is no letter, and a letter whose topic is gone: named, with exit code 1; the others are sent."""
    orders, gone, dead = topic(partitions=2), topic(create=False), topic()
    daemon = swarm_project(PLACEHOLDER)
    strange = {"value": "what is this", "headers": [("trace", b"1")]}
    write_letters(
        broker, dead, [strange, letter(gone, 7), letter(orders, 8, partition=1), letter(orders, 9, partition=5)]
    )

    done = daemon.run("dlq", "replay", "--topic", dead)
    repeated = daemon.run("dlq", "replay", "--topic", dead, "--dry-run")
    elsewhere = daemon.run("dlq", "replay", "--topic", dead, "--to", orders)

    assert (done.returncode, repeated.returncode) == (1, 1)
    assert f"{dead}: 2 letters sent back ({orders} 2); 2 left" in done.stdout
    assert f"left: {dead}/0@0: it is no dead letter" in done.stderr
    assert f"left: {dead}/0@1: topic {gone} does not exist" in done.stderr
    assert repeated.stdout == f"{dead}: 0 letters would be sent back; 2 left\n"
    assert f"{dead}: 1 letter sent back ({orders} 1); 1 left" in elsewhere.stdout
    sent = {message.value(): message for message in broker.read_all(orders)}
    assert set(sent) == {b"7", b"8", b"9"}
    assert sent[b"8"].partition() == 1
    assert sent[b"8"].timestamp()[1] == 1_700_000_000_008
    assert headers(sent[b"8"]) == {"trace": b"\x00\xff", "swarm.replayed": b"1"}


def test_mistakes_of_a_replay_are_one_readable_message(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """No topic, no dead letter topic, no broker: exit code 1, no traceback, no secret."""
    daemon = swarm_project(PLACEHOLDER)
    nowhere = topic(create=False)

    none = daemon.run("dlq", "list")
    missing = daemon.run("dlq", "replay", "--topic", nowhere)

    assert "no subscription of app:app has a dead letter topic" in none.stderr
    assert f"there is no topic {nowhere}" in missing.stderr
    for done in (none, missing):
        assert done.returncode == 1
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
