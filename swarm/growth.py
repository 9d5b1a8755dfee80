"""Whether a process grows, why, and what to try next: from samples of its memory and what is known of its contents. Pure.

    samples ── trend ─┐
                      ├─ judge ─ verdict, why, next
    contents ─────────┘

Verdicts. `flat`: it does not grow (any more). `warm-up`: it grows ever less. `leak suspected`: it grows evenly. Three are about what the growth
consists of, and go before those: `held by librdkafka's queue` and `held in the lanes` behind it: messages that were fetched and wait;
`fragmented`: memory that nobody uses and the allocators have not given back. `unknown`: too few samples yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final, Literal

Sample = tuple[float, int, int]
"""Age of the process (s), RSS (bytes), messages it has handled."""
Name = Literal[
    "flat", "warm-up", "leak suspected", "fragmented", "held by librdkafka's queue", "held in the lanes", "unknown"
]

FEWEST: Final = 12
"""Samples that a trend needs."""
SHORTEST: Final = 10.0
"""Seconds that they must cover."""
NOISE: Final = 2 << 20
"""Bytes of growth that are none, …"""
NOISE_SHARE: Final = 0.03
"""… nor is this share of all memory."""
RISING: Final = 0.7
"""Of all pairs of samples so many must rise for a growth to be one: steps up and down are none."""
STEADY: Final = 0.5
"""A growth whose rate has not fallen below this share of its rate before is even."""
WORTH: Final = 16 << 20
"""Bytes of queues, or of unused memory, from which on they are worth a verdict, …"""
SHARE: Final = 0.5
"""… where they are this share of what the process has grown by."""
RECENT: Final = 300.0
"""Seconds that the recent samples must cover to be looked at alone."""
_MOST_PAIRED: Final = 40


@dataclass(frozen=True, slots=True)
class Trend:
    """How memory went. Rates are those of the later half of the samples: what was before is the past."""

    seconds: float
    samples: int
    grown: int
    """Bytes since the process was new."""
    per_hour: float
    per_message: float | None
    """Bytes for each message handled; None where none was, or too few."""
    rising: bool
    steady: bool
    """It goes on as it went."""
    recently: bool = False
    """Only of late: before that it stood."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a worker said of its memory, in bytes; None: not known.

    queued: in librdkafka's queue. lanes: fetched from it and not handled yet. unused: held by allocators, used by nobody. top: the part of
    that which can be given back. objects: all Python objects that were counted. most: the type that has most of them, in words. traced:
    what tracemalloc needs for itself; None: it is off.
    """

    queued: int | None = None
    lanes: int = 0
    unused: int | None = None
    top: int = 0
    objects: int | None = None
    most: str = ""
    traced: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """For people, and its first word for programs."""

    verdict: Name
    why: str
    next: tuple[str, ...] = ()


# -- the trend -------------------------------------------------------------------------------------------------------


def trend(samples: Sequence[Sample]) -> Trend | None:
    """What the samples say; None where they are too few or cover too little time. In any order; ages need not be evenly spaced."""
    every = sorted(samples)
    if len(every) < FEWEST or every[-1][0] - every[0][0] < SHORTEST:
        return None
    first = min(rss for _, rss, _ in every[:3])
    last = _last(every)
    middle = (every[0][0] + every[-1][0]) / 2
    found = _slope([each for each in _even(every) if each[0] >= middle], last)
    recent = [each for each in every if each[0] >= every[-1][0] - 2 * RECENT]
    recently = False
    if not found.rising and len(recent) < len(every) and recent[-1][0] - recent[0][0] >= RECENT:
        anew = _slope(recent, last)
        before = max(rss for age, rss, _ in every if age < recent[0][0])
        if anew.rising and anew.steady and last > before:  # as high as never before
            found, recently = anew, True
    return Trend(
        every[-1][0] - every[0][0],
        len(every),
        last - first,
        found.per_hour,
        found.per_message,
        found.rising,
        found.steady,
        recently,
    )


@dataclass(frozen=True, slots=True)
class _Slope:
    per_hour: float
    per_message: float | None
    rising: bool
    steady: bool


def _last(samples: Sequence[Sample]) -> int:
    return int(median(rss for _, rss, _ in samples[-3:]))


def _even(samples: Sequence[Sample]) -> list[Sample]:
    """Some of them, about evenly apart: where they are dense they must not outvote the others."""
    apart = (samples[-1][0] - samples[0][0]) / (4 * _MOST_PAIRED)
    kept = [samples[0]]
    for each in samples[1:-1]:
        if each[0] - kept[-1][0] >= apart:
            kept.append(each)
    return [*kept, samples[-1]]


def _slope(samples: Sequence[Sample], level: int) -> _Slope:
    """The line through samples (Theil and Sen: the median of all pairs, so that single peaks do not bend it)."""
    rate, up = _pairs(samples)
    grown = rate * (samples[-1][0] - samples[0][0])
    rising = grown > max(NOISE, NOISE_SHARE * level) and up >= RISING
    middle = (samples[0][0] + samples[-1][0]) / 2
    earlier = [each for each in samples if each[0] <= middle]
    later = [each for each in samples if each[0] >= middle]
    before, after = _pairs(earlier)[0], _pairs(later)[0]
    handled = samples[-1][2] - samples[0][2]
    return _Slope(
        rate * 3600, grown / handled if handled >= 100 else None, rising, after >= STEADY * before and after > 0
    )


def _pairs(samples: Sequence[Sample]) -> tuple[float, float]:
    """The median slope (bytes a second), and the share of pairs that rise."""
    step = max(1, len(samples) // _MOST_PAIRED)
    some = samples[::step]
    slopes = [
        (other[1] - one[1]) / (other[0] - one[0])
        for number, one in enumerate(some)
        for other in some[number + 1 :]
        if other[0] > one[0]
    ]
    if not slopes:
        return 0.0, 0.0
    return median(slopes), sum(1 for each in slopes if each > 0) / len(slopes)


# -- the verdict -----------------------------------------------------------------------------------------------------


def judge(way: Trend | None, contents: Contents | None, worker: int, limit: int, rss: int) -> Verdict:
    """What it is, why, and what to try next. `limit`: the worker's soft limit in bytes, 0: none. `contents` None: it did not answer."""
    if contents is not None and contents.traced is not None:
        found = _while_traced(contents.traced)
    else:
        found = _held(way, contents, rss) or _by_trend(way, contents, limit, rss)
    return replace(found, next=tuple(step.replace("WORKER", str(worker)) for step in found.next))


