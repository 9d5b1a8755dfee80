"""The command line against a supervisor that is played: messages, exit codes, and what goes over the control socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm import cli, control, scaffold
from swarm.errors import SwarmError

Answers = Callable[[dict[str, Any]], list[dict[str, Any]]]


class PlayedSupervisor:
    """Listens on the control socket and answers as it is told, from a thread; remembers what it was asked."""

    def __init__(self, run_dir: Path) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: Answers = lambda _: [{"ok": True, "pid": os.getpid(), "result": {}}]
        run_dir.mkdir(parents=True, exist_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(run_dir / control.SOCKET_NAME))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                for line in stream:
                    request = json.loads(line)
                    self.asked.append(request)
                    answers = self.answers(request)
                    for answer in answers:
                        stream.write(json.dumps(answer).encode() + b"\n")
                    stream.flush()
                    if not answers:
                        break

    def close(self) -> None:
        """End the thread."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory and an environment of the test's own."""
    for name in [name for name in os.environ if name.startswith("SWARM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swarm.toml").write_text(f'[swarm]\nname = "shop"\nrun_dir = "{tmp_path / "run"}"\n')


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[PlayedSupervisor]:
    """A supervisor in the run directory of ./swarm.toml."""
    played = PlayedSupervisor(tmp_path / "run")
    yield played
    played.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["statsu"], "did you mean 'status'?"),
        (["stat"], "did you mean 'status'?"),
        (["status", "--jsn"], "--json"),
        (["scale"], "missing argument"),
        (["scale", "0"], "'N'"),
        (["broker", "--topic", "orders:none"], "NAME:PARTITIONS"),
        (["start", "-o", "swarm.workrs=3"], "workers"),
        (["status", "--config", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_a_mistake_is_one_short_message_and_exit_code_1(
    arguments: list[str], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Usage errors and wrong settings: at most six lines on stderr that name the fix, exit 1, no traceback."""
    code = cli.main(arguments)

    out, err = capfd.readouterr()
    assert code == 1
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 6


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--json"],
        ["stop"],
        ["backtrace"],
        ["quiet"],
        ["resume"],
        ["resume", "orders/3"],
        ["pause", "orders"],
        ["restart"],
        ["reload"],
        ["scale", "2"],
    ],
)
def test_a_command_to_no_daemon_says_not_running(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever scripts it sees it in the exit code, whoever reads it on stderr."""
    code = cli.main(arguments)

    out, err = capfd.readouterr()
    assert code != 0
    assert out == ""
    assert "not running" in err


@pytest.mark.parametrize("arguments", [[], *([name] for name in cli.cli.commands)])
def test_help_shows_an_example_of_every_command(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """`--help` teaches: each command shows how it is called."""
    code = cli.main([*arguments, "--help"])

    assert code == 0
    assert f"    swarmctl {' '.join(arguments)}".rstrip() in capfd.readouterr().out


def test_status_as_json_is_the_answer_itself(supervisor: PlayedSupervisor, capfd: pytest.CaptureFixture[str]) -> None:
    """Programs get what the supervisor says, unchanged, without an app or a broker being set."""
    status = {"name": "shop", "pid": 1, "workers": [{"index": 0, "messages": 7}]}
    supervisor.answers = lambda _: [{"ok": True, "pid": 1, "result": status}]

    code = cli.main(["status", "--json"])

    assert code == 0
    assert json.loads(capfd.readouterr().out) == status


def test_what_the_supervisor_refuses_is_its_own_words(
    supervisor: PlayedSupervisor, capfd: pytest.CaptureFixture[str]
) -> None:
    """A refusal is no crash of the client: the reason on stderr, exit 1."""
    supervisor.answers = lambda _: [{"ok": False, "pid": 1, "error": "scale: not yet"}]

    code = cli.main(["scale", "8", "--no-wait"])

    assert code == 1
    assert capfd.readouterr().err == "scale: not yet\n"
    assert supervisor.asked == [{"command": "scale", "workers": 8, "wait": False}]


def test_progress_is_shown_while_a_command_is_waited_for(
    supervisor: PlayedSupervisor, capfd: pytest.CaptureFixture[str]
) -> None:
    """A rolling restart tells how far it is; the last word is the answer's."""
    supervisor.answers = lambda _: [{"progress": "worker 0 of 2"}, {"ok": True, "pid": 5, "result": None}]

    code = cli.main(["restart"])

    out, err = capfd.readouterr()
    assert (code, out, err) == (0, "all workers were replaced (pid 5)\n", "worker 0 of 2\n")


def test_an_answer_that_makes_no_sense_is_an_error_and_not_a_traceback(
    supervisor: PlayedSupervisor, tmp_path: Path
) -> None:
    """A supervisor of another version may say anything."""
    supervisor.answers = lambda _: [{"what": "ever"}]

    with pytest.raises(control.ControlError, match="another version"):
        control.request([tmp_path / "run"], "status")


def test_an_answer_that_does_not_come_is_given_up(supervisor: PlayedSupervisor, tmp_path: Path) -> None:
    """A supervisor that hangs does not hang the client."""
    released = threading.Event()

    def answer_late(_: dict[str, Any]) -> list[dict[str, Any]]:
        released.wait(10)
        return []

    supervisor.answers = answer_late
    try:
        with pytest.raises(control.ControlError, match=r"did not answer within 0\.05 s"):
            control.request([tmp_path / "run"], "status", patience=0.05)
    finally:
        released.set()


def test_the_first_run_directory_that_answers_is_taken(supervisor: PlayedSupervisor, tmp_path: Path) -> None:
    """A candidate without a socket, or with one that a dead daemon left, is passed over."""
    stale = tmp_path / "stale"
    stale.mkdir()
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(stale / control.SOCKET_NAME))
    left.close()

    answer = control.request([tmp_path / "none", stale, tmp_path / "run"], "status")

    assert answer["pid"] == os.getpid()


_STOPPED_BY_A_CONNECTION = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
connection, _ = listener.accept()
connection.recv(1000)
connection.close()
sys.stdin.read()  # still there, although it said nothing more
"""


def test_stop_returns_only_when_the_process_is_gone(tmp_path: Path) -> None:
    """A connection that closes without an answer is not taken for the end: the process's own end is."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    path = str(run_dir / control.SOCKET_NAME)
    process = subprocess.Popen(
        [sys.executable, "-c", _STOPPED_BY_A_CONNECTION, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    returned = threading.Event()

    def stop() -> None:
        control.stop([run_dir])
        returned.set()

    thread = threading.Thread(target=stop)
    thread.start()

    early = returned.wait(0.3)
    process.stdin.close()
    thread.join(10)
    process.stdout.close()

    assert not early
    assert returned.is_set()
    assert process.wait(10) == 0


def test_check_reports_all_problems_together(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Programs get every problem with its place, source and fix; the exit code is 1."""
    (tmp_path / "swarm.toml").write_text('[swarm]\nworkers = 0\nnmae = "x"\napp = "a:b"\n')

    code = cli.main(["check", "--json"])

    answer = json.loads(capfd.readouterr().out)
    assert code == 1
    assert answer["ok"] is False
    assert {problem["where"] for problem in answer["problems"]} >= {"swarm.workers", "swarm.nmae"}
    assert all(set(problem) == {"where", "source", "what", "fix"} for problem in answer["problems"])


def test_init_writes_an_application_that_passes_check(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What `init` makes is right as it stands; it is checked in a process of its own, as a user would."""
    assert cli.main(["init", str(tmp_path / "Corner-Shop")]) == 0
    assert "swarmctl start" in capfd.readouterr().out

    done = subprocess.run(
        [sys.executable, "-P", "-m", "swarm.cli", "check"],
        cwd=tmp_path / "Corner-Shop",
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "nothing wrong. app corner_shop.app:app" in done.stdout


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    """A file that is there keeps its text, and nothing else is written beside it."""
    target = tmp_path / "shop"
    target.mkdir()
    (target / "swarm.toml").write_text("mine")

    with pytest.raises(SwarmError, match=r"swarm\.toml is there already"):
        scaffold.write(target)

    assert [path.name for path in target.iterdir()] == ["swarm.toml"]
    assert (target / "swarm.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("shop", "shop"),
        ("My Shop!", "my_shop"),
        ("json", "json_app"),
        ("class", "class_app"),
        ("2fast", "app_2fast"),
        ("", "app"),
    ],
)
def test_a_new_package_can_be_imported_and_hides_no_other(directory: str, name: str) -> None:
    """The directory's name becomes a module name; the standard library's stay free."""
    assert scaffold.package_name(directory) == name


def test_status_imports_neither_a_kafka_client_nor_rich() -> None:
    """`swarmctl status` answers at once because it loads only what it needs."""
    code = (
        "import sys; from swarm import cli; cli.main(['status']); "
        "print([m for m in ('confluent_kafka', 'rich', 'prometheus_client', 'psutil') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
