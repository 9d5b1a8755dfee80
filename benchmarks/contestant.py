"""One contestant as a process of its own: a bare program, or a swarm as a user would start it. Knows no figures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.daemon import SWARMCTL, Daemon
from tests.support.ports import free_port
from tests.support.project import merged, toml
from tests.support.tether import tethered
from tests.support.waiting import wait_for

HERE = Path(__file__).resolve().parent / "contestants"


@contextmanager
def folder() -> Iterator[Path]:
    """Short, because of the Unix socket in it."""
    path = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def swarm(
    app: str,
    place: Path,
    bootstrap: str,
    settings: Mapping[str, Mapping[str, Any]],
    environment: Mapping[str, str],
) -> Iterator[Daemon]:
    """A swarm of `contestants/APP.py` with the default settings but for `settings`; ended with the context."""
    config, chosen = _configured(app, place, bootstrap, settings)
    with _environment(environment):
        daemon = Daemon(config, chosen).start()
    try:
        yield daemon
    finally:
        if daemon.exit_code is None:
            daemon.stop()
        daemon.close()


def properties(app: str, place: Path, bootstrap: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The librdkafka properties that the swarm of `contestants/APP.py` uses, as `swarmctl check -v` says."""
    config, _ = _configured(app, place, bootstrap, {})
    with _environment(environment):
        answer = json.loads(
            subprocess.run(
                [str(SWARMCTL), "check", "-v", "--json", "--config", str(config)],
                capture_output=True,
                check=True,
                text=True,
            ).stdout
        )
    (found,) = answer["kafka"].values()
    return dict(found)


@contextmanager
def program(name: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`contestants/NAME.py`; ended with the context."""
    process = subprocess.Popen(
        tethered([sys.executable, str(HERE / f"{name}.py")], signal.SIGKILL),
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def result(path: Path, within: float = 300.0) -> dict[str, Any]:
    """What a contestant's tally has written; blocks until it is there."""
    wait_for(path.exists, within, f"the contestant to be through: {path.name}")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _configured(
    app: str, place: Path, bootstrap: str, settings: Mapping[str, Mapping[str, Any]]
) -> tuple[Path, dict[str, dict[str, Any]]]:
    project = Path(tempfile.mkdtemp(dir=place, prefix="p"))
    defaults: dict[str, dict[str, Any]] = {
        "swarm": {
            "app": f"{app}:app",
            "name": "bench",
            "group_id": project.name,
            "workers": 1,
            "run_dir": project / "run",
            "state_dir": project / "state",
        },
        "kafka": {"bootstrap.servers": bootstrap},
        "observer": {"port": free_port()},
    }
    chosen = merged(defaults, settings)
    config = project / "swarm.toml"
    config.write_text(toml(chosen))
    return config, chosen


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Ours with `more`, and the contestants importable: a daemon inherits it when it is started."""
    before = dict(os.environ)
    os.environ.update(more, PYTHONPATH=str(HERE))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
