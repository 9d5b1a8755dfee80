"""A real Apache Kafka on this machine: a node with its own data and ports, and what tests ask of a Kafka. Knows nothing of the swarm.

`python -m tests.support.kafka` runs one in the foreground (`make broker`).
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any, Self

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its re-exports are not marked as such
    AdminClient,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    TopicMetadata,
)

from tests.support.kafka_installation import InstallationError, install
from tests.support.ports import free_port
from tests.support.tether import tethered
from tests.support.waiting import wait_for

Text = str | bytes | None

_START_WITHIN = 180.0  # s; 3 s on an idle machine, a minute where a dozen others work on its two cores
_STOP_WITHIN = 20.0  # s; less than 1 s without, some 3 s with the class-data archive to write
_ANSWER_WITHIN = 15.0  # s, for one administrative request
_RETRY = {
    KafkaError._TIMED_OUT,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}


class Kafka:
    """What tests ask of a Kafka and write to it, wherever it runs. Knows no process.

    Every method blocks until what it says is done and raises AssertionError where it is not.
    """

    replicas = 1
    """Of the topics that are made here."""

    def __init__(self) -> None:
        self._producer: Producer | None = None  # kept between calls: a new idempotent one needs half a second to begin

    @property
    def bootstrap(self) -> str:
        """`host:port,…` for the clients that a test is about; the same for the whole life of the object."""
        raise NotImplementedError

    @property
    def direct(self) -> str:
        """The same for the test's own clients, whatever it does to the others' network."""
        return self.bootstrap

    # -- its topics ------------------------------------------------------------------------------------

    def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None, replicas: int | None = None
    ) -> None:
        copies = self.replicas if replicas is None else replicas
        new = NewTopic(name, num_partitions=partitions, replication_factor=copies, config=dict(config or {}))
        self._ask(lambda admin: admin.create_topics([new])[name])
        self._wait_for_partitions(name, partitions)

    def create_topics(self, names: Iterable[str]) -> None:
        """Many at once, with one partition each."""
        new = [NewTopic(name, num_partitions=1, replication_factor=self.replicas) for name in names]
        admin = AdminClient({"bootstrap.servers": self.direct})  # held until the answers are there
        for answer in admin.create_topics(new).values():
            answer.result(timeout=_ANSWER_WITHIN)
        for topic in new:
            self._wait_for_partitions(topic.topic, 1)

    def delete_topic(self, name: str) -> None:
        self._ask(lambda admin: admin.delete_topics([name])[name])
        wait_for(lambda: name not in self._topics(), _ANSWER_WITHIN, f"topic {name} to be gone")

    def add_partitions(self, topic: str, total: int) -> None:
        """Grows `topic` to `total` partitions."""
        self._producer = None  # it would go on for minutes without knowing them
        self._ask(lambda admin: admin.create_partitions([NewPartitions(topic, total)])[topic])
        self._wait_for_partitions(topic, total)

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """(topic, partition) -> the group's committed offset; partitions without one are left out."""

        # Not AdminClient.list_consumer_group_offsets: where the coordinator has moved, or its topic is only being made, it
        # ends the process by SIGSEGV (librdkafka 5040, measured: 2 of 5 first requests to three nodes).
        consumer = Consumer(
            {
                "bootstrap.servers": self.direct,
                "group.id": group,
                "isolation.level": "read_uncommitted",  # else there is no answer while a transaction with offsets is open
                "log_level": 0,
            }
        )

        def ask() -> tuple[list[TopicPartition]] | None:
            request = [
                TopicPartition(name, number)
                for name, topic in consumer.list_topics(timeout=_ANSWER_WITHIN).topics.items()
                for number in topic.partitions
                if not name.startswith("__")
            ]
            try:
                answer = consumer.committed(request, timeout=2.0)
            except KafkaException as error:
                if error.args[0].code() in _RETRY:
                    return None
                raise
            if any(entry.error is not None for entry in answer):
                return None
            return (answer,)

        try:
            # The coordinator's topic is only made when the first group asks; that request is told to come again.
            (entries,) = wait_for(ask, _ANSWER_WITHIN, f"the coordinator of group {group}")
        finally:
            consumer.close()
        return {(entry.topic, entry.partition): entry.offset for entry in entries if entry.offset >= 0}

    def members(self, group: str) -> list[str]:
        """The `group.instance.id`, or member id, of those whom the broker takes for members."""
        found = self._ask(lambda admin: admin.describe_consumer_groups([group])[group])
        return sorted(member.group_instance_id or member.member_id for member in found.members)

    def ends(self, topic: str, read_committed: bool = False) -> dict[int, int]:
        """Partition -> the next offset that will be written, or with `read_committed` the first that an open transaction hides.

        A broker that has only just been told of a topic says NOT_LEADER for a moment, so it is asked again.
        """
        latest: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        where = {TopicPartition(topic, number): latest for number in self._topics()[topic].partitions}
        isolation = IsolationLevel.READ_COMMITTED if read_committed else IsolationLevel.READ_UNCOMMITTED
        admin = self._admin()
        deadline = time.monotonic() + _ANSWER_WITHIN
        while True:
            answers = admin.list_offsets(where, isolation_level=isolation)
            try:
                return {
                    each.partition: answer.result(timeout=_ANSWER_WITHIN).offset for each, answer in answers.items()
                }
            except KafkaException as error:
                if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION or time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def until_partitions_answer(self, seen: Callable[[], str] = lambda: "") -> None:
        """Blocks until every partition does: after a restart with data some say NOT_LEADER for about a second."""
        wait_for(self._every_partition_answers, _START_WITHIN, "every partition to answer", seen)

    # -- its messages ----------------------------------------------------------------------------------

    def produce(self, topic: str, records: Iterable[tuple[Text, Text]], partition: int | None = None) -> None:
        """Writes (key, value) pairs in their order and returns when the broker has all of them."""
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failures.append(error)

        if self._producer is None:
            self._producer = Producer(
                {
                    "bootstrap.servers": self.direct,
                    "enable.idempotence": True,
                    "linger.ms": 5,
                    "log_level": 0,
                }
            )
        number = -1 if partition is None else partition  # -1: as the key says
        for key, value in records:
            while True:
                try:
                    self._producer.produce(topic, key=key, value=value, partition=number, on_delivery=delivered)
                    break
                except BufferError:  # its queue is full
                    self._producer.poll(0.1)
            self._producer.poll(0)
        left = self._producer.flush(_START_WITHIN)
        assert left == 0, f"{left} messages for {topic} were not written within {_START_WITHIN:g} s"
        assert not failures, f"{len(failures)} messages for {topic} were refused, the first: {failures[0]}"

    def read_all(self, topic: str, read_committed: bool = False) -> list[Message]:
        """All messages that are in `topic` now, by partition and offset.

        With `read_committed`: only those outside of transactions or of committed ones.
        """
        consumer = Consumer(
            {
                "bootstrap.servers": self.direct,
                "group.id": "tests-read-all",  # required by the client; nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed" if read_committed else "read_uncommitted",
                "fetch.wait.max.ms": 10,  # the end of a partition is only told when a fetch comes back empty
                "fetch.queue.backoff.ms": 10,
                "log_level": 0,
            }
        )
        messages: list[Message] = []
        try:
            open_partitions = set(self._topics()[topic].partitions)
            consumer.assign([TopicPartition(topic, number, 0) for number in open_partitions])

            deadline = time.monotonic() + _START_WITHIN
            while open_partitions:
                assert time.monotonic() < deadline, (
                    f"partitions {open_partitions} of {topic} were not read to their end"
                )
                for message in consumer.consume(1000, 0.02):
                    error = message.error()
                    if error is None:
                        messages.append(message)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        open_partitions.discard(message.partition())
                    else:
                        raise KafkaException(error)
        finally:
            consumer.close()
        return sorted(messages, key=lambda message: (message.partition(), message.offset()))

    # -- behind it -------------------------------------------------------------------------------------

    def _admin(self) -> AdminClient:
        # A new one each time: one that saw a broker go away stayed timed out after it came back. Silent,
        # because a broker that is away is what some tests are about.
        return AdminClient({"bootstrap.servers": self.direct, "log_level": 0})

    def _ask(self, request: Callable[[AdminClient], Future[Any]]) -> Any:
        admin = self._admin()  # to be held until the answer is there: a client that is collected cancels its requests
        return request(admin).result(timeout=_ANSWER_WITHIN)

    def _topics(self) -> dict[str, TopicMetadata]:
        return dict(self._admin().list_topics(timeout=_ANSWER_WITHIN).topics)

    def _every_partition_answers(self) -> bool:
        try:
            where = [
                TopicPartition(name, number) for name, topic in self._topics().items() for number in topic.partitions
            ]
            if where:
                admin = self._admin()
                latest: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
                for answer in admin.list_offsets(dict.fromkeys(where, latest)).values():
                    answer.result(timeout=_ANSWER_WITHIN)
        except KafkaException:
            return False
        return True

    def _wait_for_partitions(self, topic: str, count: int) -> None:
        """The controller has answered; the broker's own metadata follow a moment later."""

        def there() -> bool:
            found = self._topics().get(topic)
            leaders = [partition.leader for partition in found.partitions.values()] if found else []
            return len(leaders) == count and min(leaders) >= 0

        wait_for(there, _ANSWER_WITHIN, f"{topic} to have {count} partitions")


