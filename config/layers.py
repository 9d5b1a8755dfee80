"""The three places where settings are written: file, environment, options; each becomes a `Layer`. Knows names, not values.

A layer maps the path of a setting (("supervision", "restart_backoff", "initial")) to a value and its source, and carries the
problems met on the way: names that do not exist, tables where values belong. Whether a value is any good is the schema's to say.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from swarm.config import kafka
from swarm.config.problems import Problem, did_you_mean, shown
from swarm.config.schema import Section, Settings, keys, table_of

PREFIX: Final = "SWARM_"
CONFIG_VARIABLE: Final = "SWARM_CONFIG"
"""Names the settings file; not a setting itself."""
FILE: Final = "settings file"
"""Where a problem is that concerns the file as a whole."""
_KAFKA_PREFIX: Final = "SWARM_KAFKA__"
_KUBERNETES: Final = re.compile(r"SWARM_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_\w+)?)?)")
"""What Kubernetes sets in every pod for a Service called `swarm` or `swarm-…`."""

Place = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """What was written, and where."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Layer:
    """The settings of one place."""

    values: dict[Place, Value] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, tree: Mapping[str, Any], source: str) -> None:
        """Take in a tree of sections as TOML has them."""
        for section, body in tree.items():
            if section not in Settings.model_fields:
                self._unknown((section,), source, _stray_key(section) if not isinstance(body, dict) else "")
            elif not isinstance(body, dict):
                self._not_a_table((section,), body, source)
            elif section == "kafka":
                self._add_properties(body, source)
            else:
                model = table_of(Settings.model_fields[section])
                assert model is not None
                self._add_table(model, (section,), body, source)

    def _add_table(self, model: type[Section], prefix: Place, body: Mapping[str, Any], source: str) -> None:
        for key, value in body.items():
            path = (*prefix, key)
            known = model.model_fields.get(key)
            inner = table_of(known) if known is not None else None
            if known is None:
                self._unknown(path, source)
            elif inner is None:
                self.values[path] = Value(value, source)
            elif isinstance(value, dict):
                self._add_table(inner, path, value, source)
            else:
                self._not_a_table(path, value, source)

    def _add_properties(self, body: Mapping[str, Any], source: str) -> None:
        for name, value in kafka.flat(body):
            path = ("kafka", name)
            if path in self.values and self.values[path].source == source:
                self.problems.append(
                    Problem(f"kafka.{name}", source, "is written twice, with and without quotes", "Keep one of them.")
                )
            self.values[path] = Value(value, source)

    def _unknown(self, path: Place, source: str, fix: str = "") -> None:
        what = "there is no such section" if len(path) == 1 else "there is no such setting"
        self.problems.append(Problem(".".join(path), source, what, fix or _advice(path)))

    def _not_a_table(self, path: Place, value: object, source: str) -> None:
        where = ".".join(path)
        example = f"[{where}] begins it." if len(path) == 1 else f"Write {path[-1]} = {{ {_first_key(path)} = … }}."
        self.problems.append(Problem(where, source, f"expected a table, got {shown(value)}", example))


def from_file(path: Path, shown_as: str, named_by: str | None) -> Layer:
    """The file's layer; one problem if it cannot be read or is not TOML. named_by: the option or variable that named it."""
    layer = Layer()
    try:
        layer.add(tomllib.loads(path.read_bytes().decode("utf-8-sig")), shown_as)
    except FileNotFoundError:
        fix = "Write it (swarmctl init makes one), or name another with --config or SWARM_CONFIG."
        layer.problems.append(Problem(FILE, named_by or shown_as, f"there is no file {shown_as}", fix))
    except OSError as error:
        fix = "It must be a file that this user may read."
        what = f"cannot read {shown_as}: {error.strerror}"
        layer.problems.append(Problem(FILE, named_by or shown_as, what, fix))
    except UnicodeDecodeError:
        layer.problems.append(Problem(FILE, shown_as, "expected UTF-8 text", "Save it as UTF-8."))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        what = f"not valid TOML: {str(error) or 'nested too deeply'}"
        fix = 'Text needs quotes (name = "shop"), and a key may stand once in its section.'
        layer.problems.append(Problem(FILE, shown_as, what, fix))
    return layer


