"""The embedded broker with the real client library, and what stands on it: a new application, and the demo."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from swarm.embedded import EmbeddedBroker, EmbeddedBrokerError
from tests.support.ports import free_port
from tests.support.waiting import wait_for


def exchange(bootstrap: str, topic: str, partitions: int) -> None:
    """Produce one message into each partition and read them all back through a group, with a commit."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    for partition in range(partitions):
        producer.produce(topic, value=str(partition), partition=partition)
    assert producer.flush(10) == 0

    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "g", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    try:
        consumer.subscribe([topic])
        messages = consumer.consume(partitions, 20)
        committed = consumer.commit(asynchronous=False)
    finally:
        consumer.close()
    assert sorted(message.value() or b"" for message in messages) == [str(n).encode() for n in range(partitions)]
    assert committed is not None
    assert len(committed) == partitions


def test_a_group_consumes_what_was_produced_to_a_topic_with_its_partitions() -> None:
    """Topics have the partitions that were asked for, and produce, consume and commit work."""
    with EmbeddedBroker({"orders": 3}) as broker:
        exchange(broker.bootstrap, "orders", 3)


def test_a_port_that_was_asked_for_is_the_one_that_clients_are_sent_to() -> None:
    """With a fixed port everything goes through it, also what clients learn from the broker's metadata."""
    port = free_port()

    with EmbeddedBroker({"orders": 2}, port=port) as broker:
        assert broker.bootstrap == f"127.0.0.1:{port}"
        exchange(broker.bootstrap, "orders", 2)


def test_a_port_that_is_taken_is_a_readable_error() -> None:
    """Nobody is to talk to another broker by mistake: a port that somebody else has is refused."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(EmbeddedBrokerError, match=f"cannot listen on 127.0.0.1:{port}"):
            EmbeddedBroker(port=port)


def test_a_topic_that_is_there_already_and_one_without_partitions_are_refused() -> None:
    """A mistake is said and not swallowed; so is the use of a broker that was closed."""
    with EmbeddedBroker({"orders": 1}) as broker:
        with pytest.raises(EmbeddedBrokerError, match="already exists"):
            broker.create_topic("orders", 1)
        with pytest.raises(EmbeddedBrokerError, match="1 partition or more"):
            broker.create_topic("clicks", 0)

    with pytest.raises(EmbeddedBrokerError, match="closed"):
        broker.create_topic("clicks", 1)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_broker_command_serves_other_processes_until_it_is_told_to_end(
    signum: signal.Signals, tmp_path: Path
) -> None:
    """`swarmctl broker` prints where it is, works from outside, and ends with 0 and no output of librdkafka's."""
    command = [sys.executable, "-P", "-m", "swarm.cli", "broker", "--topic", "orders:2"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        readable, _, _ = select.select([process.stdout], [], [], 20)
        assert readable
        name, _, bootstrap = process.stdout.readline().decode().strip().partition(" = ")
        assert name == "bootstrap.servers"
        exchange(bootstrap, "orders", 2)

        process.send_signal(signum)

        assert process.wait(20) == 0
        assert process.stderr.read() == b""


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory whose path is short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="swarm-") as path:
        yield Path(path)


def swarmctl(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without settings of whoever runs the tests."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SWARM_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "swarm.cli", *arguments],
        cwd=cwd,
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_a_new_application_runs_detached_until_it_is_stopped(short_directory: Path) -> None:
    """What `init` wrote consumes at once: `start --detach` returns when it is up, a second start is refused, `stop` ends it."""
    shop = short_directory / "shop"
    assert swarmctl("init", str(shop), cwd=short_directory).returncode == 0
    with EmbeddedBroker({"orders": 3}) as broker:
        environ = {
            "SWARM_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
            "SWARM_RUN_DIR": str(short_directory / "run"),
            "SWARM_OBSERVER__PORT": "0",
        }
        started = swarmctl("start", "--detach", cwd=shop, **environ)
        try:
            assert (started.returncode, started.stderr) == (0, "")
            again = swarmctl("start", cwd=shop, **environ)
            assert again.returncode == 1
            assert "already running" in again.stderr
            produced = subprocess.run(
                [sys.executable, "-m", "shop.produce", "30"], cwd=shop, env=os.environ | environ, check=False
            )
            assert produced.returncode == 0

            def processed() -> bool:
                status = json.loads(swarmctl("status", "--json", cwd=shop, **environ).stdout)
                return bool(sum(worker["messages"] for worker in status["workers"]) == 30)

            wait_for(processed, what="30 processed orders")
        finally:
            stopped = swarmctl("stop", "--timeout", "20", cwd=shop, **environ)
        assert stopped.returncode == 0
        assert swarmctl("status", cwd=shop, **environ).returncode != 0


def test_a_daemon_that_cannot_boot_says_why_where_it_was_started(short_directory: Path) -> None:
    """`start --detach` fails with the daemon's own reason and code, not with silence and a log file."""
    settings = {"SWARM_RUN_DIR": str(short_directory), "SWARM_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}

    failed = swarmctl("start", "--detach", "--app", "nowhere:app", cwd=short_directory, **settings)

    assert failed.returncode == 1
    assert "there is no module 'nowhere'" in failed.stderr
    assert len(failed.stderr.splitlines()) <= 6


def test_the_demo_loses_nothing_and_explains_what_was_processed_twice(short_directory: Path) -> None:
    """One command without a Kafka: a worker is killed on the way, the balance is complete, and nothing is left behind."""
    done = swarmctl("demo", "--seconds", "5", cwd=short_directory, TMPDIR=str(short_directory))

    rows = {line[:24].strip(): line[24:32].strip() for line in done.stdout.splitlines()}
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows["lost"] == "0"
    assert rows["restarts"] == "1"
    assert rows["produced"] == rows["processed"] != "0"
    assert "UNEXPLAINED" not in done.stdout
    assert "never" not in done.stdout
    assert list(short_directory.iterdir()) == []
