"""A user's mistake: `start` says in a few lines what, where, why and how to mend it, exits with 1, and leaves nothing running."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon

NO_BROKER = "127.0.0.1:1"  # nobody listens there: nothing here gets as far as asking
MOST_LINES = 6

GOOD = """
    from swarm import App

    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass
"""

RAISES = """
    def broken():
        from swarm import App
        1 / 0

    broken()
"""


@dataclass(frozen=True)
class Mistake:
    """An app, settings, and what the message has to name; `frames`: it may show the application's own traceback."""

    name: str
    names: tuple[str, ...]
    app: str = GOOD
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    frames: bool = False


MISTAKES = (
    Mistake("unknown setting", ("swarm.toml", "swarm.worker", "workers"), settings={"swarm": {"worker": 3}}),
    Mistake("mistyped setting", ("swarm.toml", "swarm.workers", '"many"'), settings={"swarm": {"workers": "many"}}),
    Mistake("unknown property", ("swarm.toml", "kafka.fetch.bytes"), settings={"kafka": {"fetch.bytes": 1}}),
    Mistake(
        "clashing properties",
        ("swarm.toml", "kafka.session.timeout.ms", "max.poll.interval.ms"),
        settings={"kafka": {"session.timeout.ms": 60000, "max.poll.interval.ms": 30000}},
    ),
    Mistake(
        "no such module", ("shop.app:app", "swarm.app", "no module 'shop'"), settings={"swarm": {"app": "shop.app:app"}}
    ),
    Mistake("no such attribute", ("'application'", "app"), settings={"swarm": {"app": "app:application"}}),
    Mistake("app raises", ("app:app", "ZeroDivisionError", 'app.py", line 3', "in broken"), app=RAISES, frames=True),
    Mistake("app exits", ("app:app", "SystemExit"), app="import sys\nsys.exit(3)", frames=True),
    Mistake("syntax error", ("app:app", 'app.py", line 1'), app="def (", frames=True),
    Mistake("empty app", ("App('shop')", "no subscription"), app='from swarm import App\napp = App("shop")'),
    Mistake(
        "topic twice",
        ("orders", "subscribed twice", "group="),
        app=GOOD + '\n    @app.each("orders")\n    def again(message):\n        pass\n',
    ),
    Mistake(
        "thread at import",
        ("refresher", "after_fork", "preload = false"),
        app=GOOD
        + "\n    import threading\n    threading.Thread(target=threading.Event().wait, name='refresher').start()\n",
    ),
    Mistake(
        "client at import",
        ("rdk:", "after_fork", "preload = false"),
        app=GOOD
        + "\n    from confluent_kafka import Producer\n    producer = Producer({'bootstrap.servers': '127.0.0.1:1'})\n",
    ),
    Mistake(
        "before_fork raises",
        ("prepare", "RuntimeError", "no licence"),
        app=GOOD + "\n    @app.before_fork\n    def prepare():\n        raise RuntimeError('no licence')\n",
        frames=True,
    ),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_start_refuses(mistake: Mistake, swarm_project: Callable[..., Daemon]) -> None:
    """One message, no traceback but the application's own, nothing forked, nothing left in the run directory."""
    daemon = swarm_project(mistake.app, mistake.settings, bootstrap=NO_BROKER)

    refused = daemon.run("start")

    assert_refused(refused, *mistake.names, frames=mistake.frames)
    assert not (Path(daemon.settings["swarm"]["run_dir"]) / "swarm.pid").exists()
    assert not (Path(daemon.settings["swarm"]["run_dir"]) / "control.sock").exists()


def test_run_directory_that_cannot_be_used(swarm_project: Callable[..., Daemon], full_disk: Path) -> None:
    """Below a file, too long for a socket, on a full disk: the directory is named, and the setting that changes it."""
    daemon = swarm_project(GOOD, bootstrap=NO_BROKER)
    file = daemon.folder / "file"
    file.touch()
    for path, why in (
        (file / "run", "not a directory"),
        (daemon.folder / ("long" * 30), "107"),
        (full_disk / "run", "no space left"),
    ):
        refused = daemon.run("start", "-o", f"swarm.run_dir={path}")

        assert_refused(refused, str(path), "swarm.run_dir")
        assert why in refused.stderr.lower()


@pytest.mark.parametrize("name", ["thread at import", "client at import"])
def test_threads_at_import_are_welcome_without_preload(name: str, swarm_project: Callable[..., Daemon]) -> None:
    """`preload = false`, which the refusal advises, helps: each worker imports the app itself."""
    [mistake] = [each for each in MISTAKES if each.name == name]
    daemon = swarm_project(mistake.app, {"swarm": {"preload": False}}, bootstrap=NO_BROKER)

    daemon.start()
    daemon.wait_for(
        lambda: all(worker["report_age"] is not None for worker in daemon.workers()), what="workers that are up"
    )

    assert daemon.events("worker_exited") == []
    assert daemon.stop() == 0


def assert_refused(refused: subprocess.CompletedProcess[str], *names: str, frames: bool = False) -> None:
    """Exit 1, all names are in the message, which is short and holds no frame of ours or of Python's import."""
    said = refused.stderr
    assert refused.returncode == 1, said
    assert refused.stdout == ""
    assert [name for name in names if name not in said] == [], said
    message = said if not frames else re.split(r"^(Traceback|  File)", said, maxsplit=1, flags=re.MULTILINE)[0]
    assert len(message.splitlines()) <= MOST_LINES, said
    assert frames or "Traceback" not in said
    files = re.findall(r'File "([^"]+)"', said)
    assert [file for file in files if Path(file).name != "app.py"] == [], said


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without a free byte, with an empty directory `run`. Only root can make one."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system to fill it")
    place = tmp_path / "full"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k,mode=755", "none", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        (place / "run").mkdir(mode=0o700)
        with (place / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                pass
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
