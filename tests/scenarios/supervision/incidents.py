"""What a swarm has written down about its workers' ends. Knows only the files of the state directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon


def incidents(daemon: Daemon, **facts: Any) -> list[dict[str, Any]]:
    """The incidents so far, oldest first; only those with these facts."""
    folder = Path(daemon.settings["swarm"]["state_dir"]) / "incidents"
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [each for each in found if all(each.get(key) == fact for key, fact in facts.items())]