def from_environment(environ: Mapping[str, str]) -> Layer:
    """The layer of SWARM_*; a name that means nothing is a warning, because others make such names, too."""
    layer = Layer()
    known = {variable_name(path): path for path in _all_paths()}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE:
            continue
        if name.startswith(_KAFKA_PREFIX) and name != _KAFKA_PREFIX:
            property_ = kafka.property_name(name.removeprefix(_KAFKA_PREFIX))
            layer.values["kafka", property_] = Value(kafka.property_value(environ[name]), name)
        elif name in known:
            layer.add(_tree(known[name], _from_text(environ[name])), name)
        else:
            layer.warnings.append(_unknown_variable(name, known))
    return layer


def from_options(
    overrides: Sequence[str], app: str | None, workers: str | None, selection: Mapping[str, Sequence[str]]
) -> Layer:
    """The layer of `-o section.key=value` (a later one wins), and above it --app, --workers, and selection: option -> its values."""
    layer = Layer()
    for override in overrides:
        name, equals, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and section and key):
            fix = f"Write it as in -o {_example(name.strip())}."
            layer.problems.append(Problem("-o", "option", f"expected section.key=value, got {shown(override)}", fix))
        elif section == "kafka":
            layer.values["kafka", key] = Value(_property(text), f"-o kafka.{key}")
        else:
            layer.add(_tree((section, *key.split(".")), _from_text(text)), f"-o {section}.{key}")
    for key, given in (("app", app), ("workers", workers)):
        if given is not None:
            layer.values["swarm", key] = Value(given, f"--{key}")
    for option, values in selection.items():
        if values:
            layer.values["swarm", f"{option}s"] = Value(list(values), f"--{option.replace('_', '-')}")
    return layer


def variable_name(path: Place) -> str:
    """The environment variable of a setting: ("swarm", "workers") -> SWARM_WORKERS, ("log", "level") -> SWARM_LOG__LEVEL."""
    rest = path[1:] if path[0] == "swarm" else path
    return PREFIX + "__".join(rest).replace(".", "_").upper()


def _all_paths() -> list[Place]:
    """Every setting, and every table inside a section: SWARM_SUPERVISION__RESTART_BACKOFF takes an inline table."""
    values = keys()
    return values + [path[:-1] for path in values if len(path) > 2]


def _from_text(text: str) -> Any:
    """A quoted text or an inline table as TOML; everything else stays text, which each kind of setting reads itself."""
    if "\n" in text or "\r" in text:  # could carry on with another key
        return text
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return text
    return value if isinstance(value, str | dict | list) else text


def _property(text: str) -> Any:
    """A property of an option: without its quotes, if it has some."""
    value = _from_text(text)
    return value if isinstance(value, str) and value != text else kafka.property_value(text)


def _tree(path: Place, value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    tree: dict[str, Any] = value
    return tree


def _advice(path: Place) -> str:
    """What may have been meant by a name that does not exist."""
    known = [".".join(found) for found in _all_paths()]
    name = ".".join(path)
    if len(path) == 1:
        sections = list(Settings.model_fields)
        elsewhere = _same_key(path[-1], known)
        return did_you_mean(name, sections) or elsewhere or f"There are [{'], ['.join(sections)}]."
    siblings = [found for found in known if found.rpartition(".")[0] == ".".join(path[:-1])]
    key = did_you_mean(path[-1], [found.rpartition(".")[2] for found in siblings])
    return key or _same_key(path[-1], known) or f"Known here: {', '.join(s.rpartition('.')[2] for s in siblings)}."


def _stray_key(key: str) -> str:
    """What may have been meant by a key that stands above the first section."""
    names = {path[-1]: ".".join(path) for path in reversed(keys())}
    [name] = get_close_matches(key, names, n=1) or [""]
    return f"Did you mean {names[name]}? It belongs below [{names[name].partition('.')[0]}]." if name else ""


def _same_key(key: str, known: Iterable[str]) -> str:
    """`Did you mean …?` where another section has this very key."""
    found = [name for name in known if name.rpartition(".")[2] == key]
    return f"Did you mean {found[0]}?" if found else ""


def _unknown_variable(name: str, known: Iterable[str]) -> str:
    if _KUBERNETES.fullmatch(name):
        why = "Kubernetes makes it for a Service; enableServiceLinks: false in the pod's spec stops that."
    else:
        why = did_you_mean(name, [*known, CONFIG_VARIABLE, "SWARM_KAFKA__BOOTSTRAP_SERVERS"])
    return f"{name}: no setting has this name, so it is ignored. {why}".rstrip()


def _example(name: str) -> str:
    return next((".".join(path) for path in keys() if path[-1] == name), "swarm.workers") + "=…"


def _first_key(path: Place) -> str:
    return next((found[-1] for found in keys() if found[:-1] == path), "key")
