"""Backtraces as faulthandler writes them, read: threads, frames, whose code it is, and many of them together as a profile. Pure.

The application's own code comes first: what a reader can change is hardly ever in the innermost frame, which is a lock's or a socket's.
"""

from __future__ import annotations

import ast
import importlib.util
import linecache
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

_THREAD: Final = re.compile(r'^(?:Current t|T)hread 0x([0-9a-f]+)(?: "([^"]*)")?[^\n]*\(most recent call first\):')
_FRAME: Final = re.compile(r'^  File "(.*)", line (\d+) in (.+)$')
_PACKAGE: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep
_SCRIPT: Final = re.compile(r"(^|/)swarmctl$")
_LIBRARIES: Final = re.compile(r"/(site|dist)-packages/|/lib(64)?/python3[^/]*/|^<frozen |^<string>")
_IDLE: Final = re.compile(r"^(next|wait|_serve|_run|run_forever|select|_run_once|_poll)$")


@cache
def _packages() -> tuple[str, ...]:
    """The folders of this package; in a checkout that is installed as it stands, they lie side by side."""
    found = [_PACKAGE]
    for name in ("swarm.supervisor", "swarm.config"):
        spec = importlib.util.find_spec(name)
        found += [folder + os.sep for folder in (spec.submodule_search_locations or () if spec is not None else ())]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Frame:
    """A line of code that runs, or waits for what it has called."""

    file: str
    line: int
    name: str

    @property
    def is_swarms(self) -> bool:
        """Whether it is this package's."""
        return (
            self.file.startswith(_packages()) or "/site-packages/swarm/" in self.file or bool(_SCRIPT.search(self.file))
        )

    def is_own(self, packages: Iterable[str] = ()) -> bool:
        """Whether it is the application's: in no library, or in one of these packages, wherever they are installed."""
        if self.is_swarms:
            return False
        if any(f"/{package}/" in self.file or self.file.endswith(f"/{package}.py") for package in packages if package):
            return True
        return _LIBRARIES.search(self.file) is None

    @property
    def short(self) -> str:
        """`shop.py line 18`."""
        return f"{os.path.basename(self.file)} line {self.line}"


@dataclass(frozen=True, slots=True)
class Stack:
    """One thread. frames: the innermost first."""

    ident: int
    name: str
    frames: tuple[Frame, ...]

    def own(self, packages: Iterable[str] = ()) -> list[Frame]:
        """The application's frames, the innermost first."""
        packages = tuple(packages)
        return [frame for frame in self.frames if frame.is_own(packages)]

    @property
    def is_idle(self) -> bool:
        """Whether it is one of ours that waits for work: nothing of an application's, nor of a library's on its behalf, runs in it."""
        return not any(frame.is_own() for frame in self.frames) and bool(
            self.frames and (self.frames[0].is_swarms or _IDLE.match(self.frames[0].name))
        )


def cut(text: str) -> tuple[str, str]:
    """A text that still grows, as what is whole of it and the rest, which begins with the last thread."""
    at = max((match.start() for match in re.finditer(r"^(?:Current t|T)hread 0x", text, re.MULTILINE)), default=0)
    return text[:at], text[at:]


def sections(text: str) -> Iterator[str]:
    """The text of each thread, as it stands, for counting; of one dump or of many."""
    lines: list[str] = []
    for line in text.splitlines():
        if _THREAD.match(line):
            if lines:
                yield "\n".join(lines)
            lines = [line]
        elif lines and line.startswith("  "):
            lines.append(line)
    if lines:
        yield "\n".join(lines)


def read(text: str, names: Mapping[int, str] | None = None) -> list[Stack]:
    """The threads of a backtrace, or of many. names: of threads by their idents, for a text that has none."""
    found = []
    for section in sections(text):
        head, *rest = section.splitlines()
        match = _THREAD.match(head)
        assert match is not None
        ident = int(match[1], 16)
        frames = [
            Frame(frame[1], int(frame[2]), frame[3])
            for frame in map(_FRAME.match, rest)
            if frame is not None  # else "..." or "<no Python frame>"
        ]
        found.append(Stack(ident, match[2] or (names or {}).get(ident, ""), tuple(frames)))
    return found


