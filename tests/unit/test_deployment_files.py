"""Unit file, image and manifests agree with the daemon's defaults and contract."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from swarm.config.schema import ObserverSection, SwarmSection
from tests.support.sources import ROOT

UNIT = ROOT / "systemd" / "swarm@.service"
DOCKERFILE = ROOT / "Dockerfile"
MANIFESTS = ROOT / "config" / "kubernetes"

# Seconds that a stop may take beyond shutdown_timeout: killing what is left, incidents, goodbyes.
GRACE = 10


def unit() -> dict[str, str]:
    """The unit's settings; of one that is given twice, the last."""
    return dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"[A-Za-z]+=", line))


def instruction(name: str) -> str:
    """What the Dockerfile's last such instruction says."""
    return str(re.findall(rf"^{name} (.*)$", DOCKERFILE.read_text(), re.MULTILINE)[-1])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """Without a warning; only the program, which need not be installed here, is replaced."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/swarmctl", "/bin/true"))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_waits_longer_than_the_swarm_takes_to_stop() -> None:
    """Otherwise it would kill workers that were still committing."""
    settings = unit()

    assert float(settings["TimeoutStopSec"]) >= SwarmSection().shutdown_timeout + GRACE
    assert settings["KillMode"] == "mixed"


def test_systemd_hears_the_supervisor_and_can_reload_it() -> None:
    """Readiness and watchdog by notification from the main process; HUP reloads."""
    settings = unit()

    assert (settings["Type"], settings["NotifyAccess"]) == ("notify", "main")
    assert float(settings["WatchdogSec"]) > 0
    assert settings["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_systemd_does_not_start_again_what_was_told_to_stop() -> None:
    """Exit 2 is the end of a stop that had to kill; a boot that failed (1) is tried again."""
    settings = unit()

    assert settings["Restart"] == "on-failure"
    assert settings["RestartPreventExitStatus"] == "2"
    assert settings["OOMPolicy"] == "continue"


def test_image_runs_swarmctl_itself_and_not_as_root() -> None:
    """PID 1 gets the signals and reaps; no shell in between."""
    assert (instruction("ENTRYPOINT"), instruction("CMD")) == ('["swarmctl"]', '["start"]')
    assert instruction("STOPSIGNAL") == "SIGTERM"
    assert int(instruction("USER")) > 0
    assert int(instruction("EXPOSE")) == ObserverSection().port


def test_image_is_built_from_files_that_docker_may_see() -> None:
    """What is copied exists, and `.dockerignore` lets it through."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
        for name in sources.split()
    }

    assert copied == let_through
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_pods_keep_their_identity_and_have_time_to_stop() -> None:
    """Static member ids come from the pod's name; the grace period covers a stop."""
    manifest = (MANIFESTS / "statefulset.yaml").read_text()
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", manifest)

    assert "kind: StatefulSet" in manifest
    assert re.search(r"name: SWARM_HOST\b.*\n\s+valueFrom: \{fieldRef: \{fieldPath: metadata\.name\}\}", manifest)
    assert grace is not None
    assert float(grace[1]) >= SwarmSection().shutdown_timeout + GRACE


def test_probes_ask_the_observer_where_it_serves() -> None:
    """Liveness by /healthz, readiness by /readyz, on the port of the settings, from outside of the pod."""
    manifest = (MANIFESTS / "statefulset.yaml").read_text()
    probes = dict(re.findall(r"(\w+)Probe:\n\s+httpGet: \{path: (\S+), port: http\}", manifest))

    assert probes == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert f"{{name: http, containerPort: {ObserverSection().port}}}" in manifest
    assert re.search(r"name: SWARM_OBSERVER__HOST\b.*\n\s+value: 0\.0\.0\.0", manifest)
