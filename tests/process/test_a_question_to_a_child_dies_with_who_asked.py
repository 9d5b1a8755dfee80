"""What a supervisor asks a short-lived child (`in_child`) concerns nobody once the supervisor is dead: it ends, and says nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import wait_for

ASK = """
import os, signal, sys, time
from pathlib import Path
from swarm.supervisor.processes import in_child

def body():
    if sys.argv[2] == "handled":
        signal.signal(signal.SIGTERM, lambda *_: None)
    Path(sys.argv[1]).write_text(str(os.getpid()))
    while os.getppid() == asking:
        time.sleep(0.01)
    return "x" * 100_000

asking = os.getpid()
in_child(body, 60)
"""


@pytest.mark.parametrize("sigterm", ["default", "handled"])
def test_a_child_whose_asker_was_killed_ends_quietly(tmp_path: Path, sigterm: str) -> None:
    """Whether or not the application's code handles the signal that the kernel sends at the death of the asker."""
    seen, said = tmp_path / "pid", tmp_path / "stderr"
    with said.open("w") as stream:
        asking = subprocess.Popen([sys.executable, "-c", ASK, str(seen), sigterm], stderr=stream)
        wait_for(lambda: seen.exists() and seen.read_text() != "", what="the child to run")
        child = psutil.Process(int(seen.read_text()))
        os.kill(asking.pid, signal.SIGKILL)
        asking.wait()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, what="the end of the child")
    assert said.read_text() == ""
