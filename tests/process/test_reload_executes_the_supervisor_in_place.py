"""The supervisor's re-execution: what may go wrong before it, during it and after it. No broker: it is no matter of Kafka's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import SWARMCTL, Daemon
from tests.support.manager import ServiceManager
from tests.support.tether import tethered

NO_BROKER = "127.0.0.1:1"

# `loads` tells who imported it; what the files `in-the-supervisor` and `elsewhere` hold, is done in the one and in all others.
APP = """
    import os, threading, time
    from pathlib import Path
    from swarm import App
    from swarm.events import WorkerExited

    VERSION = "first"
    HERE = Path(__file__).parent
    RUN_DIR = Path("{run_dir}")
    SUPERVISOR = (RUN_DIR / "swarm.pid").read_text().strip() == str(os.getpid())
    app = App("shop")

    with open(HERE / "loads", "a") as file:
        file.write(f"{{'supervisor' if SUPERVISOR else 'other'}} {{VERSION}}\\n")
    if SUPERVISOR and (HERE / "in-the-supervisor").exists():
        exec((HERE / "in-the-supervisor").read_text())
    if not SUPERVISOR and (HERE / "elsewhere").exists():
        exec((HERE / "elsewhere").read_text())

    @app.subscribe("orders")
    def handle(messages):
        pass

    @app.on(WorkerExited)
    def hear(event):
        (HERE / "heard").touch()

    @app.after_fork
    def note(worker):
        with open(HERE / "forks", "a") as file:
            file.write(f"{{worker}} {{VERSION}} {{os.environ.get('GREETING')}} {{os.getcwd()}}\\n")
"""

Swarm = Callable[..., Daemon]


@pytest.fixture
def shop(swarm_project: Callable[..., Daemon]) -> Swarm:
    """`shop(settings)`: the application above."""

    def make(settings: dict[str, dict[str, Any]] | None = None) -> Daemon:
        daemon = swarm_project("", settings or {}, bootstrap=NO_BROKER)
        text = textwrap.dedent(APP.format(run_dir=daemon.settings["swarm"]["run_dir"]))
        (daemon.folder / "app.py").write_text(text)
        return daemon

    return make


def lines(daemon: Daemon, name: str) -> list[str]:
    path = daemon.folder / name
    return path.read_text().splitlines() if path.exists() else []


def deploy(daemon: Daemon, version: str) -> None:
    app = daemon.folder / "app.py"
    text = app.read_text()
    before = text.partition('VERSION = "')[2].partition('"')[0]
    app.write_text(text.replace(f'"{before}"', f'"{version}"'))


def set_up(daemon: Daemon) -> Daemon:
    """Wait until its workers have reported."""
    daemon.wait_for(lambda: all(w["report_age"] is not None for w in daemon.workers()), what="its workers")
    return daemon


def pids(daemon: Daemon) -> list[int]:
    return [worker["pid"] for worker in daemon.workers()]


def executed(daemon: Daemon, version: str) -> None:
    """Wait until a worker runs this version."""
    daemon.wait_for(
        lambda: any(line.split()[1] == version for line in lines(daemon, "forks")), what=f"a worker of the {version}"
    )


def children(pid: int) -> dict[int, str]:
    """Children of a process and their states."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid:
            found[int(stat.parent.name)] = state
    return found


def test_a_worker_that_dies_and_a_stop_that_comes_while_it_executes_are_heard_by_the_successor(shop: Swarm) -> None:
    """Nothing is reaped by nobody and no signal is lost: not even those that come while the new code is being loaded."""
    daemon = set_up(shop().start())
    first = pids(daemon)
    deploy(daemon, "second")
    (daemon.folder / "in-the-supervisor").write_text("while not (HERE / 'go').exists(): time.sleep(0.01)")

    daemon.signal(signal.SIGHUP)
    daemon.wait_for(lambda: "supervisor second" in lines(daemon, "loads"), what="the successor")
    os.kill(first[1], signal.SIGKILL)
    daemon.wait_for(lambda: children(daemon.pid).get(first[1]) == "Z", what="its death")
    (daemon.folder / "go").touch()
    (died,) = daemon.wait_for_event("worker_exited", pid=first[1])
    executed(daemon, "second")
    daemon.wait_for(lambda: "Z" not in children(daemon.pid).values(), what="no zombie")

    (daemon.folder / "go").unlink()
    deploy(daemon, "third")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for(lambda: "supervisor third" in lines(daemon, "loads"), what="the next successor")
    daemon.signal(signal.SIGTERM)
    (daemon.folder / "go").touch()
    daemon.wait_for_event("swarm_stopped")

    assert (died["reason"], died["signal"]) == ("killed", "SIGKILL")
    assert daemon.stop() == 0 if daemon.exit_code is None else daemon.exit_code == 0


