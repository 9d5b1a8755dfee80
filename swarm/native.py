"""A profile with native frames, by py-spy where that is installed (the extra `profile`): what faulthandler cannot see.

py-spy stops the process for each sample (ptrace(2)): it cannot read native stacks of a running one ("--nonblocking").
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from swarm.wording import counted

RATE: Final = 20
"""Samples a second: the process stands still while its native stacks are read, so fewer than of Python's own."""
MOST_THREADS: Final = 12
MOST_STACKS: Final = 3
"""That are shown of a thread."""
FRAMES: Final = 10
"""That are shown of a stack: the first two and the innermost."""
_THREAD: Final = re.compile(r"thread \((\w+)\)(?:: (.*))?")
_ADDRESS: Final = re.compile(r"0x[0-9a-f]+ \((.*)\)")
_BOOTSTRAP: Final = re.compile(
    r"(?:Thread\.)?(?:_bootstrap|_bootstrap_inner|run) \(threading\.py:\d+\)|thread_run \(libpython.*\)"
)
_PYTHON: Final = re.compile(r"\.py:\d+\)$")
_C_LINE: Final = re.compile(r"(?<!\.py):\d+\)$")


def _program() -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("py-spy")


def is_there() -> bool:
    """Whether py-spy is installed, beside this Python or on the PATH."""
    return _program() is not None


def profile(pid: int, seconds: float) -> str:
    """Watch a process for so many seconds; the commonest stacks as text, or why there are none. Blocks. Needs the right to trace it."""
    program = _program()
    assert program is not None
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        command = [program, "record", "--native", "--idle", "--threads", "--format", "raw", "--rate", str(RATE)]
        command += ["--duration", str(max(1, round(seconds))), "--pid", str(pid), "--output", file.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20.0, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"py-spy: {error}"
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["it failed without a word"])[-1]
            return f"py-spy could not watch pid {pid}: {said}"
        return shown(Path(file.name).read_text(errors="replace"))


def shown(raw: str) -> str:
    """py-spy's collapsed stacks, `thread;outer;…;inner COUNT`, as shares of each thread's samples, the inner frames of each. Waiting
    threads, too: what one hangs in below Python is what it is asked for."""
    threads: dict[str, Counter[tuple[str, ...]]] = {}
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if stack and count.isdecimal():
            first, *frames = stack.split(";")
            known = _THREAD.fullmatch(first)
            name = (known[2] or f"thread {known[1]}") if known else first
            threads.setdefault(name, Counter())[_told(frames)] += int(count)
    if not threads:
        return "py-spy saw no thread."
    lines = [f"native profile (py-spy, {RATE} samples a second):"]
    for name, stacks in sorted(threads.items())[:MOST_THREADS]:
        total = sum(stacks.values())
        lines.append(f"  {name}")
        lines += [
            f"    {100 * seen / total:3.0f} %  {' > '.join(path)}" for path, seen in stacks.most_common(MOST_STACKS)
        ]
    if len(threads) > MOST_THREADS:
        lines.append(f"  and {counted(len(threads) - MOST_THREADS, 'more thread')}")
    return "\n".join(lines)


def _told(frames: list[str]) -> tuple[str, ...]:
    """What of a stack says something, from the Python code on that called C: not how a thread begins, nor an address in libc; of one in
    another library, which it is; a library once for all its functions that follow each other."""
    told: list[str] = []
    library = ""
    for frame in frames:
        if _BOOTSTRAP.fullmatch(frame):
            continue
        nameless = _ADDRESS.fullmatch(frame)
        text = nameless[1] if nameless else _C_LINE.sub(")", frame)
        if nameless and text.startswith("libc.so"):
            continue
        if _PYTHON.search(frame):
            told, library = [*told[-1:], text], ""  # of Python's own, the last two: `--profile` shows the rest above
            continue
        before, library = library, text.rpartition("(")[2].rstrip(")").rpartition("/")[2]
        text = text.rpartition(" (")[0]
        if not text or library != before:
            text = f"{text} ({library})".lstrip()
        if told[-1:] != [text]:
            told.append(text)
    if len(told) > FRAMES:
        told[2 : len(told) - FRAMES + 3] = ["…"]
    return tuple(told) or ("(libc)",)
