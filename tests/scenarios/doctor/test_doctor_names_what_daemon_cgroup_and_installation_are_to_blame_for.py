"""What lies around an application that is well: a cgroup that dies as one, what a newer daemon says of itself, old versions of Kafka's client."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.doctor import ward
from tests.support.daemon import Daemon
from tests.support.sources import ROOT

NEWER = """
    import swarm.supervisor.status as status

    known = status.findings


    def findings(supervisor, now):
        yield from known(supervisor, now)
        yield {
            "rule": "disk_nearly_full",
            "severity": "warning",
            "what": "the journal's disk is nearly full",
            "cause": "Others write to it.",
            "fix": "Make room.",
            "evidence": "1 % is free.",
        }


    status.findings = findings  # this daemon is of a release that knows more than its `doctor`
"""
OLD = "2.5.0" if sys.version_info < (3, 13) else "2.8.0"
"""A confluent-kafka, with a librdkafka of the same number, that is there for this Python."""


def test_a_cgroup_that_the_kernel_kills_as_one_is_named(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], tmp_path: Path
) -> None:
    """The daemon runs where memory.oom.group of v2 is 1, as in Kubernetes, and then where it is 0. Its cgroups are a folder that is mounted
    for it alone: the memory controller of the tests' machine may be v1's, which has no such thing."""
    groups = tmp_path / "cgroup"
    groups.mkdir()
    daemon = swarm_project(ward.APP.format(topic=topic(4)), ward.settings(ward.name()))
    found = {}
    for value in ("1", "0"):
        (groups / "memory.oom.group").write_text(f"{value}\n")
        daemon.start(by=mounted(groups)).until_running()
        found[value] = ward.examine(daemon, "--seconds", "0", ours=True)
        assert daemon.stop() == 0

    assert found["1"].rules == {"oom_group"}, found["1"].findings
    assert "memory.oom.group is 1" in found["1"].evidence("oom_group")
    assert found["0"].rules == set(), found["0"].findings


def mounted(groups: Path) -> list[str]:
    """Runs a command in a mount namespace of its own, in which `groups` is /sys/fs/cgroup."""
    who = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *who, "--mount", "sh", "-c", 'mount --bind "$0" /sys/fs/cgroup && exec "$@"', str(groups)]


def test_what_a_newer_daemon_says_is_passed_on(swarm_project: Callable[..., Daemon], topic: Callable[..., str]) -> None:
    """In its own words, although this `doctor` has no such rule."""
    daemon = swarm_project(ward.APP.format(topic=topic(4)) + NEWER, ward.settings(ward.name()))
    daemon.start().until_running()

    found = ward.examine(daemon, "--seconds", "0")

    assert found.rules == {"daemon_says"}, found.findings
    [finding] = found.findings
    assert finding["what"] == "the journal's disk is nearly full"
    assert finding["evidence"] == "1 % is free."


def test_old_versions_of_the_client_are_named(
    swarm_project: Callable[..., Daemon], topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Really installed, in a folder of their own, and looked at a cluster with; without them nothing is found."""
    daemon = swarm_project(ward.APP.format(topic=topic(4)), ward.settings(ward.name()))
    present = ward.examine(daemon, "--seconds", "0")
    monkeypatch.setenv("PYTHONPATH", str(installed(OLD)))

    found = ward.examine(daemon, "--seconds", "0")

    assert present.rules == set(), present.findings
    assert found.rules == {"old_versions"}, found.findings
    assert f"confluent-kafka {OLD} is installed" in found.evidence("old_versions")
    assert f"librdkafka {OLD} is installed" in found.evidence("old_versions") or OLD != "2.5.0"


def installed(version: str) -> Path:
    """A folder with that confluent-kafka, which has its librdkafka in it. Made the first time."""
    folder = ROOT / "build" / "old" / version
    if not folder.exists():
        half = folder.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:", "--target", str(half)]
        subprocess.run([*pip, f"confluent-kafka=={version}"], check=True)
        half.rename(folder)
    return folder