def test_code_that_loads_only_in_the_rehearsal_leaves_the_old_workers_supervised_until_a_good_reload(
    shop: Swarm,
) -> None:
    """Whatever it does to the supervisor's process, threads included: the old workers go on, status says why, and the way is open."""
    daemon = set_up(shop().start())
    daemon.expect_errors("reload_refused")
    first = pids(daemon)
    deploy(daemon, "second")
    (daemon.folder / "in-the-supervisor").write_text(
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start(); raise RuntimeError('not here')"
    )

    refused = daemon.run("reload")
    status = daemon.status()
    threads = len(os.listdir(f"/proc/{daemon.pid}/task"))
    os.kill(first[0], signal.SIGKILL)  # it is restarted all the same, and loads the app by itself
    daemon.wait_for_event("worker_started", worker=0, count=2)
    set_up(daemon)
    (daemon.folder / "in-the-supervisor").unlink()
    mended = daemon.run("reload", "--no-wait")
    executed(daemon, "second")
    daemon.wait_for(lambda: daemon.status()["reload_error"] is None, what="no error")
    after = daemon.status()
    assert daemon.stop() == 0

    assert refused.returncode == 1
    assert "RuntimeError: not here" in refused.stderr
    assert "RuntimeError: not here" in status["reload_error"]
    assert [worker["pid"] for worker in status["workers"]] == first
    assert threads == 1
    assert mended.returncode == 0
    assert first[0] not in [worker["pid"] for worker in after["workers"]]


def test_a_rehearsal_that_hangs_hinders_neither_status_nor_a_newer_reload_nor_a_stop(shop: Swarm) -> None:
    """It is killed with all that it has started, however much it prints; the newer code is tried instead."""
    daemon = set_up(shop().start())
    first = pids(daemon)
    (daemon.folder / "elsewhere").write_text(
        "import subprocess\n"
        "subprocess.Popen(['sleep', '600'])\n"
        "while True:\n    print('x' * 100000, flush=True); time.sleep(0.01)\n"
    )
    waiting = subprocess.Popen(
        tethered([str(SWARMCTL), "reload", "--config", str(daemon.config)], signal.SIGTERM),
        stderr=subprocess.PIPE,
        text=True,
    )
    loads = len(lines(daemon, "loads"))
    daemon.wait_for(lambda: len(lines(daemon, "loads")) > loads, what="the rehearsal")
    meanwhile = daemon.status()
    (daemon.folder / "elsewhere").write_text("raise RuntimeError('broken too')")
    daemon.expect_errors("reload_refused")
    daemon.signal(signal.SIGHUP)
    _, said = waiting.communicate(timeout=60)

    (daemon.folder / "elsewhere").write_text("while True: time.sleep(1)")
    loads = len(lines(daemon, "loads"))
    daemon.signal(signal.SIGHUP)
    daemon.wait_for(lambda: len(lines(daemon, "loads")) > loads, what="another rehearsal")
    assert daemon.stop() == 0  # nothing is left of it: see Daemon.close

    assert "new code" in meanwhile["under_way"]
    assert [worker["pid"] for worker in meanwhile["workers"]] == first
    assert waiting.returncode == 1
    assert "broken too" in said
    assert "xxx" not in said


def test_code_that_does_not_load_in_time_is_refused_in_the_rehearsal_and_in_the_successor(shop: Swarm) -> None:
    """`supervision.reload_timeout`: what was started for it is gone, the old workers go on, and whoever asked is told."""
    daemon = set_up(shop({"supervision": {"reload_timeout": 4.0}}).start())
    daemon.expect_errors("reload_refused")
    first, hangs = pids(daemon), "while True: time.sleep(0.01)"
    (daemon.folder / "elsewhere").write_text(hangs)
    in_rehearsal = daemon.run("reload")
    (daemon.folder / "elsewhere").unlink()
    (daemon.folder / "in-the-supervisor").write_text(hangs)
    in_successor = daemon.run("reload")
    status, left = daemon.status(), sorted(children(daemon.pid).values())
    (daemon.folder / "in-the-supervisor").unlink()
    deploy(daemon, "second")
    mended = daemon.run("reload", "--no-wait")
    executed(daemon, "second")
    assert daemon.stop() == 0

    for refused in (in_rehearsal, in_successor):
        assert refused.returncode == 1
        assert "did not load within 4 s" in refused.stderr
    assert "reload_timeout" in in_rehearsal.stderr
    assert "did not load within 4 s" in status["reload_error"]
    assert [worker["pid"] for worker in status["workers"]] == first
    assert left in (["S"] * 3, ["S"] * 4), "two workers, the observer, and the listeners of code that is loaded"
    assert mended.returncode == 0