Source = Callable[[str, int], str]


def source_line(file: str, line: int) -> str:
    """The line as it is in the file now; empty where it cannot be read."""
    return linecache.getline(file, line).strip()


def whereabouts(stack: Stack, packages: Iterable[str] = (), source: Source = source_line) -> str:
    """Where a thread is, for a sentence: `shop.py line 18 (charge -> time.sleep)`; empty where nothing of the application's runs."""
    own = stack.own(packages)
    if not own:
        return ""
    frame = own[0]
    deeper = [other for other in stack.frames[: stack.frames.index(frame)] if not other.is_swarms]
    called = f"{_module(deeper[0].file)}.{deeper[0].name}" if deeper else called_in(source(frame.file, frame.line))
    return f"{frame.short} ({frame.name}{f' -> {called}' if called else ''})"


def _module(file: str) -> str:
    name = os.path.basename(file).removesuffix(".py")
    return os.path.basename(os.path.dirname(file)) if name == "__init__" else name


def called_in(line: str) -> str:
    """What a line of code calls last: `time.sleep` for `time.sleep(40)`. C functions have no frame of their own. Empty where it calls
    nothing, or is only a part of a statement."""
    for text in (line, f"{line} pass", f"async def _():\n {line}", line.rstrip(",")):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        if calls:
            name = ast.unparse(calls[0].func)
            return name if len(name) <= 60 else ""
    return ""


# -- many of them ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """What one thread was seen doing: `samples` times of all, with the application's frames (the outermost first) and what they called
    at last. idle: it waited for work."""

    path: tuple[str, ...]
    samples: int
    idle: bool = False


@dataclass(frozen=True, slots=True)
class ThreadProfile:
    """One thread over several seconds, its commonest places first."""

    name: str
    samples: int
    shares: tuple[Share, ...]


def profile(
    counted: Iterable[tuple[str, int]], packages: Iterable[str] = (), source: Source = source_line
) -> list[ThreadProfile]:
    """Sections of backtraces, each with how often it was seen, as shares per thread; who did most comes first."""
    packages = tuple(packages)
    threads: dict[tuple[int, str], Counter[tuple[tuple[str, ...], bool]]] = {}
    for section, count in counted:
        for stack in read(section):
            place = _path(stack, packages, source)
            threads.setdefault((stack.ident, stack.name), Counter())[place, stack.is_idle] += count
    found = []
    for (ident, name), places in threads.items():
        shares = tuple(Share(path, count, idle) for (path, idle), count in places.most_common())
        found.append(ThreadProfile(name or f"0x{ident:x}", sum(places.values()), shares))
    return sorted(found, key=lambda each: (-sum(s.samples for s in each.shares if not s.idle), each.name))


def _path(stack: Stack, packages: tuple[str, ...], source: Source) -> tuple[str, ...]:
    own = [f"{frame.name} ({frame.short})" for frame in reversed(stack.own(packages))]
    if own:
        where = whereabouts(stack, packages, source)
        called = where.rpartition(" -> ")[2].rstrip(")") if " -> " in where else ""
        return (*own, called) if called else tuple(own)
    if not stack.frames:
        return ("(no Python frame)",)
    return (f"{stack.frames[0].name} ({stack.frames[0].short})",)


def as_json(profiles: Iterable[ThreadProfile]) -> list[dict[str, Any]]:
    """For `--json`."""
    return [
        {
            "thread": each.name,
            "samples": each.samples,
            "shares": [
                {"share": share.samples / each.samples, "path": list(share.path), "idle": share.idle}
                for share in each.shares
            ],
        }
        for each in profiles
    ]
