"""The sample files are in step with the schema."""

from __future__ import annotations

import re
import tomllib
from functools import reduce
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from swarm.config import Settings, load_settings
from swarm.config.schema import field_at, keys, kind_of

SAMPLE = files("swarm.config").joinpath("swarm.toml").read_text()
MINIMAL = files("swarm.config").joinpath("minimal.toml").read_text()
COMPLETE = re.sub(r'^# (?=["\w.]+ = )', "", SAMPLE, flags=re.MULTILINE)
"""The sample with what is commented out commented in."""


def _paths(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = set()
    for key, value in tree.items():
        found |= _paths(value, (*prefix, key)) if isinstance(value, dict) else {(*prefix, key)}
    return found


def test_the_sample_holds_every_setting_and_no_other() -> None:
    """A new setting needs its lines in swarm.toml."""
    assert _paths(tomllib.loads(COMPLETE)) == {*keys(), ("kafka", "bootstrap.servers")}


def test_what_the_sample_sets_are_the_defaults(tmp_path: Path) -> None:
    """Whoever copies it changes nothing, and what is commented out has no fixed default."""
    file = tmp_path / "swarm.toml"
    file.write_text(SAMPLE)

    assert load_settings(file, environ={}, require_app=False, require_kafka=False).settings == Settings()

    commented_out = _paths(tomllib.loads(COMPLETE)) - _paths(tomllib.loads(SAMPLE))
    assert commented_out == {
        *(("swarm", key) for key in ("app", "name", "host", "group_id", "run_dir", "state_dir", "isolate")),
        ("kafka", "bootstrap.servers"),
    }


@pytest.mark.parametrize("text", [COMPLETE, MINIMAL], ids=["complete", "minimal"])
def test_a_sample_loads_with_an_app_and_a_broker(tmp_path: Path, text: str) -> None:
    """Nothing else is needed to start."""
    file = tmp_path / "swarm.toml"
    file.write_text(text)

    settings = load_settings(file, environ={}).settings

    assert (settings.swarm.app, settings.swarm.name) == ("shop.app:app", "shop")
    assert settings.kafka == {"bootstrap.servers": "127.0.0.1:9092"}


@pytest.mark.parametrize("path", keys(), ids=".".join)
def test_every_setting_says_its_meaning_what_is_expected_and_its_default(path: tuple[str, ...]) -> None:
    """Messages and the reference are made of it; the default itself is one that could be written."""
    field = field_at(path)
    kind = kind_of(field)

    assert kind is not None
    description = field.description or ""
    assert f"Expected: {kind.expected}." in description
    assert re.match(r"[A-Z\"].{10,}\. ", description)
    default: Any = reduce(getattr, path, Settings())
    assert default is None or kind.read(default) == default
    assert path == ("swarm", "app") or "Default: " in description
