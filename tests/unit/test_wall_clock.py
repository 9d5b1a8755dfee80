"""The wall clock may jump, by hours and backwards: what the daemon decides must not depend on it."""

from __future__ import annotations

import re
from pathlib import Path

from swarm.supervisor import incidents
from tests.support.sources import PACKAGES, ROOT

WALL_CLOCK = re.compile(
    r"\btime\.(?:time|time_ns|localtime|gmtime|ctime|strftime)\b|\bdatetime\.(?:now|utcnow|today)\(|\btoday\(\)"
)

READS = {
    "swarm/logs.py": "the timestamp of a log line",
    "swarm/processing.py": "`expires_after` and `not_before`, which are about the timestamps of messages",
    "swarm/dead_letters.py": "whether a topic will refuse the timestamp of a letter that belongs to a transaction",
    "swarm/journal.py": "when something happened, for whoever reads the journal, of another host, too",
    "swarm/journal_store.py": "the age of what a journal keeps",
    "supervisor/loop.py": "`started_at` and `last_exit.at`, which people read",
    "supervisor/observer.py": "the moments on the page, which people read",
    "supervisor/circumstances.py": "how long ago `last_exit.at` was, for people",
    "supervisor/debugging.py": "the name of a file",
    "supervisor/incidents.py": "the name of an incident's file",
}
"""Who may ask it, and what for. Everything else measures with the monotonic clock."""

COMMANDS_AND_TOOLS = ("swarm/cli", "swarm/testing/", "swarm/demo", "swarm/doctor/")
"""Not the daemon: they ask it what time it is for a person, or judge logs by their timestamps."""


def test_only_what_people_read_and_the_age_of_messages_ask_the_wall_clock() -> None:
    """A new reader has to be named here with its reason; a decision of the worker or the supervisor never is one."""
    found = {}
    for folder in PACKAGES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if not name.startswith(COMMANDS_AND_TOOLS):
                found[name] = [line for line in path.read_text().splitlines() if WALL_CLOCK.search(line)]
    readers = {name for name, lines in found.items() if lines}

    assert readers == {name for name in READS if not name.startswith(COMMANDS_AND_TOOLS)}


def test_a_clock_that_was_set_back_never_costs_the_newest_incident(tmp_path: Path) -> None:
    """Its name sorts before all that are kept, and it is kept all the same."""
    directory = tmp_path / "incidents"
    directory.mkdir()
    for number in range(incidents.KEPT + 5):
        (directory / f"99991231T235959.{number:06}-worker-0-crashed.json").write_text("{}")

    written = incidents.write(tmp_path, {"worker": 1, "reason": "poll_timeout"})

    assert Path(written).exists()
    assert len(list(directory.iterdir())) == incidents.KEPT