class Broker(Kafka):
    """One broker; several may run side by side. Start it in the main thread: it ends with that thread.

    `with Broker() as broker:` starts it and, at the end, stops it and removes its data. Between `stop()` or
    `kill()` and `start()` it keeps data and port.

    advertised: a port of 127.0.0.1 that clients are told to use instead, a proxy's (`tests.support.proxy`). What the
    test itself asks, and the brokers of a cluster one another, goes around it.
    node, controllers: its number in a cluster, and number -> controller's port of all (`tests.support.cluster`).
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        config: Mapping[str, str] | None = None,
        advertised: int | None = None,
        node: int = 1,
        controllers: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        self._port = port or free_port()
        self._advertised = advertised
        self._direct_port = free_port() if advertised else self._port
        self._node = node
        self._controllers = dict(controllers or {node: free_port()})
        self._config = dict(config or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._home: Path | None = None
        self._logged_before = 0
        self._archive: tuple[Path, Path] | None = None  # the class-data archive being made, and where it goes

    # -- its process -----------------------------------------------------------------------------------

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._advertised or self._port}"

    @property
    def direct(self) -> str:
        return f"127.0.0.1:{self._direct_port}"

    @property
    def port(self) -> int:
        """Where it listens for clients, behind its proxy if it has one."""
        return self._port

    @property
    def pid(self) -> int:
        assert self._process is not None, "the broker was never started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has logged, restarts included."""
        return (self._home / "log").read_text(errors="replace") if self._home else ""

    @property
    def data(self) -> Path:
        """Where its logs are, once it was begun."""
        assert self._home is not None, "the broker was never started"
        return self._home / "data"

    def start(self) -> None:
        """Returns once every partition answers. Raises `InstallationError` where Kafka cannot be had."""
        self.begin()
        self.until_started()
        self.until_partitions_answer(lambda: self.log[-3000:])

    def begin(self) -> None:
        """Starts its process and does not wait for it."""
        assert not self.is_running, f"the broker runs already, as pid {self.pid}"
        installation = install()
        if self._home is None:
            self._home = _new_home(installation.data)
            shutil.copytree(installation.formatted, self._home / "data")
            self._become_node()
        properties = self._home / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))

        options: tuple[str, ...] = ()
        if not installation.archive.exists():
            self._archive = (self._home / "classes.jsa", installation.archive)
            options = (f"-XX:ArchiveClassesAtExit={self._archive[0]}",)
        command = installation.java("kafka.Kafka", properties, options=options)
        self._logged_before = len(self.log) if (self._home / "log").exists() else 0
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                tethered(command, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._home,
                start_new_session=True,  # a ^C is for the tests: they stop the broker when they are done
            )

    def until_started(self) -> None:
        """Blocks until it says that it has started."""
        wait_for(
            lambda: self.is_started,
            _START_WITHIN,
            "the broker's start",
            seen=lambda: self.log[-3000:],
            hopeless=lambda: "" if self.is_running else "its process has ended",
        )

    @property
    def is_started(self) -> bool:
        """Whether it has said so, since it was last begun."""
        return "Kafka Server started" in self.log[self._logged_before :]

    def stop(self) -> None:
        """Ends it gracefully. Nothing to do where it does not run."""
        self._producer = None  # it would go on asking for the broker, and may not survive its restart
        if self._process is None or not self.is_running:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()
            return
        if self._archive and self._archive[0].exists():
            os.replace(*self._archive)
        self._archive = None

    def kill(self) -> None:
        """SIGKILL: what was not on disk yet is lost to the process, not to the page cache."""
        self._producer = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Kills it and removes its data, of which nothing is needed any more."""
        self.kill()
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- behind it -------------------------------------------------------------------------------------

    def _properties(self) -> dict[str, str]:
        assert self._home is not None
        return {
            "process.roles": "broker,controller",
            "node.id": str(self._node),
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{port}" for n, port in self._controllers.items()),
            "controller.listener.names": "CONTROLLER",
            **self._listeners(),
            "log.dirs": str(self._home / "data"),
            "auto.create.topics.enable": "false",
            # a cluster of one, whose internal topics start sooner with few partitions
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "1",
            # tests do not want to wait, and may ask for sessions shorter than a production broker allows
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            # the same for `group.protocol=consumer`, whose sessions (45 s) and heartbeats (5 s) are the broker's to set
            "group.consumer.min.session.timeout.ms": "1000",
            "group.consumer.session.timeout.ms": "3000",
            "group.consumer.min.heartbeat.interval.ms": "100",
            "group.consumer.heartbeat.interval.ms": "300",
            # a killed node comes back only when the controller has given up its former self (default: 9 s)
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            # records may carry old timestamps on purpose, and retention goes by those
            "log.retention.ms": "-1",
            "log.cleaner.dedupe.buffer.size": "4194304",
            "num.network.threads": "2",
            "num.io.threads": "4",
            **self._config,
        }

    def _listeners(self) -> dict[str, str]:
        clients = f"PLAINTEXT://127.0.0.1:{self._port}"
        controller = f"CONTROLLER://127.0.0.1:{self._controllers[self._node]}"
        if self._advertised is None:
            return {
                "listeners": f"{clients},{controller}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            }
        direct = f"DIRECT://{self.direct}"
        return {
            "listeners": f"{clients},{direct},{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap},{direct}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "DIRECT",
        }

    def _become_node(self) -> None:
        """The formatted storage is that of node 1; every node's has a number and an id of its own."""
        assert self._home is not None
        meta = self._home / "data" / "meta.properties"
        own = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
        ours = {"node.id": str(self._node), "directory.id": own}
        lines = [line.partition("=") for line in meta.read_text().splitlines()]
        meta.write_text("".join(f"{key}{is_}{ours.get(key, value)}\n" for key, is_, value in lines))