def test_a_program_that_cannot_be_executed_leaves_the_swarm_as_it_was(shop: Swarm, tmp_path: Path) -> None:
    """The interpreter went away after the rehearsal: refused and said; the swarm is supervised on, and a later reload works."""
    daemon = shop()
    usual = Path(sys.executable).parent.parent
    own = tmp_path / "venv"
    (own / "bin").mkdir(parents=True)
    (own / "lib").symlink_to(usual / "lib")
    (own / "pyvenv.cfg").write_text((usual / "pyvenv.cfg").read_text())
    interpreter, gone = own / "bin" / "python", own / "bin" / "gone"
    interpreter.symlink_to(Path(sys.executable).resolve())
    started = subprocess.run(
        [str(interpreter), str(SWARMCTL), "start", "--detach", "--config", str(daemon.config)],
        env=daemon._environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert started.returncode == 0, started.stderr
    set_up(daemon)
    first = pids(daemon)
    (daemon.folder / "elsewhere").write_text(f"if Path('{interpreter}').exists(): os.rename('{interpreter}', '{gone}')")

    refused = daemon.run("reload")
    status = daemon.status()
    os.kill(first[0], signal.SIGKILL)
    daemon.wait_for(lambda: pids(daemon)[0] not in (None, first[0]), what="a successor of the worker that was killed")
    after = set_up(daemon).status()
    daemon.wait_for((daemon.folder / "heard").exists, what="the listener, which was started anew")
    (daemon.folder / "elsewhere").unlink()
    gone.rename(interpreter)
    deploy(daemon, "second")
    mended = daemon.run("reload", "--no-wait")
    executed(daemon, "second")
    daemon.wait_for(lambda: daemon.status()["reload_error"] is None, what="no error")
    stopped = daemon.run("stop")

    assert refused.returncode == 1
    assert "the program could not be executed: No such file or directory" in refused.stderr
    assert "could not be executed" in status["reload_error"]
    assert [worker["pid"] for worker in status["workers"]] == first
    assert [worker["pid"] for worker in after["workers"]][1] == first[1]
    assert [each for each in status["findings"] if each["rule"] == "listener_fails"] == []
    assert mended.returncode == 0
    assert stopped.returncode == 0


def test_what_a_reload_cannot_change_is_refused_and_changes_nothing(shop: Swarm, tmp_path: Path) -> None:
    """Name, host and places: running workers and commands rely on them."""
    daemon = set_up(shop({"swarm": {"host": "here"}}).start())
    daemon.expect_errors("reload_refused")
    first, text = pids(daemon), daemon.config.read_text()
    changes = {
        "swarm.name": ('"name" = "shop"', '"name" = "other"'),
        "swarm.host": ('"here"', '"there"'),
        "swarm.state_dir": (str(daemon.settings["swarm"]["state_dir"]), str(tmp_path / "elsewhere")),
    }
    answers = {}
    for setting, change in changes.items():
        assert change[0] in text
        daemon.config.write_text(text.replace(*change))
        with socket.socket(socket.AF_UNIX) as client:  # as the command would not find it under the other name
            client.settimeout(30.0)
            client.connect(str(Path(daemon.settings["swarm"]["run_dir"]) / "control.sock"))
            client.sendall(b'{"command": "reload"}\n')
            answers[setting] = client.makefile().readline()
    daemon.config.write_text(text)
    after = pids(daemon)
    assert daemon.stop() == 0

    for setting, answer in answers.items():
        assert f"{setting} cannot change at a reload" in answer
    assert after == first


def test_reloads_leave_no_descriptor_no_zombie_and_the_same_daemon(shop: Swarm) -> None:
    """Same pid, the lock still held, one observer, and as many descriptors as after the first."""
    daemon = set_up(shop().start())
    pid, counts = daemon.pid, []

    def reload(number: int) -> None:
        deploy(daemon, f"version{number}")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for(lambda: f"supervisor version{number}" in lines(daemon, "loads"), what="the successor")
        daemon.wait_for_event("observer_started", count=number + 2)
        set_up(daemon)
        counts.append(len(os.listdir(f"/proc/{pid}/fd")))

    for number in range(3):
        reload(number)
    states = children(pid)
    second = daemon.run("start")
    stopped = daemon.run("stop")

    assert daemon.pid == pid
    assert counts[-1] <= counts[0], counts
    assert sorted(states.values()) == ["S"] * 4, "two workers, the observer and the listeners"
    assert second.returncode == 1
    assert f"already running: pid {pid}" in second.stderr
    assert stopped.returncode == 0
    assert daemon.exit_code == 0


@pytest.mark.parametrize("when", ["while the new code loads", "when all are replaced"])
def test_workers_of_a_supervisor_that_was_executed_again_leave_when_it_is_killed(shop: Swarm, when: str) -> None:
    """Those that its predecessor forked, and its own: the watch for the parent's death outlives the execution."""
    daemon = set_up(shop().start())
    first = pids(daemon)
    deploy(daemon, "second")
    if when == "while the new code loads":
        (daemon.folder / "in-the-supervisor").write_text("while True: time.sleep(0.01)")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for(lambda: "supervisor second" in lines(daemon, "loads"), what="the successor")
    if when == "when all are replaced":
        daemon.wait_for_event("observer_started", count=2)
        for index in range(2):
            with contextlib.suppress(ProcessLookupError):  # the reload has replaced it
                os.kill(first[index], signal.SIGKILL)  # without a broker no rolling restart comes to its second worker
        daemon.wait_for(lambda: not {None, *first} & set(pids(daemon)), what="the second generation")
    family = children(daemon.pid)

    daemon.signal(signal.SIGKILL)
    daemon.wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), what="nobody to be left")

    assert len(family) >= 3, "two workers and the observer"


