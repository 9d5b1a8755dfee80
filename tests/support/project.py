"""A small project on disk: an application and its `swarm.toml`. Knows the settings' form; starts nothing."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Sections = Mapping[str, Mapping[str, Any]]


def write_project(folder: Path, app: str, settings: Sections, module: str = "app") -> Path:
    """Writes `MODULE.py` (dedented) and `swarm.toml` into `folder` and returns the latter's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(textwrap.dedent(app).lstrip())
    config = folder / "swarm.toml"
    config.write_text(toml(settings))
    return config


def merged(settings: Sections, more: Sections) -> dict[str, dict[str, Any]]:
    """`settings` with `more` laid over them key by key; a key whose value is None is not written, whoever set it first."""
    result = {section: dict(values) for section, values in settings.items()}
    for section, values in more.items():
        result.setdefault(section, {}).update(values)
    return result


def toml(settings: Sections) -> str:
    """The settings as TOML: sections of texts, numbers, booleans, lists and inline tables."""
    lines = []
    for section, values in settings.items():
        lines += [
            f"[{section}]",
            *(f"{json.dumps(key)} = {_value(value)}" for key, value in values.items() if value is not None),
            "",
        ]
    return "\n".join(lines)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, Path):
        return json.dumps(str(value))
    if isinstance(value, str | bool | int | float):
        return json.dumps(value)  # JSON's form of these is TOML's too
    raise TypeError(f"cannot write {value!r} as TOML")
