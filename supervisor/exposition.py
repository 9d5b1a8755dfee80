"""The page /metrics: scoreboards, bulletin, /proc and the application's own metric files. Knows Prometheus, no HTTP; decides nothing.

Imported by the observer at its first scrape. What is unknown is left out, never shown as 0; counters belong to a worker's
index and go on over its restarts.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from swarm.app_metrics import DAMAGED
from swarm.scoreboard import (
    ABORTED,
    BATCHES,
    DEAD_LETTERS,
    HISTOGRAMS,
    MESSAGES,
    REBALANCES,
    RETRIES,
    SKIPPED,
    AssignedView,
)
from swarm.supervisor.observer import Notice, View, is_current
from swarm.supervisor.rotation import Rotation

SWARM_STATES: Final = ("starting", "running", "quiet", "stopping")
RESTART_REASONS: Final = (
    "finished", "requested", "crashed", "killed", "boot_error", "report_timeout", "poll_timeout", "consume_timeout",
    "partition_stands", "join_stuck",
    "memory_limit", "memory_kill", "lifetime", "max_messages", "fenced", "orphaned",
)  # fmt: skip
"""Shown as 0 until they happen: a counter that appears with its first event hides that event from `increase()`."""

_COUNTERS: Final = {
    "messages": (MESSAGES, "Messages handled or set aside, once each."),
    "batches": (BATCHES, "Runs of a handler that succeeded."),
    "retries": (RETRIES, "Runs of a handler after the first on the same messages."),
    "dead_letters": (DEAD_LETTERS, "Messages set aside after their last attempt."),
    "skipped": (SKIPPED, "Messages that were passed over as asked: expired or filtered."),
    "transactions_aborted": (
        ABORTED,
        "Transactions that did not happen, for no fault of a handler's; their runs are repeated.",
    ),
    "rebalances": (REBALANCES, "Changes of a worker's assignment."),
}
_HISTOGRAM_HELP: Final = {
    "batch_duration_seconds": "Time that a handler took for one successful run.",
    "batch_size": "Messages in one successful run.",
    "commit_duration_seconds": "Time that one commit of offsets took.",
}
_LE: Final = {name: [*map(floatToGoString, bounds), "+Inf"] for name, bounds in HISTOGRAMS.items()}


class Exposition:
    """The page. Keeps what a counter must not forget between scrapes; one thread at a time."""

    def __init__(
        self,
        view: View,
        metrics_dir: Path | None,
        complain: Callable[[str, str], None],
        rotation: Rotation | None = None,
    ) -> None:
        self._view = view
        self._application = None if metrics_dir is None else ApplicationMetrics(metrics_dir, complain)
        self._processor_time = ProcessorTime()
        self._rotation = rotation or Rotation()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def page(self, accept: str) -> tuple[str, bytes]:
        """Content type and text, in the format that the header Accept asks for."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

    def collect(self) -> Iterator[Metric]:
        """For prometheus-client: all families, read now."""
        notice, now = self._view.notice(), self._view.clock()
        own = [*_swarm(notice), *self._workers(notice, now), *self._totals(), *self._lag(notice, now)]
        yield from own
        if self._application is not None:
            yield from self._application.families(
                live={str(worker.index) for worker in notice.workers.values() if worker.pid is not None},
                taken={family.name for family in own},
            )

    def _workers(self, notice: Notice, now: float) -> Iterator[Metric]:
        up = GaugeMetricFamily("swarm_worker_up", "1 while the process is there.", labels=["worker"])
        restarts = CounterMetricFamily(
            "swarm_worker_restarts", "Exits by reason (docs/operations.md explains each).", labels=["worker", "reason"]
        )
        memory = GaugeMetricFamily(
            "swarm_worker_memory_bytes",
            "Memory of the process: rss; uss and pss where they were measured.",
            labels=["worker", "kind"],
        )
        cpu = CounterMetricFamily(
            "swarm_worker_cpu_seconds", "User and system time, over the processes of this index.", labels=["worker"]
        )
        failures = GaugeMetricFamily(
            "swarm_worker_failures",
            "Ends of the worker in a row that were not planned, each soon after its start.",
            labels=["worker"],
        )
        exact = self._rotation.look({index: worker.pid for index, worker in notice.workers.items()})
        for index, worker in sorted(notice.workers.items()):
            label = str(index)
            up.add_metric([label], 0 if worker.pid is None else 1)
            for reason in dict.fromkeys((*RESTART_REASONS, *worker.restarts)):
                restarts.add_metric([label, reason], worker.restarts.get(reason, 0))
            sizes = dict(worker.memory)
            if index in exact:  # RSS is the supervisor's, of a moment ago
                found = exact[index]
                sizes |= {kind: size for kind, size in (("uss", found.uss), ("pss", found.pss)) if size is not None}
            for kind, size in sizes.items():
                memory.add_metric([label, kind], size)
            failures.add_metric([label], worker.failures)
            seconds = self._processor_time.total(index, worker.pid, worker.cpu_before)
            if seconds is not None:
                cpu.add_metric([label], seconds)
        age = GaugeMetricFamily(
            "swarm_worker_report_age_seconds", "Time since the worker's main thread last came round.", labels=["worker"]
        )
        contested = GaugeMetricFamily(
            "swarm_worker_contested",
            "1 while another process uses the worker's group.instance.id: two daemons of one name and host?",
            labels=["worker"],
        )
        for board in self._view.boards:
            report_at = board.report_at
            if report_at > 0.0 and is_current(board, notice.workers.get(board.index)):
                age.add_metric([str(board.index)], max(0.0, now - report_at))
                contested.add_metric([str(board.index)], int(any(group.contested for group in board.groups())))
        yield from (up, restarts, failures, memory, cpu, age, contested)

    def _totals(self) -> Iterator[Metric]:
        boards = self._view.boards
        for name, (word, text) in _COUNTERS.items():
            counter = CounterMetricFamily(f"swarm_{name}", text, labels=["worker"])
            for board in boards:
                counter.add_metric([str(board.index)], board.ints[word])
            yield counter
        errors = CounterMetricFamily(
            "swarm_errors",
            "Errors by kind: handler (failed runs), client, commit, dead_letter, listener, hook.",
            labels=["worker", "kind"],
        )
        for board in boards:
            for kind, count in board.errors_by_kind().items():
                errors.add_metric([str(board.index), kind], count)
        yield errors
        for name, text in _HISTOGRAM_HELP.items():
            histogram = HistogramMetricFamily(f"swarm_{name}", text, labels=["worker"])
            for board in boards:
                view = board.histogram(name)
                # The count is that of the buckets: the scoreboard's own may be one ahead while we read.
                total, cumulative = 0, []
                for le, count in zip(_LE[name], view.buckets, strict=True):
                    total += count
                    cumulative.append((le, float(total)))
                histogram.add_metric([str(board.index)], cumulative, view.sum)
            yield histogram

    def _lag(self, notice: Notice, now: float) -> Iterator[Metric]:
        # Around a rebalance two workers may name one partition: the one that saw its end last is right. A worker that
        # has no process consumes nothing, and nobody knows how the lag of its partitions grows meanwhile.
        latest: dict[tuple[str, str, int], AssignedView] = {}
        for board in self._view.boards:
            if not is_current(board, notice.workers.get(board.index)):
                continue
            for entry in board.assigned():
                key = (entry.group, entry.topic, entry.partition)
                if entry.lag is not None and (key not in latest or entry.high_at > latest[key].high_at):
                    latest[key] = entry
        labels = ["group", "topic", "partition"]
        lag = GaugeMetricFamily(
            "swarm_consumer_lag", "High watermark minus committed offset, in messages.", labels=labels
        )
        age = GaugeMetricFamily(
            "swarm_consumer_lag_age_seconds",
            "Time since the high watermark was last known to be fresh: it stands still while a partition is paused.",
            labels=labels,
        )
        for (group, topic, partition), entry in sorted(latest.items()):
            values = [group, topic, str(partition)]
            lag.add_metric(values, entry.lag or 0)
            if entry.high_at > 0.0:
                age.add_metric(values, max(0.0, now - entry.high_at))
        yield from (lag, age, *self._troubles(notice))

    def _troubles(self, notice: Notice) -> Iterator[Metric]:
        """By group and topic, from 0 on: partitions that are worked on by nobody, for whatever reason, and messages that kill."""
        known: set[tuple[str, str]] = {*notice.unowned, *notice.suspects}
        paused: Counter[tuple[str, str]] = Counter()
        standing: Counter[tuple[str, str]] = Counter()
        for board in self._view.boards:
            if is_current(board, notice.workers.get(board.index)):
                for entry in board.assigned():
                    place = entry.group, entry.topic
                    known.add(place)
                    paused[place] += entry.paused
                    standing[place] += entry.stands_since > 0.0
        found: dict[str, tuple[str, Mapping[tuple[str, str], int]]] = {
            "swarm_paused_partitions": ("Partitions that rest because an operator paused them.", paused),
            "swarm_standing_partitions": ("Partitions that stand still although their log grows.", standing),
            "swarm_unowned_partitions": ("Partitions that nobody in the group has.", notice.unowned),
            "swarm_suspected_ranges": (
                "Ranges of messages of which one may have killed its process.",
                {place: ranges for place, (ranges, _) in notice.suspects.items()},
            ),
            "swarm_condemned_messages": (
                "Messages that have killed their process again and again and are not run any more.",
                {place: condemned for place, (_, condemned) in notice.suspects.items()},
            ),
        }
        for name, (text, counts) in found.items():
            family = GaugeMetricFamily(name, text, labels=["group", "topic"])
            for group, topic in sorted(known):
                family.add_metric([group, topic], counts.get((group, topic), 0))
            yield family


