"""A Debian with a systemd that was really booted, and the product installed in it as the unit's head says. Knows no swarm.

The tree is made once by debootstrap (build/systemd, 300 MB), the product is installed anew for each run, and whatever happens in a
booted machine is gone with it: it writes to an overlay. It shares the host's network, so it reaches a broker on the loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from tests.support.cgroups import own_cgroups
from tests.support.sources import ROOT
from tests.support.tether import tethered
from tests.support.waiting import wait_for

SUITE: Final = "bookworm"
PYTHON: Final = "3.11"  # that suite's
PACKAGES: Final = "systemd,systemd-sysv,dbus,python3,python3-venv,procps"
HOME: Final = ROOT / "build" / "systemd"


def _call(*command: str | Path) -> None:
    done = subprocess.run(
        [str(each) for each in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = (done.stderr + done.stdout)[-2000:]
        raise AssertionError(f"{' '.join(map(str, command[:3]))} … ended with {done.returncode}:\n{said}")


def make_tree() -> Path:
    """The tree with the product in it; blocks for a minute the first time (it downloads Debian's packages), later for seconds."""
    tree, half = HOME / SUITE, HOME / f"{SUITE}.half"
    if not tree.exists():
        shutil.rmtree(half, ignore_errors=True)
        half.parent.mkdir(parents=True, exist_ok=True)
        _call("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, half)
        (half / "etc" / "machine-id").write_text("")  # each boot makes its own
        _call("chroot", half, "python3", "-m", "venv", "--without-pip", "/opt/swarm")
        half.rename(tree)
    _install(tree)
    return tree


def _install(tree: Path) -> None:
    """A wheel of this source and what it asks for, in the versions of constraints.txt, for the tree's Python and by ours."""
    wheels, packages = HOME / "wheel", tree / f"opt/swarm/lib/python{PYTHON}/site-packages"
    for old in (
        wheels,
        packages,
        ROOT / "build" / "lib",
    ):  # setuptools would pack again what an earlier build has left in build/lib
        shutil.rmtree(old, ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "-q")
    _call(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, ROOT)
    [wheel] = wheels.glob("*.whl")
    wanted = ("--python-version", PYTHON, "--only-binary=:all:", "-c", ROOT / "constraints.txt")
    _call(*pip, "install", "--target", packages, *wanted, wheel)
    command = tree / "opt/swarm/bin/swarmctl"
    command.write_text("#!/opt/swarm/bin/python\nimport sys\nfrom swarm.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)
    link = tree / "usr/local/bin/swarmctl"
    link.unlink(missing_ok=True)
    link.symlink_to("/opt/swarm/bin/swarmctl")
    shutil.copy(ROOT / "systemd" / "swarm@.service", tree / "etc/systemd/system")


class Machine:
    """Booted by `with`; ended, whatever runs in it, at the latest with this process."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._log = HOME / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._groups: tuple[Path, set[Path]] | None = None  # our memory cgroup of v1, and what there was in it

    def __enter__(self) -> Self:
        command = ["systemd-nspawn", "-q", "-D", str(self._tree), "--volatile=overlay", "--boot"]
        command += ["--register=no", "--keep-unit", "--console=pipe"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                tethered(command, signal.SIGTERM), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=HOME
            )
        try:
            wait_for(self._is_up, 60.0, "systemd to have booted", self.console, self._end)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        assert process is not None
        process.terminate()  # nspawn lets it power off
        try:
            process.wait(60.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._forget_groups()

    def _forget_groups(self) -> None:
        """What its systemd has made beside our own processes in v1's memory hierarchy is not removed with the machine."""
        if self._groups is None:
            return
        top, before = self._groups
        for made in set(top.glob("*/")) - before:
            for group in sorted([made, *made.rglob("*/")], reverse=True):
                with contextlib.suppress(OSError):
                    group.rmdir()

    def _is_up(self) -> bool:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in map(int, children):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                self._init = pid
                return self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")
        return False

    def _end(self) -> str:
        assert self._process is not None
        code = self._process.poll()
        return "" if code is None else f"systemd-nspawn has ended with {code}"

    def console(self) -> str:
        """The end of what systemd said while it booted."""
        return self._log.read_text(errors="replace")[-3000:]

    def inside(self, *command: str) -> list[str]:
        """The command line that runs `command` in the machine, as root."""
        return ["nsenter", "-t", str(self._init), "-m", "-u", "-i", "-p", "-r", "-w", *command]

    def run(self, *command: str, check: bool = True) -> str:
        """What a command in the machine prints on stdout; AssertionError where it fails, unless `check` is False."""
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            self.inside(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=120.0,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command} ended with {done.returncode}: {done.stderr[-2000:]}"
        return done.stdout

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        return self.run("systemctl", *arguments, check=check)

    def show(self, unit: str, name: str) -> str:
        """One of the unit's properties."""
        return self.systemctl("show", "-P", name, unit).strip()

    def write(self, path: str, text: str) -> None:
        """Write a file in the machine that everybody may read, with its folders."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def path(self, path: str) -> Path:
        """Where the host sees one of the machine's files."""
        return Path(f"/proc/{self._init}/root", path.lstrip("/"))

    def journal(self, unit: str, *more: str) -> Iterator[dict[str, Any]]:
        """The entries of one unit, what systemd says about it too."""
        for line in self.run("journalctl", "-q", "-o", "json", "--all", "-u", unit, *more).splitlines():
            yield json.loads(line)

    def control_memory(self) -> bool:
        """Let this systemd set memory limits, if the machine that we run on allows it; returns whether it does.

        With cgroups v2 it may by itself. Where the memory controller is a hierarchy of v1, nspawn mounts that read-only.
        """
        mount = "/sys/fs/cgroup/memory"
        if not self.path(mount).exists():
            return True
        top = dict(own_cgroups())["memory"]
        self._groups = self._groups or (top, set(top.glob("*/")))
        self.run("mount", "-o", "remount,bind,rw", mount, check=False)
        self.systemctl("daemon-reexec")
        return os.access(self.path(mount), os.W_OK)
