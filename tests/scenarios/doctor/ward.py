"""What the scenarios of `doctor` share: settings that are healthy on the tests' broker, an examination, and visitors of a group."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, Producer

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.project import Sections, merged
from tests.support.waiting import wait_for

APP = """
    from swarm import App

    app = App("shop")


    @app.subscribe("{topic}")
    def orders(messages):
        pass
"""


def name(prefix: str = "shop") -> str:
    """A fresh name that nothing would call generated: letters, and none of those that are hexadecimal digits."""
    return f"{prefix}-{''.join(random.choices('ghijklmnopqrstuvwxyz', k=10))}"


def settings(group: str | None, more: Sections | None = None) -> Sections:
    """A host that lasts, two workers, and a group (None: none is set, so it is called as the app). `more` is laid over it."""
    sane: Sections = {
        "swarm": {"host": "web1", "workers": 2, "group_id": group},
        "worker": {"commit_interval": 0.2},
        "observer": {"port": 0},
    }
    return merged(sane, more or {})


@dataclass(frozen=True)
class Examination:
    """An answer of `swarmctl doctor --json`."""

    findings: list[dict[str, str]]
    code: int
    answer: dict[str, Any]

    @property
    def rules(self) -> set[str]:
        """What was found, warnings and errors."""
        return {each["rule"] for each in self.findings if each["severity"] != "info"}

    @property
    def remarks(self) -> set[str]:
        """What else was said."""
        return {each["rule"] for each in self.findings if each["severity"] == "info"}

    def evidence(self, rule: str) -> str:
        """All evidence of one rule."""
        return "\n".join(each["evidence"] for each in self.findings if each["rule"] == rule)


def examine(daemon: Daemon, *args: str, ours: bool = False) -> Examination:
    """`swarmctl doctor`; the contract of its answer and of its exit code is checked on the way. ours: the daemon's cgroup is the test's."""
    done = daemon.run("doctor", "--json", *args, within=90.0)
    assert done.stdout, done.stderr
    answer = json.loads(done.stdout)
    # What the tests' own container does when memory runs out is not what a scenario is about.
    findings = [each for each in answer["findings"] if ours or each["rule"] != "oom_group"]
    assert all({"rule", "severity", "what", "cause", "fix", "evidence"} <= set(each) for each in findings)
    assert done.returncode == int(any(each["severity"] != "info" for each in answer["findings"])), done.stderr
    return Examination(findings, done.returncode, answer)


@contextlib.contextmanager
def visitor(
    broker: Broker, group: str, topic: str, client_id: str, instance: str | None = None, **more: Any
) -> Iterator[Consumer]:
    """A member of a group that is none of our processes, and has its partitions."""
    held: list[Any] = []
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": group,
            "client.id": client_id,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "cooperative-sticky",
            "heartbeat.interval.ms": 200,
            "log_level": 0,
            **({"group.instance.id": instance} if instance else {}),
            **more,
        }
    )
    consumer.subscribe([topic], on_assign=lambda _, partitions: held.extend(partitions))

    def joined() -> bool:
        consumer.poll(0.1)
        return bool(held)

    try:
        wait_for(joined, 30.0, f"{client_id} to have partitions of {topic}")
        yield consumer
    finally:
        consumer.close()


@contextlib.contextmanager
def working(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Runs `work(done)` in a thread until the block is over."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=(done,))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def growing(broker: Broker, topic: str, each: int = 1, partition: int = -1) -> contextlib.AbstractContextManager[None]:
    """Messages that keep coming: `each` twenty times a second, at most."""

    def work(done: threading.Event) -> None:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 5, "log_level": 0})
        while not done.wait(0.05):
            for _ in range(each):
                producer.produce(topic, b"x", partition=partition)
            producer.flush(10.0)

    return working(work)


def until(condition: Callable[[], bool], what: str, within: float = 40.0) -> None:
    wait_for(condition, within, what)


def now_ms() -> int:
    return int(time.time() * 1000)
