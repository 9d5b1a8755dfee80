"""The image that the Dockerfile makes, really built, and run as a container would be: PID 1, read-only, not root. Knows no swarm.

No registry is asked: a Debian with the same Python, made by debootstrap, stands in for the base image under its name, and pip finds
its wheels in a folder. buildah builds in build/image; systemd-nspawn runs what the image's own configuration says.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.sources import ROOT
from tests.support.tether import tethered

SUITE: Final = "trixie"
PYTHON: Final = "3.13"  # that suite's, and the base image's
PACKAGES: Final = "python3,python3-venv,ca-certificates"
HOME: Final = ROOT / "build" / "image"


def call(*command: str | Path, **more: str) -> str:
    """What the command prints on stdout; AssertionError with the end of what it said where it fails."""
    done = subprocess.run(
        [str(each) for each in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **more},
        check=False,
    )
    said = (done.stdout + done.stderr)[-3000:]
    assert done.returncode == 0, f"{' '.join(map(str, command[:6]))} … ended with {done.returncode}:\n{said}"
    return done.stdout


def buildah(*arguments: str | Path) -> str:
    """buildah with a storage of its own: nothing of the machine's images is touched."""
    places = ("--root", HOME / "storage", "--runroot", HOME / "run")
    return call("buildah", *places, *arguments, BUILDAH_ISOLATION="chroot").strip()


