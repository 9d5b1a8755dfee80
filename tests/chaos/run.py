"""A seeded run of accidents on a real broker, and a balance: was anything lost, and did a partition ever go backwards unexplained?

`make chaos SECONDS=60 SEED=1`. Workers are killed, terminated, stopped and continued, the supervisor is killed and started
again, the broker is restarted and killed, while a producer writes at a steady rate. At the end everything that was produced must
have been processed, and what was committed must be the end of each partition. Exit 1 if not. Not part of `make test`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.support.daemon import SWARMCTL
from tests.support.kafka import Broker
from tests.support.project import write_project

PARTITIONS = 8
APP = """
    import os
    import random
    import time
    from pathlib import Path

    from swarm import App, Consumer

    app = App("chaos")
    SEEN = Path(__file__).with_name("seen")


    @app.subscribe("accidents", max_messages=50)
    class Accidents(Consumer):
        def consume(self, messages):
            seen = os.open(SEEN, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                for message in messages:
                    os.write(seen, f"{message.partition} {message.offset}\\n".encode())
                    if random.random() < 0.0005:
                        raise ValueError("now and then a handler fails")
            finally:
                os.close(seen)
            time.sleep(0.01)
"""


class Swarm:
    """The daemon under accidents; started again when its supervisor was killed."""

    def __init__(self, folder: Path, bootstrap: str) -> None:
        self._log = folder / "log"
        self.config = write_project(
            folder,
            APP,
            {
                "swarm": {"app": "app:app", "workers": 3, "run_dir": str(folder / "run"), "shutdown_timeout": 10},
                "kafka": {"bootstrap.servers": bootstrap, "session.timeout.ms": 6000},
                "worker": {"commit_interval": 1.0},
                "supervision": {"report_timeout": 5.0, "poll_timeout": 8.0},
                "observer": {"port": 0},
                "log": {"format": "json"},
            },
        )
        self.stopped: list[int] = []
        """Pidfds of workers stopped for good: one whose supervisor is then killed cannot leave by itself."""
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen([str(SWARMCTL), "start", "--config", str(self.config)], stderr=log)

    def workers(self) -> list[int]:
        """Pids of the workers that have one; none while the supervisor does not answer."""
        asked = subprocess.run(
            [str(SWARMCTL), "status", "--json", "--config", str(self.config)], capture_output=True, check=False
        )
        if asked.returncode != 0:
            return []
        return [worker["pid"] for worker in json.loads(asked.stdout)["workers"] if worker["pid"]]

    def kill_supervisor(self) -> None:
        """kill -9, and a service manager that starts it again."""
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    def end(self) -> int:
        """TERM; returns the exit code."""
        self.process.terminate()
        code = self.process.wait(60)
        for pidfd in self.stopped:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        return code


def produce(bootstrap: str, enough: threading.Event, counts: list[int]) -> None:
    """About 1,500 messages a second, evenly over the partitions, until `enough`; all of them confirmed."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, "log_level": 2})
    number = 0
    while not enough.wait(0.01):
        for _ in range(16):
            partition = number % PARTITIONS
            producer.produce("accidents", b"x", partition=partition)
            counts[partition] += 1
            number += 1
        producer.poll(0)
    left = producer.flush(60)
    if left:
        raise SystemExit(f"{left} messages could not be produced: the run says nothing")


def accident(chance: random.Random, swarm: Swarm, broker: Broker) -> str:
    """One accident; returns what it was."""
    workers = swarm.workers()
    if not workers:
        return "nobody there"
    victim = chance.choice(workers)
    kind = chance.choices(
        ["kill", "term", "freeze", "stop for good", "broker restart", "broker kill", "supervisor kill", "backtraces"],
        [40, 15, 15, 5, 5, 5, 5, 10],
    )[0]
    match kind:
        case "kill":
            os.kill(victim, signal.SIGKILL)
        case "term":
            os.kill(victim, signal.SIGTERM)
        case "freeze":
            os.kill(victim, signal.SIGSTOP)
            time.sleep(chance.uniform(0.5, 3))
            os.kill(victim, signal.SIGCONT)
        case "stop for good":
            os.kill(victim, signal.SIGSTOP)
            swarm.stopped.append(os.pidfd_open(victim))
        case "broker restart":
            broker.restart()
        case "broker kill":
            broker.kill()
            time.sleep(2)
            broker.start()
        case "supervisor kill":
            swarm.kill_supervisor()
        case "backtraces":
            os.kill(swarm.process.pid, signal.SIGTTIN)
    return kind


def seen(folder: Path) -> collections.Counter[tuple[int, int]]:
    """How often each (partition, offset) was processed."""
    lines = (folder / "seen").read_text().splitlines() if (folder / "seen").exists() else []
    return collections.Counter((int(p), int(o)) for p, o in (line.split() for line in lines))


def run(seconds: float, seed: int) -> dict[str, Any]:
    """One run; returns its balance."""
    chance = random.Random(seed)
    accidents: collections.Counter[str] = collections.Counter()
    counts = [0] * PARTITIONS
    with tempfile.TemporaryDirectory(prefix="chaos-") as name, Broker() as broker:
        folder = Path(name)
        broker.create_topic("accidents", PARTITIONS)
        swarm = Swarm(folder, broker.bootstrap)
        enough = threading.Event()
        producer = threading.Thread(target=produce, args=(broker.bootstrap, enough, counts))
        producer.start()
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(chance.uniform(0.5, 3))
                try:
                    accidents[accident(chance, swarm, broker)] += 1
                except ProcessLookupError:
                    accidents["it had gone already"] += 1
            enough.set()
            producer.join()
            until = time.monotonic() + 120
            while len(seen(folder)) < sum(counts) and time.monotonic() < until:
                time.sleep(0.5)
        finally:
            enough.set()
            code = swarm.end()
        processed = seen(folder)
        committed = broker.committed("chaos")
        if len(processed) < sum(counts):
            kept = Path("build/chaos")
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "log", kept / f"seed-{seed}.log")
    return {
        "seed": seed,
        "accidents": dict(accidents),
        "produced": sum(counts),
        "lost": sum(counts) - len(processed),
        "processed twice": sum(times - 1 for times in processed.values()),
        "not committed": [p for p in range(PARTITIONS) if committed.get(("accidents", p)) != counts[p]],
        "exit": code,
    }


def main() -> int:
    """Exit 0 when nothing was lost and all was committed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    balance = run(options.seconds, options.seed)
    for key, value in balance.items():
        print(f"{key:<16}{value}")
    return 1 if balance["lost"] or balance["not committed"] or balance["exit"] else 0


if __name__ == "__main__":
    sys.exit(main())
