"""docs/testing.md is run as it stands: its examples are a project with an application and tests that pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from swarm.testing.invariants import INVARIANTS
from tests.support.sources import ROOT

PAGE = ROOT / "docs" / "testing.md"


def test_the_examples_of_the_page_pass(tmp_path: Path) -> None:
    """Every Python block is a file of one project, named in its first line; all its tests pass."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for block in blocks:
        (tmp_path / block.partition("\n")[0].removeprefix("# ")).write_text(block)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SWARM_", "PYTEST_"))}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert {"shop.py", "test_orders.py", "test_accidents.py", "test_a_log.py"} == {
        path.name for path in tmp_path.glob("*.py")
    }
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_the_page_has_every_invariant() -> None:
    """With the words of the code."""
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|$", PAGE.read_text(), re.MULTILINE))

    for name, meaning in INVARIANTS.items():
        assert table[name].startswith(meaning)