def _new_home(data: Path) -> Path:
    """A folder for one broker; those whose process was killed before it could remove them go first."""
    data.mkdir(exist_ok=True)
    for folder in data.iterdir():
        if not Path("/proc", folder.name.split("-")[0]).exists():
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=data))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.kafka", description="Runs Apache Kafka until it is told to stop (^C)."
    )
    parser.add_argument("--port", type=int, default=9092, help="0: any free one (default: %(default)s)")
    parser.add_argument(
        "--install", action="store_true", help="only get what is needed to run it, and make its starts quick"
    )
    options = parser.parse_args()
    try:
        archive = install().archive
        if not options.install:
            _run(Broker(port=options.port))
        elif not archive.exists():  # its end makes the archive, with which all later ones start in half the time
            with Broker() as first:
                first.stop()
    except (InstallationError, AssertionError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass


def _run(broker: Broker) -> None:
    done = threading.Event()
    with broker:
        stop: Callable[[int, FrameType | None], None] = lambda *_: done.set()  # noqa: E731
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        print(
            f"bootstrap.servers = {broker.bootstrap}   (pid {broker.pid}; ^C ends it and removes its data)",
            flush=True,
        )
        while broker.is_running and not done.wait(0.5):
            pass
        if not done.is_set():
            raise AssertionError(f"the broker has ended by itself:\n{broker.log[-3000:]}")


if __name__ == "__main__":
    main()
