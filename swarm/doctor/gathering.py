"""Where `doctor` gets its facts from: the settings, /proc, the daemon's status, systemd, the cluster. Looks, and judges nothing.

Each part fails by itself: what could not be had is missing in the facts, with the reason, and the rest goes on. All of it takes at most
the looks' distance, and some seconds for what does not answer.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from swarm import allocator, control
from swarm.config import Loaded, find_run_dirs
from swarm.config.units import time_text
from swarm.doctor import identity
from swarm.doctor.application import application, producer_in_use
from swarm.doctor.facts import (
    Application,
    Batches,
    Cluster,
    Daemon,
    Facts,
    Group,
    Handovers,
    Held,
    Machine,
    Place,
    Seat,
    StopLimit,
    Worker,
)
from swarm.doctor.past import past

if TYPE_CHECKING:
    from swarm.doctor.survey import Survey

STATUS_PATIENCE: Final = 5.0
SYSTEMCTL_PATIENCE: Final = 2.0
GAP: Final = 3.0
"""Seconds between the looks where the daemon itself says how far it is."""
LONGEST_GAP: Final = 15.0
STEP: Final = 1.0
"""Seconds between two looks at who holds what."""
_BEARS_ON_MEMORY: Final = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD")


def gather(loaded: Loaded, manifest: Path | None = None, seconds: float | None = None) -> Facts:
    """All facts. manifest: a unit file or a Kubernetes manifest with the stop timeout. seconds: between the first and the last
    look at offsets; None: what it takes to tell; 0: one look. Forks first, then makes Kafka clients. Raises OSError where the
    manifest cannot be read."""
    stop_limit = _from_manifest(manifest) if manifest is not None else None
    app, problems = application(loaded)
    missing: dict[str, str] = {}
    status = _status(loaded, missing)
    daemon = _daemon(status) if status is not None else None
    batches, handovers = _batches(loaded, status, daemon)
    cluster, unreachable = _cluster(loaded, app, daemon, seconds, missing)
    if unreachable:
        missing["cluster"] = "no broker answers"
    return Facts(
        settings=loaded.settings,
        machine=_machine(daemon),
        sources=loaded.sources,
        problems=problems,
        producer=producer_in_use(loaded),
        app=app,
        daemon=daemon,
        cluster=cluster,
        unreachable=unreachable,
        stop_limit=stop_limit or _from_systemd(loaded.settings.swarm.name, daemon),
        batches=batches,
        handovers=handovers,
        missing=missing,
    )


# -- this machine ----------------------------------------------------------------------------------------------------


def _machine(daemon: Daemon | None) -> Machine:
    from swarm.doctor.survey import versions

    confluent_kafka, librdkafka = versions()
    environment, whose = dict(os.environ), "this process"
    in_use = allocator.allocator()
    if daemon is not None:
        whose = f"the daemon, pid {daemon.pid}"
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{daemon.pid}/environ").read_bytes().decode(errors="replace")
            environment = dict(line.partition("=")[::2] for line in text.split("\0") if "=" in line)
            in_use = allocator.allocator(Path(f"/proc/{daemon.pid}/maps"))
    return Machine(
        host=os.uname().nodename,
        python=platform.python_version(),
        confluent_kafka=confluent_kafka,
        librdkafka=librdkafka,
        allocator=in_use,
        environment={name: environment[name] for name in _BEARS_ON_MEMORY if name in environment},
        whose=whose,
    )


# -- who stops the daemon, and when it loses patience -----------------------------------------------------------------


def _from_manifest(path: Path) -> StopLimit | None:
    text = path.read_text()
    if found := re.search(r"^\s*terminationGracePeriodSeconds\s*:\s*(\d+)", text, re.MULTILINE):
        return StopLimit(float(found[1]), "terminationGracePeriodSeconds", str(path))
    if found := re.search(r"^\s*(TimeoutStopSec|TimeoutSec)\s*=\s*(.+?)\s*$", text, re.MULTILINE):
        return StopLimit(systemd_seconds(found[2]), found[1], str(path))
    if re.search(r"^\s*kind\s*:\s*(StatefulSet|Deployment|Pod|DaemonSet|Job|CronJob)\b", text, re.MULTILINE):
        return StopLimit(30.0, "terminationGracePeriodSeconds", f"Kubernetes' default; {path} does not set it")
    if re.search(r"^\[Service\]", text, re.MULTILINE):
        return StopLimit(90.0, "TimeoutStopSec", f"systemd's default; {path} does not set it")
    return None


def _from_systemd(name: str, daemon: Daemon | None) -> StopLimit | None:
    """Of the unit that the daemon's process belongs to; without a daemon, of `swarm@NAME` where that is installed."""
    if shutil.which("systemctl") is None:
        return None
    unit = _unit_of(daemon.pid) if daemon is not None else f"swarm@{name}.service"
    if unit is None:
        return None
    shown = _systemctl_show(unit)
    if daemon is not None:
        if shown.get("MainPID") != str(daemon.pid):
            return None  # it only runs below somebody else's unit
    elif shown.get("LoadState") != "loaded":
        return None
    text = shown.get("TimeoutStopUSec", "")
    return StopLimit(systemd_seconds(text), "TimeoutStopSec", f"systemctl show {unit}") if text else None