def _while_traced(own: int) -> Verdict:
    """It grows by what it notes of each allocation, and its objects are larger: nothing of that is the application's."""
    return Verdict(
        "unknown",
        f"its allocations are being traced, which takes {_size(own)} of its memory and slows it down: how it grows says nothing meanwhile. "
        "What was allocated since, and stays, is in the lines at the end.",
        (
            "after some minutes of work: swarmctl memory WORKER, and look at the lines of the application",
            "then: swarmctl memory WORKER --trace-off",
        ),
    )


def _by_trend(way: Trend | None, contents: Contents | None, limit: int, rss: int) -> Verdict:
    if way is None:
        return Verdict(
            "unknown",
            "there are too few samples of this process yet.",
            ("in half a minute: swarmctl memory WORKER",),
        )
    if not way.rising:
        return Verdict("flat", f"it has not grown in the later half of the {_time(way.seconds)} that it was watched.")
    if not way.steady:
        return Verdict(
            "warm-up",
            f"it grows, but ever less: caches and pools fill up ({_grown(way)}).",
            ("later: swarmctl memory WORKER",),
        )
    return _leak(way, contents, limit, rss)


def _held(way: Trend | None, contents: Contents | None, rss: int) -> Verdict | None:
    """Where most of what it has grown by is no leak, but waits or is unused."""
    if contents is None:
        return None
    # Without a trend, nothing says what it was before: then a half of all of it.
    grown = max(way.grown, WORTH) if way is not None else rss
    waiting = (contents.queued or 0) + contents.lanes
    if waiting >= max(WORTH, SHARE * grown) and waiting >= (contents.unused or 0):
        where = f"{_size(contents.queued)} in librdkafka's queue, {_size(contents.lanes)} in the lanes behind it"
        why = (
            f"messages that were fetched and wait to be handled: {where}. Their number is bounded, so this is no leak."
        )
        slow = "find out why the handler is slow, or the partition paused: swarmctl status, swarmctl backtrace WORKER"
        if contents.lanes > (contents.queued or 0):
            lower = (
                "a lane holds 4 batches or 4000 messages, and 32 MiB: fewer partitions for each worker make fewer lanes"
            )
            return Verdict("held in the lanes", why, (slow, lower))
        lower = (
            'lower "queued.max.messages.kbytes" (64 MiB for each client by default) or "queued.min.messages" in [kafka]'
        )
        return Verdict("held by librdkafka's queue", why, (slow, lower))
    unused = contents.unused or 0
    if unused >= max(WORTH, SHARE * grown):
        back = f"; {_size(contents.top)} of it can be given back" if contents.top >= WORTH else ""
        return Verdict(
            "fragmented",
            f"{_size(unused)} are free inside the allocators and used by nobody{back}. What was freed lies between what is in use.",
            (
                "give back what can be: swarmctl memory WORKER --collect",
                "another allocator: LD_PRELOAD of jemalloc, or MALLOC_TRIM_THRESHOLD_=131072 in the daemon's environment",
                "keep objects of a batch together, and shorter: smaller max_messages=; or worker.max_messages as a bound",
            ),
        )
    return None


def _leak(way: Trend, contents: Contents | None, limit: int, rss: int) -> Verdict:
    since = " of late" if way.recently else ""
    why = f"it grows evenly{since}: {_grown(way)}"
    if way.per_message is None:
        why += ", without handling messages"
    if limit > rss and way.per_hour > 0:
        why += f"; memory_limit is reached in {_time((limit - rss) / way.per_hour * 3600)}"
    why += "."
    stopgap = "until it is found: worker.max_messages replaces workers in time, and without a loss"
    if contents is None:
        return Verdict(
            "leak suspected",
            why + " What it consists of is not known: it did not answer.",
            ("swarmctl backtrace WORKER", stopgap),
        )
    if contents.objects is None:
        return Verdict("leak suspected", why, ("which types: swarmctl memory WORKER", stopgap))
    if contents.objects < SHARE * way.grown:
        return Verdict(
            "leak suspected",
            f"{why} Python's objects are {_size(contents.objects)} of it: the rest is memory of C code.",
            (
                "look at extension modules; LD_PRELOAD of jemalloc with its profiling shows their call sites",
                stopgap,
            ),
        )
    return Verdict(
        "leak suspected",
        f"{why} Most of its objects: {contents.most}.",
        (
            "which types grow: swarmctl memory WORKER --growth 30",
            "which lines allocate them: swarmctl memory WORKER --trace, and after a while swarmctl memory WORKER",
            stopgap,
        ),
    )


def _grown(way: Trend) -> str:
    parts = [f"{_size(round(way.per_hour))} an hour"]
    if way.per_message is not None:
        parts.append(f"{_size(round(way.per_message))} a message")
    return ", ".join(parts)


def _size(number: int | None) -> str:
    from swarm.display import size

    return size(number)


def _time(seconds: float) -> str:
    from swarm.display import duration

    return duration(seconds)
