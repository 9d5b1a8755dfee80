"""Incidents are kept for whoever asks why; a disk that takes none stops nothing."""

from __future__ import annotations

import json
from pathlib import Path

from swarm.supervisor import incidents


def test_an_incident_is_a_file_of_its_own(tmp_path: Path) -> None:
    """Complete, readable by its owner only, named by instant, worker and reason."""
    path = Path(
        incidents.write(tmp_path, {"worker": 2, "reason": "poll_timeout", "backtrace": "Thread \udcff", "x": {1}})
    )

    facts = json.loads(path.read_text())
    assert path.parent == tmp_path / "incidents"
    assert path.name.endswith("-worker-2-poll_timeout.json")
    assert (facts["worker"], facts["reason"]) == (2, "poll_timeout")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.suffix for file in path.parent.iterdir()] == [".json"]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    """A worker that dies all night does not fill the disk."""
    written = [incidents.write(tmp_path, {"worker": 0, "reason": f"r{n}"}) for n in range(incidents.KEPT + 5)]

    kept = sorted(str(file) for file in (tmp_path / "incidents").iterdir())
    assert kept == written[5:]


def test_where_it_cannot_be_written_nothing_is_raised(tmp_path: Path) -> None:
    """The answer is an empty path."""
    (tmp_path / "file").write_text("no directory")

    assert incidents.write(tmp_path / "file", {"worker": 0, "reason": "crashed"}) == ""
