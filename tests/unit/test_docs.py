"""README and docs are in step with the code: links, tables of settings, events, signals and metrics, commands, Python examples."""

from __future__ import annotations

import ast
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import click
import pytest

from swarm import App, doctor, events, exits
from swarm.cli import cli
from swarm.client import DEFAULTS
from swarm.config import load_settings
from swarm.config.layers import variable_name
from swarm.config.schema import advice, field_at, keys, kind_of
from swarm.consumer import Consumer
from swarm.loading import app_problems, load_app
from swarm.plan import Plan
from swarm.supervisor.policy import Reason
from swarm.supervisor.signals import MEANINGS
from tests.support import catalogue
from tests.support.catalogue import table_row
from tests.support.sources import ROOT

README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"
API = ROOT / "docs" / "api.md"
DOCS = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def settings_rows() -> list[str]:
    """The rows of the settings' table, made from the schema."""
    rows = []
    for path in keys():
        field = field_at(path)
        kind = kind_of(field)
        assert kind is not None
        # How times and sizes are written is said once, above the table.
        expected = re.sub(r" \((seconds|bytes), or text .*?\)", "", kind.expected)
        rows.append(table_row(f"`{'.'.join(path)}`", f"`{variable_name(path)}`", advice(field), expected))
    return rows


def table_below(path: Path, heading: str) -> list[str]:
    """The rows of the first table below a heading, without its head."""
    section = re.split(r"^#", path.read_text().partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    table = re.search(r"(?:^\| .*\n)+", section, re.MULTILINE)
    return table[0].splitlines()[2:] if table else []


def first_cells(rows: list[str]) -> set[str]:
    """What stands in backticks in the first column."""
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


def blocks(path: Path, *languages: str) -> Iterator[str]:
    for language, text in BLOCK.findall(path.read_text()):
        if language in languages:
            yield text


def anchor(heading: str) -> str:
    """A heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """A relative link names a file of the tree, and a part of it that is there."""
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, part = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (
            part and part not in map(anchor, re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE))
        ):
            wrong.append(target)

    assert not wrong


def test_the_readme_leads_to_every_document() -> None:
    """What nothing links to is not found."""
    readme = README.read_text()

    assert [path.name for path in DOCS if path != README and path.name not in readme] == []


def test_the_readme_is_short() -> None:
    """It is read before anything runs."""
    assert len(README.read_text().splitlines()) < 200


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_python_in_the_documentation_compiles(path: Path) -> None:
    """Whoever copies an example gets no syntax error."""
    for text in blocks(path, "python"):
        compile(text, path.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_readmes_application_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's first Python and first TOML, written into one folder, are an app that could start."""
    (tmp_path / "shop.py").write_text(next(blocks(README, "python")))
    (tmp_path / "swarm.toml").write_text(next(blocks(README, "toml")))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "shop", raising=False)

    loaded = load_settings(tmp_path / "swarm.toml", environ={})
    assert loaded.settings.swarm.app is not None
    app = load_app(loaded.settings.swarm.app, loaded.base_dir)
    del sys.modules["shop"]  # monkeypatch would put it back at the end

    assert app_problems(app, loaded.settings.swarm.group_id) == []
    assert [plan.topics for plan in app.plans] == [("orders",)]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_toml_in_the_documentation_holds(path: Path, tmp_path: Path) -> None:
    """Every fragment of settings is one that swarmctl would take."""
    for text in blocks(path, "toml"):
        file = tmp_path / "swarm.toml"
        file.write_text(text)
        load_settings(file, environ={}, require_app=False, require_kafka=False)


def mentioned_commands(path: Path) -> Iterator[list[str]]:
    """Words after `swarmctl`, in code."""
    text = path.read_text()
    code = [block for _, block in BLOCK.findall(text)] + re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    for piece in code:
        for found in re.findall(r"(?:^|[\s/\[\"])swarmctl +([^\n`\"\])]*)", piece, re.MULTILINE):
            words = shlex.split(re.split(r"[|;&>#…]| -- ", found)[0], posix=True)
            if words:
                yield words


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_in_the_documentation_exist(path: Path) -> None:
    """With the options that are shown."""
    wrong = []
    for name, *words in mentioned_commands(path):
        command = cli.commands.get(name)
        if command is None:
            if not name.startswith("-") and name.isidentifier():
                wrong.append(name)
            continue
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        wrong += [
            f"{name} {word}" for word in words if re.match(r"--?[a-z]", word) and word not in options | {"--help"}
        ]

    assert not wrong


