"""What fills this process: allocators, collector, objects by type, allocation lines. Looks, and on request lets go; decides nothing.

In workers only, in a thread that may take its time: everything is done in steps of about a millisecond, between which the interpreter's lock
is free, but for the single calls of C code that say so. What came with the fork is frozen (`gc.freeze`) and left alone, because a
look at it would copy its pages; only what the application's own modules hold by name is followed there.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import os
import re
import sys
import sysconfig
import time
import tracemalloc
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

from swarm import allocator

SURVEY: Final = 2.0
"""Seconds that a survey of types takes at most; what it has not seen by then is extrapolated."""
STEP: Final = 500
"""Objects of one step, about a millisecond."""
REST: Final = 0.0005
"""Seconds between two steps."""
BIG: Final = 256 << 10
"""Bytes of a container from which on only a sample of what it holds is looked at."""
LARGE: Final = 32 << 10
"""Bytes of a container from which on it may be named among the largest."""
SAMPLE: Final = 5000
"""How many of its elements."""
NAMED: Final = 20_000
"""Objects that the walk from the application's names visits at most."""
WIDE: Final = 1000
"""Elements of a container from which on the walk does not enter it."""
CONTAINERS: Final = 5
"""Largest containers that a survey names."""
FRAMES: Final = 5
"""Frames that tracemalloc keeps of each allocation."""
LINES: Final = 10
"""Allocation lines that are shown."""

_DEEPEST: Final = 10
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_ELEMENTS: Final = (list, tuple, set, frozenset, deque)


# -- allocators and collector ----------------------------------------------------------------------------------------


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def resident() -> tuple[int, int]:
    """RSS of this process in bytes, and the part of it that is no file's."""
    _, all_, shared, *_ = Path("/proc/self/statm").read_bytes().split()
    return int(all_) * _PAGE, (int(all_) - int(shared)) * _PAGE


def allocators() -> dict[str, Any]:
    """Bytes in use and free in Python's own allocator and in the C library's; None for what this interpreter or library does not tell.

    Python's: objects of up to 512 bytes. The C library's: larger ones, and everything of C code, librdkafka's included. Its free bytes may
    have gone back to the kernel in part. Some milliseconds for each GB, with the interpreter's lock held.
    """
    return {
        "allocator": allocator.described(),
        "python": python_arenas(),
        "malloc": malloc_arenas(),
        "anonymous": resident()[1],
    }


def malloc_arenas() -> dict[str, int] | None:
    """What glibc's mallinfo2(3) says: `system` is taken from the kernel, `mapped` beside it for large blocks; `top` can be given back."""
    if allocator.allocator() != "glibc":
        return None
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:  # before glibc 2.33
        return None
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return {
        "used": found.uordblks + found.hblkhd,
        "free": found.fordblks,
        "top": found.keepcost,
        "system": found.arena,
        "mapped": found.hblkhd,
    }


def python_arenas() -> dict[str, int] | None:
    """What `sys._debugmallocstats` prints on stderr, read from a file of our own: the log is not disturbed."""
    libc = ctypes.CDLL(None)
    report = getattr(ctypes.pythonapi, "_PyObject_DebugMallocStats", None)
    if report is None:
        return None
    libc.fdopen.restype, libc.fdopen.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_char_p]
    libc.fclose.argtypes = [ctypes.c_void_p]
    report.argtypes = [ctypes.c_void_p]
    fd = os.memfd_create("swarm-malloc", os.MFD_CLOEXEC)
    try:
        stream = libc.fdopen(os.dup(fd), b"w")
        if not stream:
            return None
        report(stream)
        libc.fclose(stream)
        text = os.pread(fd, 1 << 20, 0).decode("ascii", "replace")
    finally:
        os.close(fd)
    return parse_arenas(text)


def parse_arenas(text: str) -> dict[str, int] | None:
    """The sums of such a report; None where it holds none (another allocator: PYTHONMALLOC). Pure."""

    def number(pattern: str) -> int | None:
        found = re.search(pattern + r"\s*=\s*([\d,]+)\s*$", text, re.MULTILINE)
        return int(found[1].replace(",", "")) if found else None

    size = number(r"^\d+ arenas? \* \d+ bytes/arena")
    used = number(r"^# bytes in allocated blocks")
    if size is None or used is None:
        return None
    return {"used": used, "free": size - used, "system": size, "blocks": sys.getallocatedblocks()}


def collector() -> dict[str, Any]:
    """The state of Python's garbage collector. `frozen`: objects that came with the fork, which it leaves alone."""
    return {
        "enabled": gc.isenabled(),
        "counts": list(gc.get_count()),
        "thresholds": list(gc.get_threshold()),
        "collections": [each["collections"] for each in gc.get_stats()],
        "uncollectable": sum(each["uncollectable"] for each in gc.get_stats()),
        "garbage": len(gc.garbage),
        "frozen": gc.get_freeze_count(),
    }


