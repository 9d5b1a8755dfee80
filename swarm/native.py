"""A profile with native frames, by py-spy where that is installed (the extra `profile`): what faulthandler cannot see."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

MOST: Final = 12
"""Stacks that are shown."""


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
        command = [program, "record", "--native", "--nonblocking", "--threads", "--format", "raw"]
        command += ["--rate", "50", "--duration", str(max(1, round(seconds))), "--pid", str(pid), "--output", file.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20.0, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"py-spy: {error}"
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["it failed without a word"])[-1]
            return f"py-spy could not watch pid {pid}: {said}"
        return shown(Path(file.name).read_text(errors="replace"))


def shown(raw: str) -> str:
    """py-spy's collapsed stacks, `outer;…;inner COUNT`, as shares; the inner half of each."""
    counted: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if stack and count.isdecimal():
            counted[stack] += int(count)
    total = sum(counted.values())
    if not total:
        return "py-spy saw no thread at work."
    lines = [f"native profile (py-spy), {total} samples of threads at work:"]
    for stack, seen in counted.most_common(MOST):
        thread, *frames = stack.split(";")
        lines.append(f"  {100 * seen / total:3.0f} %  {thread}: {' > '.join(frames[-8:])}")
    return "\n".join(lines)