def test_operations_has_every_command() -> None:
    """One row for each, and none for what is not there."""
    assert first_cells(table_below(OPERATIONS, "## Commands")) == set(cli.commands)


def assert_same(found: list[str], expected: list[str], heading: str) -> None:
    missing = [row for row in expected if row not in found]
    strange = [row for row in found if row not in expected]
    assert found == expected, "\n".join([f"{heading}: missing", *missing, "not of the code", *strange])


def test_operations_has_every_rule_of_doctor_as_the_code_says_it() -> None:
    rows = [
        table_row(f"`{rule.id}`", rule.severity, rule.looks_for, ", ".join(rule.needs) or "-") for rule in doctor.RULES
    ]

    assert_same(table_below(OPERATIONS, "## Doctor"), rows, "## Doctor")


def test_operations_has_every_setting_as_the_schema_says_it() -> None:
    """A change of the schema asks for its row."""
    assert_same(table_below(OPERATIONS, "## Settings"), settings_rows(), "## Settings")


def test_operations_has_our_defaults_for_librdkafka() -> None:
    """Name and value of each; the producer's own line apart."""
    rows = [row.split(" | ")[:2] for row in table_below(OPERATIONS, "### Kafka properties")]

    found = {re.findall(r"`([^`]+)`", name)[0]: value for name, value in rows if "(producers)" not in name}
    assert found == {name: str(value) for name, value in DEFAULTS.items()}


def test_the_catalogue_of_events_and_metrics_is_that_of_the_code() -> None:
    """A new event or metric asks for its row: `make docs` writes it."""
    text = catalogue.PAGE.read_text()

    assert_same(text.splitlines(), catalogue.written(text).splitlines(), "make docs")


def test_every_event_is_published_by_somebody() -> None:
    """None of the catalogue is dead, and those that listeners hear in a process of their own are the supervisor's."""
    made = catalogue.publishers()
    names = {cls.__name__ for cls in events.CATALOGUE.values()}

    assert names - set(made) == set()
    assert {cls.__name__ for cls in events.OF_SUPERVISOR} == {name for name in names if "supervisor" in made[name]} - {
        "ListenerFailed",
        "ListenerSwitchedOff",
    }  # which the supervisor only passes on


def test_the_lives_name_events_that_exist() -> None:
    """The table of lives is written by hand, and has a line for each life that the product promises to tell."""
    rows = table_below(catalogue.PAGE, "### A life in events")
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"attempt"}

    assert named <= set(events.CATALOGUE)
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "a swarm", "a worker", "a client", "an assignment", "a batch", "a retry", "a dead letter", "a commit",
    ]  # fmt: skip


def test_operations_has_every_signal_of_the_supervisor() -> None:
    """SIGCHLD apart, which nobody sends by hand."""
    expected = {signal.Signals(number).name for number in MEANINGS} - {"SIGCHLD"}

    assert first_cells(table_below(OPERATIONS, "## Signals")) == expected


def test_operations_has_every_exit_code() -> None:
    """Those of swarm.exits, of both kinds of process."""
    codes = {str(value) for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}

    assert codes <= first_cells(table_below(OPERATIONS, "## Exit codes"))


def test_operations_has_every_reason_for_which_a_worker_ends() -> None:
    """What stands in last_exit.reason is explained."""
    assert first_cells(table_below(OPERATIONS, "### Why a worker ended")) == set(get_args(Reason))


def test_api_has_every_option_of_a_subscription() -> None:
    """And none that would be refused as unknown."""
    options = set(Plan.__dataclass_fields__) - {"handler", "each"} | {"concurrency_key"}

    assert first_cells(table_below(API, "## Options of a subscription")) == options


def test_api_has_everything_that_a_consumer_offers() -> None:
    """Methods, hooks and properties of swarm.Consumer; methods and attributes of swarm.App."""

    def public(cls: type, left_out: set[str]) -> set[str]:
        return {name for name in vars(cls) if not name.startswith("_")} - left_out

    def named(heading: str) -> set[str]:
        return {re.split(r"[ (]", cell)[0] for cell in first_cells(table_below(API, heading))}

    hooks = {name for name in vars(Consumer) if name.startswith("on_")}

    assert named("## Hooks") == hooks
    assert named("## Consumer") == public(Consumer, hooks)
    assert named("## App") == public(App, {"groups"}) | {"name"}


def main(*makers: Callable[[], list[str]]) -> None:
    for maker in makers:
        print("\n".join(maker()), end="\n\n")


if __name__ == "__main__":  # the rows to paste: python -m tests.unit.test_docs
    main(settings_rows)