def test_the_service_manager_hears_of_a_reload_in_order_and_its_watchdog_goes_on(
    shop: Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELOADING with the time, READY when the new program is in charge, READY too after a refusal; then signs of life as before."""
    with ServiceManager(tmp_path.name) as manager:
        daemon = shop()
        daemon.expect_errors("reload_refused")
        given = {**daemon._environment(), **manager.environment, "WATCHDOG_USEC": "400000"}
        monkeypatch.setattr(daemon, "_environment", lambda: given)

        def listen(until: str) -> list[str]:
            """What came up to a line, without what comes all the time."""
            found = [line.partition("=")[0] if "MONO" in line else line for line in manager.listen(until)]
            return [line for line in found if not line.startswith(("STATUS=", "WATCHDOG=1"))]

        daemon.start()
        listen("READY=1")
        daemon.signal(signal.SIGHUP)
        reloaded = listen("READY=1")
        signs = [listen("WATCHDOG=1") for _ in range(3)]
        (daemon.folder / "elsewhere").write_text("raise RuntimeError('broken')")
        daemon.signal(signal.SIGHUP)
        refused = listen("READY=1")
        assert daemon.stop() == 0
        end = listen("STOPPING=1")

    long, usual_again = "WATCHDOG_USEC=240000000", "WATCHDOG_USEC=400000"
    assert reloaded == ["RELOADING=1", "MONOTONIC_USEC", long, usual_again, "READY=1"]
    assert signs == [[]] * 3
    assert refused == ["RELOADING=1", "MONOTONIC_USEC", "READY=1"]
    assert end == ["STOPPING=1"]


@pytest.mark.parametrize("preload", ["true", "false"])
def test_a_daemon_in_the_background_is_executed_again_as_it_was_started(shop: Swarm, preload: str) -> None:
    """With the same environment and from the same directory, whatever the old code has made of them since."""
    daemon = shop()
    app = daemon.folder / "app.py"
    app.write_text(app.read_text() + "\nos.environ['GREETING'] += ', changed'\nos.chdir('/')\n")
    environment = daemon._environment() | {"GREETING": "hello", "SWARM_PRELOAD": preload}
    command = [str(SWARMCTL), "start", "--detach", "--config", "swarm.toml"]
    started = subprocess.run(
        command, cwd=daemon.folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert started.returncode == 0, started.stderr
    set_up(daemon)
    deploy(daemon, "second")

    asked = daemon.run("reload", "--no-wait")
    executed(daemon, "second")
    stopped = daemon.run("stop")

    assert asked.returncode == 0
    assert {line.split(maxsplit=2)[2] for line in lines(daemon, "forks")} == {"hello, changed /"}
    assert stopped.returncode == 0
    assert "not running" in daemon.run("status").stderr
