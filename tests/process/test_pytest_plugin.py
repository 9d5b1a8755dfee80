"""The pytest plugin as a user has it: a project of its own, whose tests run the application under a real swarm with accidents."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

from tests.support.kafka import Broker

APP = """
    import time

    from swarm import App, Consumer

    app = App("right")


    @app.subscribe("orders", max_messages=10)
    class Right(Consumer):
        def consume(self, messages):
            for message in messages:
                time.sleep(0.002)
                header = {"source": f"{message.partition} {message.offset}"}
                self.producer.produce("receipts", message.raw, headers=header)
"""

WRONG = """
    import queue
    import threading
    import time

    from swarm import App, Consumer

    app = App("wrong")
    todo = queue.Queue()


    @app.after_fork
    def begin(worker):
        threading.Thread(target=work, daemon=True).start()


    def work():
        while True:
            message = todo.get()
            time.sleep(0.02)
            app.producer.produce("receipts", message.raw, headers={"source": f"{message.partition} {message.offset}"})


    @app.subscribe("orders")
    class Wrong(Consumer):
        \"\"\"Says that it is done when it has only begun.\"\"\"

        def consume(self, messages):
            for message in messages:
                todo.put(message)
"""

TESTS = """
    import pytest


    def source(message):
        partition, offset = dict(message.headers())["source"].split()
        return "orders", int(partition), int(offset)


    @pytest.fixture(scope="module", autouse=True)
    def topics(swarm_broker):
        swarm_broker.create_topic("orders", 4)
        swarm_broker.create_topic("receipts", 1)
        swarm_broker.produce("orders", [(str(n), "espresso") for n in range(400)])


    def test_shop(swarm_daemon):
        swarm = swarm_daemon("shop:app", {"swarm": {"workers": 2}})
        swarm.expect_outputs("receipts", source)
        swarm.wait_for_event("offsets_committed")
        ACCIDENTS
        swarm.wait_until_consumed()
        assert swarm.stop() == 0
"""


def run(
    folder: Path, app: str, accidents: str, *options: str, topics: tuple[str, str] = ("orders", "receipts")
) -> subprocess.CompletedProcess[str]:
    """pytest on a project of one application and one test, without anything of ours but the plugin."""
    tests = folder / "tests"
    tests.mkdir()
    orders, receipts = topics
    for name, text in (("shop.py", app), ("test_shop.py", TESTS.replace("ACCIDENTS", accidents))):
        named = text.replace('"orders"', repr(orders)).replace('"receipts"', repr(receipts))
        (tests / name).write_text(textwrap.dedent(named))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SWARM_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(tests), *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_application_that_is_right_survives_every_accident(tmp_path: Path) -> None:
    """kill -9, a rebalance, a freeze, a broker that is away: repeated, where it has to be, and nothing lost."""
    accidents = "; ".join(
        f"swarm.{each}" for each in ("kill()", "rebalance()", "freeze()", "thaw()", "restart_broker(0.5)")
    )

    done = run(tmp_path, APP, accidents)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_it_does_so_on_a_kafka_that_runs(tmp_path: Path, broker: Broker) -> None:
    """`--swarm-bootstrap`: static seats and fencing are those of production, with every accident that needs no broker of one's own."""
    name = uuid.uuid4().hex[:8]
    accidents = "; ".join(f"swarm.{each}" for each in ("kill()", "rebalance()", "freeze()", "thaw()"))
    topics = (f"plugin-{name}-orders", f"plugin-{name}-receipts")

    done = run(tmp_path, APP, accidents, "--swarm-bootstrap", broker.bootstrap, topics=topics)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_an_application_that_marks_before_it_works_is_found_out(tmp_path: Path) -> None:
    """After a kill -9 some of what it said to be done has left no trace: the test fails and says which messages."""
    done = run(tmp_path, WRONG, "swarm.kill()")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "invariants that did not hold" in done.stdout
    assert "lost: orders/" in done.stdout
    assert "said to be done, and not in the outputs" in done.stdout


def test_the_plugin_imports_no_kafka_until_it_is_asked_for(tmp_path: Path) -> None:
    """Whoever has the package installed pays nothing for it in tests that do not use it."""
    (tmp_path / "test_nothing.py").write_text(
        "import sys\n\n\ndef test_nothing():\n    assert 'swarm.testing.plugin' in sys.modules\n"
        "    assert 'confluent_kafka' not in sys.modules\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
