"""Fixtures: the image, built once for the run, and containers of applications' images upon it. Root, buildah and systemd-nspawn."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import image
from tests.support.ports import free_port
from tests.support.project import Sections, merged, write_project
from tests.support.waiting import wait_for

NO_BROKER = "127.0.0.1:1"


@pytest.fixture(scope="session")
def built() -> str:
    """The name of our image."""
    image.build()
    return "kafka-swarm"


class Shop:
    """An application's image and its one container."""

    def __init__(self, folder: Path, container: image.Container) -> None:
        self._folder = folder
        self.container = container
        self.running: image.Running | None = None

    def start(self, environment: Mapping[str, str] | None = None, groups: Sequence[Path] = ()) -> image.Running:
        log = self._folder / "log"
        self.running = self.container.start(
            log, {"SWARM_OBSERVER__PORT": str(free_port()), **(environment or {})}, groups
        )
        return self.running

    def status(self) -> dict[str, Any] | None:
        """As the health check asks for it; None where it fails."""
        assert self.running is not None
        if not self.running.first:
            return None
        [check, *command] = self.container.config["Healthcheck"]["Test"]
        assert check == "CMD"
        done = self.running.execute(*command)
        status: dict[str, Any] | None = json.loads(done.stdout) if done.returncode == 0 else None
        return status

    def until_up(self) -> dict[str, Any]:
        """Waits until every worker has reported."""
        running = self.running
        assert running is not None

        def up() -> dict[str, Any] | None:
            status = self.status()
            return status if status and all(each["report_age"] is not None for each in status["workers"]) else None

        return wait_for(
            up,
            30.0,
            "the container to be up",
            running.log,
            lambda: "" if running.process.poll() is None else "it has ended",
        )


@pytest.fixture
def shop(built: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Shop]]:
    """`shop(app, settings=None)` -> a `Shop` that is built upon our image and not started; removed with the test."""
    made: list[Shop] = []

    def make(app: str, settings: Sections | None = None) -> Shop:
        defaults: Sections = {
            "swarm": {"app": "app:app", "name": "shop", "workers": 2},
            "kafka": {"bootstrap.servers": NO_BROKER},
        }
        folder = tmp_path / f"app{len(made)}"
        write_project(folder, textwrap.dedent(app), merged(defaults, settings or {}))
        name = f"shop-{os.getpid()}-{len(made)}"
        image.build_upon(folder, name)
        state = tmp_path / f"state{len(made)}"
        made.append(Shop(tmp_path, image.Container(name, state)))
        return made[-1]

    yield make
    for each in made:
        if each.running is not None:
            each.running.end()
        each.container.remove()