def collect() -> dict[str, Any]:
    """Collect all garbage, then give back to the kernel what glibc can (malloc_trim). Says what came of it.

    The collection holds the interpreter's lock: about 0.1 s for each million of objects.
    """
    before, arenas = resident()[0], allocators()
    began = time.monotonic()
    found = gc.collect()
    collected = resident()[0]
    trimmed = allocator.allocator() == "glibc" and bool(ctypes.CDLL(None).malloc_trim(0))
    return {
        "objects": found,
        "rss_before": before,
        "rss_collected": collected,
        "rss": resident()[0],
        "trimmed": trimmed,
        "seconds": time.monotonic() - began,
        "before": arenas,
    }


# -- what is the application's ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scope:
    """What names may be followed from. `packages`: top-level packages of the application, wherever they are installed. `roots`: further
    objects whose contents are named, such as consumers."""

    packages: frozenset[str] = frozenset()
    roots: Mapping[str, Any] = field(default_factory=dict)


_ELSEWHERE: Final = tuple(
    {os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def _is_own(name: str, module: Any, packages: frozenset[str]) -> bool:
    """Whether a module is the application's: neither Python's, nor an installed package's (but for `packages`), nor ours."""
    if not isinstance(module, ModuleType):
        return False
    package = name.partition(".")[0]
    if package in packages:
        return True
    file = getattr(module, "__file__", None)
    return package != "swarm" and isinstance(file, str) and not os.path.abspath(file).startswith(_ELSEWHERE)


# -- objects by type -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Survey:
    """Objects by type: those that the collector knows, and those that they hold. `share`: the part of them that was looked at."""

    types: list[tuple[str, int, int]]
    """Name, number and bytes, largest first; extrapolated where `share` is less than 1."""
    objects: int
    share: float
    seconds: float
    containers: list[dict[str, Any]] = field(default_factory=list)

    def facts(self, most: int) -> dict[str, Any]:
        """As JSON, with the `most` largest types."""
        return {
            "types": [{"type": name, "count": count, "bytes": size} for name, count, size in self.types[:most]],
            "bytes": sum(size for _, _, size in self.types),
            "objects": self.objects,
            "share": round(self.share, 3),
            "seconds": round(self.seconds, 3),
            "containers": self.containers,
        }


def type_name(kind: type) -> str:
    """`shop.app.Order`; types of the language without their module."""
    try:
        module, name = kind.__module__, kind.__qualname__
        return str(name) if module == "builtins" else f"{module}.{name}"
    except Exception:  # a metaclass of the application's may say anything
        return type.__repr__(kind)


def _size(thing: Any) -> int:
    try:
        return sys.getsizeof(thing)
    except Exception:  # a __sizeof__ of the application's
        return 0


def _calibrate() -> int:
    # What the list, the loop's variable and the call add to an object's count of references differs between versions of Python.
    fresh = [bytes(bytearray(b"fresh object"))]
    seen = [sys.getrefcount(each) for each in fresh]
    return seen[0]


_OURS: Final = _calibrate()


class _Count:
    def __init__(self, ours: Mapping[int, _Named]) -> None:
        self.ours = ours
        self.counts: defaultdict[type, float] = defaultdict(float)
        self.sizes: defaultdict[type, float] = defaultdict(float)
        self.largest: list[tuple[int, Any]] = []

    def take(self, objects: Iterable[Any]) -> None:
        """Count objects that the collector knows, and their share in what they hold and it does not know (texts, bytes, numbers)."""
        counts, sizes = self.counts, self.sizes
        small = []
        for each in objects:
            if each is self.ours:  # as large as what it names, which would push the application's own from the list
                continue
            kind, size = type(each), _size(each)
            counts[kind] += 1
            sizes[kind] += size
            if size >= LARGE:
                self._keep(size, each)
            if size >= BIG:
                self._share(*_sample(each))
            else:
                small.append(each)
        self._share(gc.get_referents(*small), 1.0)

    def hold(self, thing: Any) -> None:
        """The same for one that is known to be there already: its contents count, and not itself."""
        size = _size(thing)
        if size >= LARGE:
            self._keep(size, thing)
        self._share(*_sample(thing))

    def _share(self, held: list[Any], weight: float, depth: int = 0) -> None:
        counts, sizes, tracked, references = self.counts, self.sizes, gc.is_tracked, sys.getrefcount
        for each in held:
            if not tracked(each):
                # Each of its holders counts its part: no list of what was counted already is needed, which would be as large as all.
                part = weight / max(1, references(each) - _OURS)
                kind = type(each)
                size = _size(each)
                counts[kind] += part
                sizes[kind] += part * size
                if kind in (dict, tuple) and each and depth < _DEEPEST:  # untracked while it holds nothing that is
                    if size >= LARGE:
                        self._keep(size, each)
                    inside, step = _sample(each)
                    self._share(inside, part * step, depth + 1)

    def _keep(self, size: int, thing: Any) -> None:
        self.largest.append((size, thing))
        if len(self.largest) > 4 * CONTAINERS:
            self.prune()

    def prune(self) -> None:
        self.largest.sort(key=lambda each: each[0], reverse=True)
        del self.largest[CONTAINERS:]


def _sample(thing: Any) -> tuple[list[Any], float]:
    """Some of what a large container holds, and for how many each of them stands."""
    kind = type(thing)
    try:
        if issubclass(kind, dict):
            step = max(1, 2 * len(thing) // SAMPLE)
            return [*islice(thing.values(), 0, None, step), *islice(thing.keys(), 0, None, step)], float(step)
        if kind in _ELEMENTS:
            step = max(1, len(thing) // SAMPLE)
            return list(islice(thing, 0, None, step)), float(step)
    except RuntimeError:  # it changed while we looked
        return [], 1.0
    return gc.get_referents(thing), 1.0


def survey(scope: Scope, seconds: float = SURVEY) -> Survey:
    """What there is, by type. Blocks for `seconds` at most, plus some 20 ms for each million of objects, with the interpreter's lock held."""
    began = time.monotonic()
    names = _names(scope)
    objects = gc.get_objects()
    total = len(objects)
    count = _Count(names)
    starts = _scattered(range(0, total, STEP))
    seen = 0
    deadline = time.monotonic() + seconds
    for start in starts:
        if time.monotonic() > deadline:
            break
        step = objects[start : start + STEP]
        objects[start : start + STEP] = [None] * len(step)  # what dies meanwhile need not wait for us
        seen += len(step)
        for each in step:
            known = names.get(id(each))
            if known is not None:
                known.frozen = False
        count.take(step)
        time.sleep(REST)
    share = seen / total if total else 1.0
    if share < 1.0:
        for address in map(id, objects):
            if address in names:
                names[address].frozen = False
        factor = 1.0 / max(share, 1e-9)
        for table in (count.counts, count.sizes):
            for kind in table:
                table[kind] *= factor
    del objects
    if gc.get_freeze_count():
        for named in names.values():
            if named.frozen and gc.is_tracked(named.thing):  # what is not, was counted with who holds it
                count.hold(named.thing)
    count.prune()
    count.sizes.pop(_Named, None)  # our own
    rows = sorted(
        ((type_name(kind), round(count.counts[kind]), round(size)) for kind, size in count.sizes.items()),
        key=lambda row: -row[2],
    )
    containers = [_described(size, thing, names) for size, thing in count.largest]
    return Survey(rows, total, share, time.monotonic() - began, containers)


def _scattered(steps: range) -> Iterator[int]:
    """All of them, in an order in which every beginning is a fair sample: neighbours were made at the same time."""
    stride = max(1, round(len(steps) * 0.618))
    while math.gcd(stride, len(steps)) > 1:
        stride += 1
    return (steps[number * stride % len(steps)] for number in range(len(steps)))


def _described(size: int, thing: Any, names: Mapping[int, _Named]) -> dict[str, Any]:
    known = names.get(id(thing))
    with contextlib.suppress(Exception):
        length = len(thing)
        return {"type": type_name(type(thing)), "bytes": size, "length": length, "name": known.name if known else None}
    return {"type": type_name(type(thing)), "bytes": size, "length": None, "name": known.name if known else None}


@dataclass(slots=True)
class _Named:
    name: str
    thing: Any
    frozen: bool = True


def _names(scope: Scope) -> dict[int, _Named]:
    """What the application's modules (and `roots`) hold, by its address, with a name for it such as `shop.app.seen`.

    Stops at other modules, at classes and functions of others, and at NAMED objects.
    """
    own = {name: module for name, module in list(sys.modules.items()) if _is_own(name, module, scope.packages)}
    borders = {id(vars(module)) for module in list(sys.modules.values()) if isinstance(module, ModuleType)}
    found: dict[int, _Named] = {}
    queue: deque[tuple[str, Any]] = deque(scope.roots.items())
    for name, module in own.items():
        queue.extend((f"{name}.{key}", value) for key, value in list(vars(module).items()) if not key.startswith("__"))
    while queue and len(found) < NAMED:
        name, thing = queue.popleft()
        address = id(thing)
        if address in found or address in borders or issubclass(type(thing), ModuleType):
            continue
        if not gc.is_tracked(thing) and not (type(thing) is dict and thing):
            continue
        if issubclass(type(thing), (type, FunctionType)) and getattr(thing, "__module__", None) not in own:
            continue
        # Of what is untracked no reference is kept: those of others are counted.
        found[address] = _Named(name, thing if gc.is_tracked(thing) else None)
        queue.extend(_inside(name, thing))
    return found


def _inside(name: str, thing: Any) -> list[tuple[str, Any]]:
    try:
        if issubclass(type(thing), dict):  # isinstance would ask the thing itself
            return [(f"{name}[…]", value) for value in list(thing.values())] if len(thing) <= WIDE else []
        if type(thing) in _ELEMENTS:
            return [(f"{name}[…]", value) for value in list(thing)] if len(thing) <= WIDE else []
        attributes = getattr(thing, "__dict__", None)
        inside = [(f"{name}.{key}", value) for key, value in list((attributes or {}).items()) if isinstance(key, str)]
        if not issubclass(type(thing), type):
            inside += [(f"{name}.…", value) for value in islice(gc.get_referents(thing), WIDE)]
        return inside
    except Exception:  # a __getattr__ or __len__ of the application's, or it changed while we looked
        return []


# -- allocation lines ------------------------------------------------------------------------------------------------


class Tracing:
    """tracemalloc, switched on and off. One thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = 0.0

    def start(self) -> None:
        """Note the line of each allocation from now on: Python code takes two to four times as long, and memory is used for it."""
        if not tracemalloc.is_tracing():
            tracemalloc.start(FRAMES)
            self._since = self._clock()

    def stop(self) -> None:
        """Forget what was noted, and note nothing more."""
        tracemalloc.stop()

    @property
    def own(self) -> int | None:
        """Bytes that the tracing itself needs; None: it is off."""
        return tracemalloc.get_tracemalloc_memory() if tracemalloc.is_tracing() else None

    def facts(self, most: int = LINES) -> dict[str, Any]:
        """The lines that allocated most of what is still there. Copies all that was noted, with the interpreter's lock held: some 0.3 s
        for each million of objects."""
        if not tracemalloc.is_tracing():
            return {"on": False}
        current, peak = tracemalloc.get_traced_memory()
        own = tracemalloc.get_tracemalloc_memory()
        snapshot = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(False, tracemalloc.__file__), tracemalloc.Filter(False, __file__)]
        )
        lines = [
            {
                "bytes": each.size,
                "count": each.count,
                "lines": [f"{frame.filename}:{frame.lineno}" for frame in reversed(each.traceback)],
            }
            for each in snapshot.statistics("traceback")[:most]
        ]
        return {
            "on": True,
            "seconds": round(self._clock() - self._since, 1),
            "bytes": current,
            "peak": peak,
            "own": own,
            "lines": lines,
        }


# -- a dump ----------------------------------------------------------------------------------------------------------


def dump(path: str, facts: Mapping[str, Any], scope: Scope, tracing: Tracing) -> dict[str, Any]:
    """Write what there is into a new file, mode 0600: JSON lines, the first with `facts`, then an object each: its id, type, size and the
    ids of what it holds. No contents: neither texts nor keys. With tracing on, its lines at the end.

    Blocks for some seconds for each million of objects. Raises OSError; a file that is there is not written over.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    names = _names(scope)
    objects = gc.get_objects()
    written = 0
    with os.fdopen(fd, "w") as stream:
        stream.write(json.dumps({"format": "swarm-heap-1", **facts, "objects": len(objects)}) + "\n")
        here = {address for address, named in names.items() if named.thing is not None}
        for start in range(0, len(objects), STEP):
            step = objects[start : start + STEP]
            objects[start : start + STEP] = [None] * len(step)
            for each in step:
                here.discard(id(each))
                stream.write(_entry(each, names) + "\n")
                written += 1
            time.sleep(REST)
        for named in names.values():  # what came with the fork and is held by a name of the application's
            if id(named.thing) in here:
                stream.write(_entry(named.thing, names) + "\n")
                written += 1
        if tracemalloc.is_tracing():
            stream.write(json.dumps({"trace": tracing.facts(1000)}) + "\n")
    return {"path": path, "objects": written, "bytes": os.stat(path).st_size}


def _entry(thing: Any, names: Mapping[int, _Named]) -> str:
    held = gc.get_referents(thing)
    entry: dict[str, Any] = {
        "id": f"{id(thing):x}",
        "type": type_name(type(thing)),
        "size": _size(thing),
        "refs": [f"{id(each):x}" for each in held if gc.is_tracked(each)],
    }
    others = [each for each in held if not gc.is_tracked(each)]
    if others:
        by_type: dict[str, list[int]] = {}
        for each in others:
            entry_of = by_type.setdefault(type_name(type(each)), [0, 0])
            entry_of[0] += 1
            entry_of[1] += _size(each)
        entry["holds"] = by_type
    known = names.get(id(thing))
    if known is not None:
        entry["name"] = known.name
    return json.dumps(entry)
