from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.image.conftest import Shop
from tests.support.waiting import wait_for

APP = """
    from swarm import App

    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass
"""

# Each worker leaves grandchildren behind, which end when the file `go` is there: their parent is PID 1 by then.
ORPHANS = (
    APP
    + """
    import os, time

    @app.after_fork
    def leave_orphans(worker):
        for _ in range(5):
            if os.fork() == 0:
                if os.fork() == 0:
                    while not os.path.exists("/tmp/go"):
                        time.sleep(0.01)
                os._exit(0)
            os.wait()
"""
)

STUBBORN = (
    APP
    + """
    import time

    @app.after_fork
    def never_come_back(worker):
        open(f"/tmp/stuck{worker}", "w").close()
        while True:
            time.sleep(0.1)
"""
)


def test_it_runs_without_root_on_a_root_that_is_read_only_and_ends_at_term(shop: Callable[..., Shop]) -> None:
    """PID 1 is the supervisor itself, as the image's user, with nothing to write to but its directories; TERM ends it with 0."""
    container = shop(APP)
    running = container.start()

    status = container.until_up()

    assert (status["pid"], status["run_dir"], status["state_dir"]) == (1, "/run/swarm", "/var/lib/swarm")
    wait_for(lambda: len(children(running.first)) == 3, 10.0, "observer and two workers", running.log)
    inside = [int(pid) for pid in everybody(running.first)]
    assert {ids("Uid", pid) for pid in inside} == {(container.container.uid,) * 4}
    assert b"[supervisor]" in Path(f"/proc/{running.first}/cmdline").read_bytes()
    assert ids("CapEff", running.first, base=16) == (0,)
    for place in ("/app/file", "/opt/swarm/file", "/etc/file"):
        assert "Read-only file system" in running.execute("python", "-c", f"open({place!r}, 'w')").stderr
    assert "started" in running.log()
    assert all(line.startswith("{") for line in running.log().splitlines()), "the log is not JSON"
    assert running.stop() == 0
    assert [pid for pid in inside if Path(f"/proc/{pid}").exists()] == []
    events = [json.loads(line)["event"] for line in running.log().splitlines() if line.startswith("{")]
    assert events[-1] == "swarm_stopped"


def test_pid_one_reaps_what_others_have_left_behind(shop: Callable[..., Shop]) -> None:
    """Orphans of an application end as children of PID 1, and none stays a zombie."""
    container = shop(ORPHANS)
    running = container.start()
    container.until_up()
    wait_for(lambda: len(children(running.first)) == 3 + 10, 10.0, "the orphans to be children of PID 1", running.log)

    assert running.execute("touch", "/tmp/go").returncode == 0

    wait_for(lambda: len(children(running.first)) == 3, 10.0, "all of them to be reaped", running.log)
    assert running.stop() == 0


@pytest.mark.parametrize(
    ("app", "settings", "code", "said"),
    [
        pytest.param("import nowhere", {}, 1, "nowhere", id="could-not-boot"),
        pytest.param(APP, {"swarm": {"workers": 0}}, 1, "workers", id="wrong-settings"),
    ],
)
def test_a_mistake_ends_it_with_one_and_says_which(
    app: str, settings: dict[str, dict[str, object]], code: int, said: str, shop: Callable[..., Shop]
) -> None:
    """What `docker logs` shows is the reason."""
    running = shop(app, settings).start()

    assert running.process.wait(30.0) == code
    assert said in running.log()


def test_a_worker_that_had_to_be_killed_is_the_exit_code(shop: Callable[..., Shop]) -> None:
    """2, after shutdown_timeout and before the runtime's own patience is over; its incident is in the volume."""
    container = shop(STUBBORN, {"swarm": {"shutdown_timeout": 1.0}})
    running = container.start()
    wait_for(container.status, 30.0, "the supervisor to answer", running.log)
    wait_for(lambda: running.execute("ls", "/tmp/stuck0", "/tmp/stuck1").returncode == 0, 10.0, "workers to be stuck")

    assert running.stop() == 2
    assert list((container.container.state / "incidents").iterdir())


def everybody(first: int) -> list[str]:
    """PID 1 and all below it, as the host numbers them."""
    found = [str(first)]
    for child in children(first):
        found += everybody(int(child))
    return found


def children(pid: int) -> list[str]:
    """Zombies too."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def ids(name: str, pid: int, base: int = 10) -> tuple[int, ...]:
    """A line of numbers of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return tuple(int(each, base) for each in line.split()[1:])
    raise AssertionError(name)