def base_image() -> str:
    """The one that the Dockerfile builds upon."""
    [name] = set[str](re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    return name


def make_base() -> None:
    """The stand-in, once; blocks for two minutes (it downloads Debian's packages)."""
    base = base_image()
    assert PYTHON in base, f"the stand-in has Python {PYTHON}, the Dockerfile wants {base}"
    if base in buildah("images", "--format", "{{.Name}}:{{.Tag}}"):
        return
    tree = HOME / SUITE
    shutil.rmtree(tree, ignore_errors=True)
    tree.parent.mkdir(parents=True, exist_ok=True)
    call("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, tree)
    (tree / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    container = buildah("from", "scratch")
    buildah("add", "-q", container, tree, "/")
    buildah("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    buildah("commit", "-q", "--rm", container, f"docker.io/library/{base}")
    shutil.rmtree(tree)


def _wheels() -> Path:
    """What pip in the build may install: the versions of constraints.txt, for the image's Python."""
    wheels = HOME / "wheels"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"], "wheel"]
    constraints = ("-c", ROOT / "constraints.txt", "--python-version", PYTHON, "--only-binary=:all:")
    call(sys.executable, "-m", "pip", "download", "-q", "-d", wheels, *constraints, *wanted)
    return wheels


def build() -> None:
    """`kafka-swarm`, from the Dockerfile. What earlier runs have left is removed."""
    make_base()
    buildah("rm", "--all")
    buildah("rmi", "--prune")
    wheels = _wheels()
    settings = HOME / "pip.conf"
    settings.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    volumes = ("-v", f"{wheels}:/wheels:ro", "-v", f"{settings}:/etc/pip.conf:ro")
    buildah("build", "--pull=never", "--format", "docker", *volumes, "-t", "kafka-swarm", ROOT)


def build_upon(folder: Path, name: str) -> None:
    """An application's image, as the Dockerfile's head says; `folder` becomes /app."""
    (folder / "Dockerfile").write_text("FROM kafka-swarm\nUSER root\nCOPY . /app\nUSER 10001\n")
    buildah("build", "--pull=never", "--format", "docker", "-t", name, folder)


class Container:
    """One container of an image: mounted, then run as often as is asked for."""

    def __init__(self, image: str, state: Path) -> None:
        self._image = image
        self.name = buildah("from", "--pull=never", image)
        self.root = Path(buildah("mount", self.name))
        self.config: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
        self.open_volumes = False
        self.state = state
        self.state.mkdir(exist_ok=True)
        os.chown(self.state, self.uid, self.gid)  # what a named volume takes over from the image

    def open(self) -> None:
        """Make its volumes what a pod's may be: root's, and writable for everybody (emptyDir, k3s' local-path)."""
        self.open_volumes = True
        os.chown(self.state, 0, 0)
        self.state.chmod(0o777)

    def remove(self) -> None:
        """The image too."""
        buildah("rm", self.name)
        buildah("rmi", self._image)

    @property
    def uid(self) -> int:
        return int(self.config["User"])

    @property
    def gid(self) -> int:
        """As a container's runtime finds it: the user's group in the image."""
        for line in (self.root / "etc/passwd").read_text().splitlines():
            _, _, uid, gid, *_ = line.split(":")
            if int(uid) == self.uid:
                return int(gid)
        raise AssertionError(f"the image has no user {self.uid}")

    @property
    def environment(self) -> dict[str, str]:
        return dict(each.split("=", 1) for each in self.config["Env"])

    def start(self, log: Path, environment: Mapping[str, str] | None = None, groups: Sequence[Path] = ()) -> Running:
        """Run entrypoint and command as PID 1 of its own namespaces, with nothing to write to but what `docker run --read-only`
        in the Dockerfile's head gives it. `groups`: folders of /sys/fs/cgroup to run in."""
        command = ["systemd-nspawn", "-q", "-D", str(self.root), "--read-only", "--register=no", "--keep-unit"]
        command += ["--console=pipe", "--link-journal=no", "--no-new-privileges=yes", "--hostname=shop-0"]
        command += [f"--machine={self.name}", f"--chdir={self.config['WorkingDir']}"]
        mode = "mode=0777" if self.open_volumes else f"uid={self.uid},mode=0700"
        command += [f"--tmpfs=/run/swarm:{mode}", "--tmpfs=/tmp:mode=1777", f"--bind={self.state}:/var/lib/swarm"]
        command += [f"--kill-signal={self.config['StopSignal']}"]  # what a TERM to nspawn becomes
        for name, value in {**self.environment, **(environment or {})}.items():
            command.append(f"--setenv={name}={value}")
        # Not nspawn's --user: it wants to make a home directory, on a root that is read-only.
        command += [
            "setpriv",
            f"--reuid={self.uid}",
            f"--regid={self.gid}",
            "--clear-groups",
            "--bounding-set=-all",
            "--",
        ]
        command += [*self.config["Entrypoint"], *self.config["Cmd"]]
        enter = "".join(f"echo $$ >{group}/cgroup.procs && " for group in groups)
        command = ["sh", "-c", f'{enter}exec "$@"', "sh", *command]  # a shell enters them, and becomes the command
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                tethered(command, signal.SIGTERM), stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
            )
        return Running(process, self, log)


class Running:
    """A container that runs."""

    def __init__(self, process: subprocess.Popen[bytes], container: Container, log: Path) -> None:
        self.process = process
        self._container = container
        self._log = log

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def first(self) -> int:
        """PID 1 as the host numbers it; 0 while it is not there."""
        pid = self.process.pid
        with contextlib.suppress(FileNotFoundError):  # it may end while we look
            for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
                if "\nNSpid:\t" + f"{child}\t1\n" in Path(f"/proc/{child}/status").read_text():
                    return child
        return 0

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As `docker exec` does: in its namespaces, as its user, with the image's environment."""
        ids = ["-S", str(self._container.uid), "-G", str(self._container.gid)]
        enter = ["nsenter", "-t", str(self.first), "-m", "-u", "-i", "-p", "-r", "-w", *ids]
        return subprocess.run(
            [*enter, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._container.environment,
            timeout=60.0,
            check=False,
        )

    def stop(self) -> int:
        """The image's stop signal to PID 1; returns the exit code, after at most what the Dockerfile allows."""
        self.process.terminate()
        return self.process.wait(50.0)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
