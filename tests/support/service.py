"""One instance of our unit in a booted machine: `systemctl`, the journal, what systemd was told. Knows none of the swarm's insides."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from swarm.wording import counted
from tests.support.machine import Machine
from tests.support.ports import free_port
from tests.support.project import Sections, merged, toml
from tests.support.waiting import wait_for

T = TypeVar("T")

# Handlers record what they see with `saw(message)`, and wait for a file that the test makes with `wait_for_go()`.
_BEGIN = """
    import os, time
    from swarm import App

    STATE = os.environ["STATE_DIRECTORY"]
    app = App("shop")

    def saw(message, what="seen"):
        line = f"{what} {message.partition} {message.offset} {os.getpid()}\\n"
        file = os.open(f"{STATE}/seen", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, line.encode())
        os.close(file)

    def wait_for_go():
        while not os.path.exists(f"{STATE}/go"):
            time.sleep(0.02)

"""


class Service:
    """swarm@NAME.service of this machine."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self.unit = f"swarm@{name}.service"

    def install(self, app: str, settings: Sections, unit: str = "") -> None:
        """Write the application, its settings, and what `systemctl edit` would change in the unit's [Service]."""
        self.write_app(app)
        defaults: Sections = {
            "swarm": {
                "app": "app:app",
                "name": self.name,
                "group_id": self.name,
                "workers": 2,
                "shutdown_timeout": 10.0,
            },
            "log": {"format": "json"},
            "observer": {"port": free_port()},  # the machine shares the host's network
        }
        self.machine.write(f"/etc/swarm/{self.name}/swarm.toml", toml(merged(defaults, settings)))
        if unit:
            self.machine.write(
                f"/etc/systemd/system/{self.unit}.d/override.conf", f"[Service]\n{textwrap.dedent(unit)}"
            )
        self.machine.systemctl("daemon-reload")

    def write_app(self, app: str) -> None:
        self.machine.write(f"/etc/swarm/{self.name}/app.py", textwrap.dedent(_BEGIN) + textwrap.dedent(app))

    def systemctl(self, command: str) -> None:
        self.machine.systemctl(command, self.unit)

    def show(self, name: str) -> str:
        """A property as systemd has it."""
        return self.machine.show(self.unit, name)

    @property
    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    def status(self) -> dict[str, Any]:
        """`swarmctl status --json`, as root; raises AssertionError where no daemon answers."""
        config = f"/etc/swarm/{self.name}/swarm.toml"
        status: dict[str, Any] = json.loads(self.machine.run("swarmctl", "status", "--json", "--config", config))
        return status

    def worker_pids(self) -> list[int]:
        return [worker["pid"] for worker in self.status()["workers"]]

    def processes(self) -> set[int]:
        """All that run as the unit's user with this swarm's title, wherever in the tree of processes they hang."""
        found = set()
        for line in self.machine.run("ps", "-u", "swarm", "-o", "pid=,args=", check=False).splitlines():
            pid, _, title = line.strip().partition(" ")
            if title.startswith(f"swarm: {self.name} "):
                found.add(int(pid))
        return found

    def signal(self, name: str, pid: int) -> None:
        self.machine.run("kill", "-s", name, str(pid))

    def go(self) -> None:
        """What the handlers wait for."""
        self.machine.write(f"/var/lib/swarm/{self.name}/go", "")

    def seen(self, what: str = "seen") -> list[tuple[int, int]]:
        """(partition, offset) of each message that a handler saw, in the order in which they did."""
        file = self.machine.path(f"/var/lib/swarm/{self.name}/seen")
        lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        return [(int(partition), int(offset)) for said, partition, offset, _ in lines if said == what]

    def log(self, *more: str) -> list[dict[str, Any]]:
        """What the swarm itself has logged, with the journal's `PRIORITY` added."""
        found = []
        for entry in self.machine.journal(self.unit, *more):
            text = entry.get("MESSAGE")
            if entry.get("_PID") != "1" and isinstance(text, str) and text.startswith("{"):
                found.append({**json.loads(text), "PRIORITY": int(entry["PRIORITY"])})
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["event"] == name]

    def told(self, what: str) -> int:
        """How often systemd was told this by the main process (`READY=1`, or the beginning of an assignment)."""
        said = re.compile(r"Got notification message from PID \d+ \((.*)\)$")
        found = [said.search(str(entry.get("MESSAGE"))) for entry in self.machine.journal(self.unit, "_PID=1")]
        return sum(1 for each in found if each and any(word.startswith(what) for word in each[1].split(", ")))

    def wait_for(self, condition: Callable[[], T | None], what: str, within: float = 40.0) -> T:
        return wait_for(condition, within, what, self.story)

    def until_running(self, workers: int = 2) -> list[int]:
        """Waits for STATUS to say so; returns the workers' pids."""
        wanted = f"running: {workers} of {counted(workers, 'worker')} running"
        self.wait_for(lambda: self.show("StatusText").startswith(wanted), wanted)
        return self.worker_pids()

    def story(self) -> str:
        """The journal's end, for a failure's message."""
        text = self.machine.run("journalctl", "-q", "-p", "info", "-n", "60", "-o", "short-precise", "-u", self.unit)
        return "\n".join(line[:300] for line in text.splitlines())

    def state(self) -> Path:
        """The state directory as the host sees it."""
        return self.machine.path(f"/var/lib/swarm/{self.name}")
