"""One contestant as a process of its own: a bare program, or a swarm as a user would start it. Knows no figures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from swarm.config.schema import Settings
from tests.support.daemon import SWARMCTL, Daemon
from tests.support.ports import free_port
from tests.support.project import merged, toml
from tests.support.tether import tethered

HERE = Path(__file__).resolve().parent / "contestants"
PEERS = HERE.parents[1] / "build" / "peers"
"""Where `make peers` has put the others, each with its own virtual environment: their dependencies exclude each other."""


SECTIONS = frozenset(Settings.model_fields)
"""Of the settings that this version has."""


class Failed(Exception):
    """A contestant cannot run, or did not come to an end: the text says why."""


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
def program(
    name: str, environment: Mapping[str, str], peer: str = "", errors: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`contestants/NAME.py`, with the Python of a peer's virtual environment if one is named; ended, with all that it started, with
    the context. Raises Failed where the peer is not installed."""
    python = PEERS / peer / "bin" / "python" if peer else Path(sys.executable)
    if not python.exists():
        raise Failed("not installed (make peers says why)")
    with open(errors or os.devnull, "ab") as stderr:
        process = subprocess.Popen(
            tethered([str(python), str(HERE / f"{name}.py")], signal.SIGKILL),
            env={**os.environ, **environment, "PYTHONPATH": str(HERE)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if errors else None,
            stderr=stderr if errors else None,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def result(path: Path, within: float, runs: Callable[[], bool], story: Callable[[], str]) -> dict[str, Any]:
    """What a contestant's tally has written; blocks until it is there. Raises Failed where it ended before, or takes too long."""
    deadline = time.monotonic() + within
    while not path.exists():
        if not runs():
            raise Failed(f"it ended by itself: {_last_line(story())}")
        if time.monotonic() > deadline:
            raise Failed(f"not through within {within:g} s: {_last_line(story())}")
        time.sleep(0.02)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def bare_properties(same: Mapping[str, Any]) -> dict[str, Any]:
    """The swarm's, but for what only its runtime can live with: it resolves the start of a group itself."""
    return {key: value for key, value in same.items() if key != "group.instance.id"} | {"auto.offset.reset": "earliest"}


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