def _swarm(notice: Notice) -> Iterator[Metric]:
    """What concerns no single worker; nothing before the supervisor has posted."""
    if notice.problem:
        return
    yield InfoMetricFamily("swarm", "The daemon.", value={"version": notice.version, "name": notice.name})
    state = GaugeMetricFamily("swarm_state", "1 for the state that the swarm is in.", labels=["state"])
    for name in SWARM_STATES:
        state.add_metric([name], 1 if name == notice.state else 0)
    yield state
    yield GaugeMetricFamily("swarm_workers", "Workers that are configured.", value=len(notice.workers))


# -- processor time --------------------------------------------------------------------------------------------------


class ProcessorTime:
    """Seconds of user and system time per worker index, over its processes. Never goes back while the observer lives.

    The supervisor knows what processes that are gone had used, and tells it in the bulletin, so that a new observer knows it too.
    """

    def __init__(self, read: Callable[[int], float | None] | None = None) -> None:
        self._read = read or read_processor_time
        self._shown: dict[int, float] = {}

    def total(self, index: int, pid: int | None, former: float) -> float | None:
        """Seconds up to now, `former` by processes that are gone; None while no process of this index was ever seen."""
        seconds = None if pid is None else self._read(pid)
        if seconds is None and not former and index not in self._shown:
            return None
        # It is gone and the bulletin does not say so yet: what was seen last is still true.
        total = self._shown[index] = max(self._shown.get(index, 0.0), former + (seconds or 0.0))
        return total


