"""A real Apache Kafka on this machine: one node, its own data and port. Knows nothing of the swarm.

`python -m tests.support.kafka` runs one in the foreground (`make broker`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any, Self

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
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

_START_WITHIN = 60.0  # s; 3 s on an idle machine
_STOP_WITHIN = 20.0  # s; less than 1 s without, some 3 s with the class-data archive to write
_ANSWER_WITHIN = 15.0  # s, for one administrative request
_RETRY = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}


class Broker:
    """One broker; several may run side by side. Start it in the main thread: it ends with that thread.

    `with Broker() as broker:` starts it and, at the end, stops it and removes its data. Between `stop()` or
    `kill()` and `start()` it keeps data and port. Every method blocks until what it says is done and raises
    AssertionError where it is not.
    """

    def __init__(self, *, port: int | None = None, config: Mapping[str, str] | None = None) -> None:
        self._port = port or free_port()
        self._controller_port = free_port()
        self._config = dict(config or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._home: Path | None = None
        self._producer: Producer | None = None  # kept between calls: a new idempotent one needs half a second to begin
        self._archive: tuple[Path, Path] | None = None  # the class-data archive being made, and where it goes

    # -- its process -----------------------------------------------------------------------------------

    @property
    def bootstrap(self) -> str:
        """`host:port`, the same for the whole life of the object."""
        return f"127.0.0.1:{self._port}"

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

    def start(self) -> None:
        """Returns once every partition answers. Raises `InstallationError` where Kafka cannot be had."""
        assert not self.is_running, f"the broker runs already, as pid {self.pid}"
        installation = install()
        if self._home is None:
            self._home = _new_home(installation.data)
            shutil.copytree(installation.formatted, self._home / "data")
        properties = self._home / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))

        options: tuple[str, ...] = ()
        if not installation.archive.exists():
            self._archive = (self._home / "classes.jsa", installation.archive)
            options = (f"-XX:ArchiveClassesAtExit={self._archive[0]}",)
        command = installation.java("kafka.Kafka", properties, options=options)
        seen = len(self.log) if (self._home / "log").exists() else 0
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                tethered(command, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._home,
                start_new_session=True,  # a ^C is for the tests: they stop the broker when they are done
            )
        wait_for(
            lambda: "Kafka Server started" in self.log[seen:],
            _START_WITHIN,
            "the broker's start",
            seen=lambda: self.log[-3000:],
            hopeless=lambda: "" if self.is_running else "its process has ended",
        )
        # After a restart with data partitions still answer NOT_LEADER for about a second.
        wait_for(
            self._every_partition_answers,
            _START_WITHIN,
            "every partition to answer",
            lambda: self.log[-3000:],
        )

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
        """Stops it and removes its data."""
        self.stop()
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

    # -- its cluster -----------------------------------------------------------------------------------

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        self._ask(lambda admin: admin.create_topics([new])[name])
        self._wait_for_partitions(name, partitions)

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

        def ask() -> tuple[list[TopicPartition]] | None:
            request = [ConsumerGroupTopicPartitions(group)]
            try:
                answer = self._ask(lambda admin: admin.list_consumer_group_offsets(request)[group])
            except KafkaException as error:
                if error.args[0].code() in _RETRY:
                    return None
                raise
            return (list(answer.topic_partitions or []),)

        # The coordinator's topic is only made when the first group asks; that request is told to come again.
        (entries,) = wait_for(ask, _ANSWER_WITHIN, f"the coordinator of group {group}")
        return {(entry.topic, entry.partition): entry.offset for entry in entries if entry.offset >= 0}

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
                    "bootstrap.servers": self.bootstrap,
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
                "bootstrap.servers": self.bootstrap,
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
                for message in consumer.consume(1000, 0.1):
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

    def _properties(self) -> dict[str, str]:
        assert self._home is not None
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
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

    def _admin(self) -> AdminClient:
        # A new one each time: one that saw a broker go away stayed timed out after it came back. Silent,
        # because a broker that is away is what some tests are about.
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

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
    parser.add_argument("--install", action="store_true", help="only get what is needed to run it")
    options = parser.parse_args()
    try:
        install()
        if not options.install:
            _run(Broker(port=options.port))
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
