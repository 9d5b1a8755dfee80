"""From file, environment and options to `Settings`: defaults < file < environment < options. Remembers each value's source.

No mistake hides another: names, values and combinations are all checked, and everything that is wrong is raised together.
Whoever calls this is not in a worker: it reads a file and never blocks otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from swarm.config import layers
from swarm.config.checks import broken_rules
from swarm.config.kafka import check_properties
from swarm.config.layers import Layer, Place, Value
from swarm.config.problems import Problem, SettingsError, did_you_mean, shown
from swarm.config.schema import Settings, advice, field_at, keys, kind_of

DEFAULT_FILE: Final = "swarm.toml"
DEFAULT: Final = "default"
"""The source of a value that nobody wrote."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings that hold, and where they came from.

    path: the file (absolute), None without one. base_dir: its directory, else the current one; first on `sys.path` for the
    application. sources: of every setting, "swarm.workers" -> the file as it was named, the variable, the option, or "default".
    warnings: a line each, for people.
    """

    settings: Settings
    path: Path | None
    base_dir: Path
    sources: dict[str, str]
    warnings: list[str]


def load_settings(
    path: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    app: str | None = None,
    workers: str | None = None,
    selection: Mapping[str, Sequence[str]] | None = None,
    require_app: bool = True,
    require_kafka: bool = True,
) -> Loaded:
    """The settings, or SettingsError with every problem there is.

    path: `--config`; None takes $SWARM_CONFIG, else ./swarm.toml if it is there, else no file. overrides: `-o` as written.
    environ: None is this process's. app, workers: `--app` and `--workers`, the strongest.
    selection: --include-group and the like, as include_group -> values. require_app, require_kafka: whether
    `swarm.app` and `bootstrap.servers` must be set (start and check need them, status does not).
    """
    environ = os.environ if environ is None else environ
    file, named_by = _settings_file(path, environ)
    from_file = layers.from_file(file, str(file), named_by) if file is not None else Layer()
    stack = [from_file, layers.from_environment(environ), layers.from_options(overrides, app, workers, selection or {})]

    values: dict[Place, Value] = {}
    for layer in stack:
        values |= layer.values
    problems = [problem for layer in stack for problem in layer.problems]

    base_dir = file.absolute().parent if file is not None else Path.cwd()
    settings, wrong = _validated(values)
    problems += wrong.values()
    source = _source_of(values)
    problems += broken_rules(settings, source, [".".join(place) for place in wrong])
    if not any(
        problem.where == layers.FILE for problem in from_file.problems
    ):  # else the file may hold what is missing
        problems += _missing(values, require_app, require_kafka, str(file) if file else "no settings file")
    if problems:
        raise SettingsError(problems)
    return Loaded(
        settings=_with_absolute_paths(settings, base_dir),
        path=file.absolute() if file is not None else None,
        base_dir=base_dir,
        sources={".".join(place): source(".".join(place)) for place in [*keys(), *_properties(values)]},
        warnings=[warning for layer in stack for warning in layer.warnings],
    )


def _settings_file(path: Path | None, environ: Mapping[str, str]) -> tuple[Path | None, str | None]:
    """(file, what named it); an empty SWARM_CONFIG counts as none, as containers often set it so."""
    if path is not None:
        return Path(path), "--config"
    named = environ.get(layers.CONFIG_VARIABLE)
    if named:
        return Path(named), layers.CONFIG_VARIABLE
    default = Path(DEFAULT_FILE)
    return (default, None) if os.path.lexists(default) else (None, None)


def _validated(values: Mapping[Place, Value]) -> tuple[Settings, dict[Place, Problem]]:
    """The settings, with defaults in the place of wrong values, and a problem for each of those."""
    wrong: dict[Place, Problem] = {}
    for problem in check_properties(
        {place[1]: values[place].value for place in _properties(values)},
        "kafka",
        lambda name: values["kafka", name].source,
    ):
        wrong["kafka", problem.where.removeprefix("kafka.")] = problem
    try:
        return Settings.model_validate(_tree(values, wrong)), wrong
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            place = tuple(map(str, detail["loc"]))
            wrong[place] = _problem(place, detail, values)
    return Settings.model_validate(_tree(values, wrong)), wrong


def _tree(values: Mapping[Place, Value], without: Mapping[Place, Problem]) -> dict[str, Any]:
    """Nested tables, as pydantic takes them."""
    tree: dict[str, Any] = {}
    for place, value in values.items():
        if place in without:
            continue
        table = tree
        for key in place[:-1]:
            table = table.setdefault(key, {})
        table[place[-1]] = value.value
    return tree


def _problem(place: Place, detail: ErrorDetails, values: Mapping[Place, Value]) -> Problem:
    """Pydantic's complaint in our words."""
    value = values[place]
    field = field_at(place)
    kind = kind_of(field)
    fix = (kind.fix if kind is not None else "") or advice(field)
    if kind is not None and kind.expected.startswith("one of ") and isinstance(value.value, str):
        choices = kind.expected.removeprefix("one of ").split(", ")
        fix = f"{did_you_mean(value.value.lower(), choices)} {fix}".strip()
    return Problem(".".join(place), value.source, f"{detail['msg']}, got {shown(value.value)}", fix)


def _missing(values: Mapping[Place, Value], require_app: bool, require_kafka: bool, source: str) -> Iterator[Problem]:
    if require_app and ("swarm", "app") not in values:
        fix = 'Set app = "module:attribute" in [swarm] (the App in your code), or SWARM_APP, or --app.'
        yield Problem("swarm.app", source, "no application is set", fix)
    servers = (values.get(("kafka", name)) for name in ("bootstrap.servers", "metadata.broker.list"))
    if require_kafka and not any(found is not None and found.value != "" for found in servers):
        fix = 'Set "bootstrap.servers" = "host:9092" in [kafka], or SWARM_KAFKA__BOOTSTRAP_SERVERS.'
        yield Problem("kafka.bootstrap.servers", source, "no broker is set", fix)


def _source_of(values: Mapping[Place, Value]) -> Callable[[str], str]:
    known = {".".join(place): value.source for place, value in values.items()}
    return lambda where: known.get(where, DEFAULT)


def _properties(values: Mapping[Place, Value]) -> list[Place]:
    return [place for place in values if place[0] == "kafka"]


def _with_absolute_paths(settings: Settings, base_dir: Path) -> Settings:
    swarm = settings.swarm
    update = {
        key: base_dir / path
        for key, path in (("run_dir", swarm.run_dir), ("state_dir", swarm.state_dir))
        if path is not None
    }
    return settings.model_copy(update={"swarm": swarm.model_copy(update=update)})