_TICKS: Final = os.sysconf("SC_CLK_TCK")


def read_processor_time(pid: int) -> float | None:
    """Seconds of user and system time of a process; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        fields = text.rpartition(")")[2].split()  # a process's name may hold spaces and brackets
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, ValueError, IndexError):
        return None


# -- the application's own metrics -----------------------------------------------------------------------------------


class ApplicationMetrics:
    """Merges the files of prometheus-client's multiprocess mode, which the workers write and nobody locks."""

    def __init__(self, directory: Path, complain: Callable[[str, str], None]) -> None:
        self._directory = directory
        self._complain = complain

    def families(self, live: set[str], taken: set[str]) -> Iterator[Metric]:
        """All families but those whose names are `taken`, and the number of damaged files, which are left out.

        `live` are the indexes that have a process: gauges of the "live" modes are shown for these only.
        """
        names = self._names()
        files = [
            name
            for name in names
            if name.endswith(".db") and (not name.startswith("gauge_live") or _identifier(name) in live)
        ]
        families, damaged = self._merge(files)
        damaged += sum(1 for name in names if name.endswith(DAMAGED))
        yield GaugeMetricFamily(
            "swarm_damaged_metric_files", "Files of the application's metrics that cannot be read.", value=damaged
        )
        for family in families:
            if family.name not in taken and family.name != "swarm_damaged_metric_files":
                _name_workers(family)
                yield family

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._directory) if name.endswith((".db", DAMAGED)))
        except OSError:
            return []  # no worker has made a metric yet

    def _merge(self, names: list[str]) -> tuple[list[Metric], int]:
        try:
            return self._read(names), 0
        except Exception:  # whatever bytes were found: now see in which file
            sound, damaged = [], 0
        for name in names:
            try:
                self._read([name])
                sound.append(name)
            except FileNotFoundError:
                continue  # removed since we listed it
            except Exception as error:
                damaged += 1
                self._complain(
                    name,
                    f"{self._directory / name}: this file of the application's metrics is damaged ({error!r}) and left out; "
                    "the other metrics are served. Stop its worker and remove the file to count anew.",
                )
        try:
            return self._read(sound), damaged
        except Exception as error:  # sound alone, but not together
            self._complain("", f"{self._directory}: the application's metrics cannot be merged ({error!r}).")
            return [], len(names)

    def _read(self, names: Iterable[str]) -> list[Metric]:
        paths = [str(self._directory / name) for name in names]
        for path in paths:
            _check_header(path)
        families: list[Metric] = list(MultiProcessCollector.merge(paths))  # type: ignore[no-untyped-call]
        for family in families:
            _check(family)
        return families


def _identifier(name: str) -> str:
    return name.removesuffix(".db").rpartition("_")[2]


def _check_header(path: str) -> None:
    """Raises an exception where the file's first word, the bytes in use, cannot be: prometheus-client takes some for none."""
    with open(path, "rb") as file:
        (used,) = struct.unpack("i", file.read(4))
        size = os.fstat(file.fileno()).st_size
    if not 0 <= used <= size:
        raise ValueError(f"its {size} bytes cannot hold {used}")


def _check(family: Metric) -> None:
    """Raises an exception for what a scraper would choke on: one such line costs it the whole page."""
    for text in (family.name, family.documentation):
        text.encode()  # raises for what UTF-8 cannot say
    for sample in family.samples:
        for text in sample.labels.values():
            text.encode()
        if not str(sample.name).startswith(family.name) or not all(map(str.isprintable, (sample.name, *sample.labels))):
            raise ValueError(f"strange names in {family.name!r}")


def _name_workers(family: Metric) -> None:
    """What tells the workers' gauges apart is their index, so call it that; prometheus-client calls it pid."""
    if family.type == "gauge":
        for sample in family.samples:
            if "pid" in sample.labels and "worker" not in sample.labels:
                sample.labels["worker"] = sample.labels.pop("pid")
