"""The example's swarm, as somebody at a terminal handles it: `swarmctl start`, `status --json`, `stop`. Knows none of its insides."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

SWARMCTL = Path(sys.executable).with_name("swarmctl")
CONFIG = Path(__file__).with_name("swarm.toml")


class DaemonError(Exception):
    """The swarm did not do what the example waits for; the text ends with its last log lines."""


class Daemon:
    """`swarmctl start` with the settings beside this file, and `options` over them; its socket and its log are in `folder`.

    `folder` has to be a short path: that of a Unix socket may have 107 bytes.
    """

    def __init__(self, folder: Path, options: Mapping[str, str], environment: Mapping[str, str]) -> None:
        places = {"swarm.run_dir": str(folder / "run"), "swarm.state_dir": str(folder / "state")}
        self._options = [word for key, value in {**places, **options}.items() for word in ("-o", f"{key}={value}")]
        self._environment = {**os.environ, **environment}
        self._log = folder / "log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command("start"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # a ^C is for the example, which then stops the swarm
            )

    def workers(self) -> list[dict[str, Any]]:
        """The workers of `swarmctl status --json`; none while it does not answer yet."""
        done = self._run("status", "--json")
        workers: list[dict[str, Any]] = json.loads(done.stdout)["workers"] if done.returncode == 0 else []
        return workers

    def wait_for(self, condition: Callable[[], T | None], what: str, within: float = 60.0, every: float = 0.005) -> T:
        """Blocks until `condition()` is truthy and returns its value. DaemonError after `within` seconds or the swarm's end."""
        deadline = time.monotonic() + within
        while True:
            if found := condition():
                return found
            if self._process.poll() is not None:
                raise DaemonError(f"the swarm has ended, exit code {self._process.returncode}.\n{self.last_lines()}")
            if time.monotonic() > deadline:
                raise DaemonError(f"waited {within:g} s in vain for {what}.\n{self.last_lines()}")
            time.sleep(every)

    def stop(self) -> int:
        """`swarmctl stop`; blocks until it has ended and returns the exit code of `start`: 0 where nobody had to be killed."""
        self._run("stop")
        return self._process.wait(60)

    def close(self) -> None:
        """Ends it, if need be without a word."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(40)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def last_lines(self, count: int = 20) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-count:])

    def _run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(command, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=90,
            check=False,
        )

    def _command(self, command: str, *arguments: str) -> list[str]:
        return [str(SWARMCTL), command, "--config", str(CONFIG), *self._options, *arguments]
