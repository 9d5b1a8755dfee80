"""What is kept of every worker that was stopped for a fault: one JSON file each in STATE_DIR/incidents, bounded in number."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from pathlib import Path
from typing import Any, Final

KEPT: Final = 100
"""Files kept; the oldest go first. An incident of 64 threads takes some 100 KiB."""

STAMP: Final = "%Y%m%dT%H%M%S.%f"
"""When, in UTC: files sort by it."""

LOG_LINES: Final = 50
"""Of a worker's log, in its incident."""


def write(state_dir: Path, facts: dict[str, Any]) -> str:
    """Write one incident; returns its path, or an empty text where it cannot be written (a full disk never stops the supervisor)."""
    directory = state_dir / "incidents"
    stamp = datetime.datetime.now(datetime.UTC).strftime(STAMP)
    path = directory / f"{stamp}-worker-{facts['worker']}-{facts['reason']}.json"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump({"at": stamp, **facts}, file, indent=1, default=str)
        temporary.rename(path)
        # Never this one, whatever the clock says of the others.
        others = sorted(other for other in directory.glob("*.json") if other != path)
        for old in others[: -(KEPT - 1)]:
            old.unlink(missing_ok=True)
    except OSError:
        with contextlib.suppress(OSError):
            path.with_suffix(".tmp").unlink(missing_ok=True)
        return ""
    return str(path)


def read(state_dir: Path, most: int, worker: int | None = None) -> list[dict[str, Any]]:
    """The newest incidents, of one worker or of all, the newest first; each with its `path`. What cannot be read is left out."""
    found: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):
        for path in sorted((state_dir / "incidents").glob("*.json"), reverse=True):
            if len(found) >= most:
                break
            with contextlib.suppress(OSError, ValueError):
                facts = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(facts, dict) and worker in (None, facts.get("worker")):
                    found.append({**facts, "path": str(path)})
    return found


def age(facts: dict[str, Any], now: float) -> float | None:
    """Seconds since an incident was written, at `now` (s since the epoch)."""
    try:
        at = datetime.datetime.strptime(str(facts.get("at")), STAMP).replace(tzinfo=datetime.UTC)
    except ValueError:
        return None
    return max(0.0, now - at.timestamp())
