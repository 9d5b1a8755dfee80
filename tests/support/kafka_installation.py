"""Where the tests' Apache Kafka lies on disk and how it gets there. Knows Maven and Java, no running broker.

Everything lives in `build/kafka`: the jars (copied by Maven from `kafka-pom.xml`), storage that is formatted
once and copied for each broker, and an archive of loaded classes, which makes a broker's start much shorter.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_POM = Path(__file__).with_name("kafka-pom.xml")
_HOME = ROOT / "build" / "kafka"

CLUSTER_ID = "c3dhcm0tdGVzdC1rYWZrYQ"


class InstallationError(Exception):
    """Kafka cannot be had; the text says what is missing and how to get it."""


@dataclass(frozen=True, slots=True)
class Installation:
    """An Apache Kafka that is ready to run."""

    home: Path

    @property
    def archive(self) -> Path:
        """The class-data archive. The first broker that ends makes it; without it a start takes twice as long."""
        java = Path(_program("java")).resolve()  # which it is made by and valid for, so that an upgrade makes a new one
        made_by = hashlib.sha256(f"{java} {java.stat().st_mtime_ns}".encode()).hexdigest()[:8]
        return self.home / f"classes-{made_by}.jsa"

    @property
    def formatted(self) -> Path:
        """Storage of a node that never ran: copy it, it is the same for every broker."""
        return self.home / "formatted"

    @property
    def data(self) -> Path:
        """Where brokers keep their data, one folder each."""
        return self.home / "data"

    def java(self, main: str, *arguments: str | Path, options: tuple[str, ...] = ()) -> list[str]:
        """The command that runs a class of Kafka's."""
        # One fixed order: a class-data archive is only valid for the class path it was made with.
        jars = ":".join(str(jar) for jar in sorted((self.home / "lib").glob("*.jar")))
        if self.archive.exists():
            options = (f"-XX:SharedArchiveFile={self.archive}", "-Xshare:auto", *options)
        tuning = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
        # No log4j2 file is needed for one console appender; only its level is ERROR unless it is said.
        logs = ("-Dorg.apache.logging.log4j.level=INFO",)
        return [_program("java"), *tuning, *logs, *options, "-cp", jars, main, *map(str, arguments)]


def install() -> Installation:
    """The installation; made first (some 10 s, 45 MB) where it is missing or `kafka-pom.xml` has changed.

    Blocks; processes that call it at the same time wait for the first one. Raises `InstallationError`.
    """
    _HOME.mkdir(parents=True, exist_ok=True)
    installation = Installation(_HOME)
    stamp = _HOME / "installed"
    wanted = hashlib.sha256(_POM.read_bytes()).hexdigest()
    with (_HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            _fetch_jars(_HOME / "lib")
            for archive in _HOME.glob("*.jsa"):
                archive.unlink()
            _format(installation)
            stamp.write_text(wanted)
    return installation


def _fetch_jars(lib: Path) -> None:
    _program("java")
    shutil.rmtree(lib, ignore_errors=True)
    command = [_program("mvn"), "-q", "-B", "-ntp", "-f", str(_POM), "dependency:copy-dependencies"]
    _run([*command, f"-DoutputDirectory={lib}"], "Maven could not get Kafka's jars")


def _format(installation: Installation) -> None:
    """Formats the storage of one node. The ports do not matter: none of them gets into what is written."""
    shutil.rmtree(installation.formatted, ignore_errors=True)
    properties = installation.home / "format.properties"
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": "1@127.0.0.1:1",
        "listeners": "PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(installation.formatted),
    }
    properties.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
    _run(
        installation.java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", properties),
        "Kafka's storage could not be formatted",
    )


def _program(name: str) -> str:
    if (java_home := os.environ.get("JAVA_HOME")) and (found := shutil.which(name, path=f"{java_home}/bin")):
        return found
    if found := shutil.which(name):
        return found
    raise InstallationError(
        f"`{name}` was not found. The tests run a real Apache Kafka: it needs Java 17 or later, and Maven.\n"
        "Install them, on Debian: apt-get install openjdk-17-jre-headless maven"
    )


def _run(command: list[str], problem: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InstallationError(f"{problem}:\n{(done.stdout + done.stderr).strip()[-2000:]}")