def _unit_of(pid: int) -> str | None:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            last = line.rpartition("/")[2]
            if last.endswith(".service"):
                return last
    return None


def _systemctl_show(unit: str) -> dict[str, str]:
    command = ["systemctl", "show", unit, "--property=LoadState,MainPID,TimeoutStopUSec"]
    try:
        done = subprocess.run(  # noqa: S603 a fixed command with a unit's name
            command, capture_output=True, text=True, timeout=SYSTEMCTL_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines() if "=" in line)


_UNITS: Final = {
    "us": 1e-6, "usec": 1e-6, "ms": 1e-3, "msec": 1e-3, "": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "m": 60.0, "min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hr": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86400.0, "day": 86400.0, "days": 86400.0,
}  # fmt: skip


def systemd_seconds(text: str) -> float:
    """A span of time as systemd writes it: `50`, `1min 30s`, `infinity` (systemd.time(7)); infinite for what cannot be read."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if not parts or any(unit not in _UNITS for _, unit in parts):
        return float("inf")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


# -- the daemon ------------------------------------------------------------------------------------------------------


def _status(loaded: Loaded, missing: dict[str, str]) -> dict[str, Any] | None:
    try:
        answer = control.request(find_run_dirs(loaded.settings), "status", patience=STATUS_PATIENCE)
    except control.NotRunning:
        return None
    except control.ControlError as error:
        missing["daemon"] = str(error).splitlines()[0]
        return None
    result: dict[str, Any] = answer["result"]
    return result


def _daemon(status: Mapping[str, Any]) -> Daemon:
    return Daemon(
        pid=status["pid"],
        workers=tuple(_worker(each) for each in status["workers"]),
        allocator=status.get("allocator") or "",
        findings=tuple(status.get("findings") or ()),
        unowned=tuple(((u["group"], u["topic"], u["partition"]), u["for"]) for u in status.get("unowned") or ()),
        reload_error=status.get("reload_error") or "",
    )


def _worker(about: Mapping[str, Any]) -> Worker:
    return Worker(
        index=about["index"],
        pid=about["pid"],
        state=about["state"],
        health=about["health"],
        uptime=about["uptime"],
        job_age=about["job_age"],
        listener_errors=(about.get("errors_by_kind") or {}).get("listener", 0),
        rebalances=about.get("rebalances", 0),
        memory=about.get("memory") or {},
        held=tuple(
            Held(
                (each["group"], each["topic"], each["partition"]),
                each["position"],
                each["committed"],
                each["paused"],
                each["standing"],
            )
            for each in about.get("assignment") or ()
        ),
    )


def _batches(
    loaded: Loaded, status: Mapping[str, Any] | None, daemon: Daemon | None
) -> tuple[tuple[Batches, ...], tuple[Handovers, ...]]:
    """Of the journal, whatever it still holds; else of the daemon, since its start and of all topics together."""
    batches, handovers = past(loaded, status)
    if not batches and status is not None:
        seen = [each["durations"] for each in status["workers"] if each.get("durations")]
        if seen:
            batches = (
                Batches(
                    sum(each["batches"] for each in seen),
                    sum(each["messages"] for each in seen),
                    sum(each["seconds"] for each in seen),
                    max(each["longest"] for each in seen),
                    f"status, up {time_text(float(round(status['uptime'])))}",
                ),
            )
    running = max((worker.job_age or 0.0 for worker in daemon.workers), default=0.0) if daemon is not None else 0.0
    if running > max((seen.longest for seen in batches), default=0.0):
        batches = (*batches, Batches(1, 0, running, running, "a job that is running now"))
    return batches, handovers


# -- the cluster -----------------------------------------------------------------------------------------------------


def _cluster(
    loaded: Loaded,
    app: Application | None,
    daemon: Daemon | None,
    seconds: float | None,
    missing: dict[str, str],
) -> tuple[Cluster | None, str]:
    from swarm.doctor.survey import Refused, Survey, Unreachable

    try:
        survey = Survey(dict(loaded.settings.kafka))
    except Unreachable as error:
        return None, str(error)
    except Refused as error:
        missing["cluster"] = f"librdkafka makes no client: {error}"  # which `check` says as a finding
        return None, ""
    try:
        return _surveyed(survey, loaded, app, daemon, seconds), ""
    finally:
        survey.close()


def _surveyed(
    survey: Survey, loaded: Loaded, app: Application | None, daemon: Daemon | None, seconds: float | None
) -> Cluster:
    groups = app.groups if app is not None else ()
    topics = {group.name: _topics_of(group, survey.names) for group in groups}
    letters = [each.dead_letter for group in groups for each in group.subscriptions if each.dead_letter is not None]
    wanted = [*(name for names in topics.values() for name in names), *letters]
    config = survey.broker_config()
    known = survey.topics([*wanted, "__consumer_offsets", "__transaction_state"] if groups else [])
    shell = Facts(loaded.settings, Machine("", "", "", ""))
    strangers = survey.strangers(topics, lambda member: any(identity.is_ours(member, shell, g) for g in groups))
    looks = []
    live = survey.groups(list(topics))
    elsewhere = _held_elsewhere(live, daemon)
    gap = _gap(loaded, bool(daemon), elsewhere, any(group.members for group in live.values()), seconds)
    # What others hold is only known by its commits, and those come by interval.
    with_committed = gap >= 2 * loaded.settings.worker.commit_interval
    if gap > 0 and groups:
        end = time.monotonic() + gap
        looks.append(survey.look(topics, lambda: _positions(loaded, daemon), with_committed=with_committed))
        while (left := end - time.monotonic()) > STEP:
            time.sleep(min(STEP, left - STEP / 2))
            looks.append(survey.look(topics, dict, with_committed=False, with_offsets=False))
        time.sleep(max(0.0, end - time.monotonic()))
    if groups:
        looks.append(survey.look(topics, lambda: _positions(loaded, daemon), with_committed=with_committed))
    withheld = _withheld(survey, looks[0].stable, looks[-1].stable, looks[-1].ends, groups) if len(looks) > 1 else {}
    return Cluster(
        brokers=survey.brokers,
        config=config,
        topics=known,
        groups=dict(looks[-1].groups) if looks else {},
        strangers=tuple(strangers),
        looks=tuple(looks),
        withheld=withheld,
        missing=tuple(survey.missing),
    )


def _topics_of(group: Group, names: Sequence[str]) -> list[str]:
    patterns = [each.pattern for each in group.subscriptions if each.pattern is not None]
    return [name for name in names if name in group.topics or any(re.match(pattern, name) for pattern in patterns)]


def _held_elsewhere(live: Mapping[str, Any], daemon: Daemon | None) -> bool:
    """Whether members hold something that the daemon here does not."""
    mine = {held.seat for worker in (daemon.workers if daemon is not None else ()) for held in worker.held}
    return any((name, *place) not in mine for name, group in live.items() for m in group.members for place in m.held)


def _gap(loaded: Loaded, daemon: bool, elsewhere: bool, members: bool, seconds: float | None) -> float:
    """Seconds between the first and the last look."""
    if seconds is not None:
        return seconds
    if elsewhere:
        return min(LONGEST_GAP, max(GAP, 2 * loaded.settings.worker.commit_interval + 1))
    return GAP if daemon or members else STEP


def _positions(loaded: Loaded, daemon: Daemon | None) -> dict[Seat, int]:
    """How far handlers are, by the daemon's own word of this moment."""
    if daemon is None:
        return {}
    status = _status(loaded, {})
    now = _daemon(status) if status is not None else None
    held = [held for worker in (now.workers if now is not None else ()) for held in worker.held]
    return {each.seat: each.position for each in held if each.position >= 0}


def _withheld(
    survey: Survey,
    before: Mapping[Place, int],
    after: Mapping[Place, int],
    ends: Mapping[Place, int],
    groups: Sequence[Group],
) -> dict[Place, float]:
    """For how long the first message has waited, of the first few partitions whose last stable offset stands."""
    standing = [place for place, offset in after.items() if before.get(place) == offset < ends.get(place, 0)]
    found = {}
    for place in standing[:5]:
        age = survey.age(place, after[place], groups[0].name)
        if age is not None:
            found[place] = age
    return found
