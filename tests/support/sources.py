"""The package's source files as data: who imports whom and who calls what, read from their syntax. Runs none of them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The folders at the top of the repository and the packages they install as (pyproject.toml).
PACKAGES = {"swarm": "swarm", "supervisor": "swarm.supervisor", "config": "swarm.config"}


@dataclass(frozen=True, slots=True)
class Import:
    """`name` is dotted and absolute; of `from a import b` there are two, `a` and `a.b` (which may be no module)."""

    name: str
    line: int
    in_function: bool
    for_types: bool  # under `if TYPE_CHECKING`: never executed


@dataclass(frozen=True, slots=True)
class Source:
    """One module."""

    name: str
    path: Path
    imports: tuple[Import, ...]
    attributes: tuple[tuple[str, int], ...]  # `name.attribute` as written, and the line

    def place(self, line: int) -> str:
        """Where that is, for a message."""
        return f"{self.path.relative_to(ROOT)}:{line}"


@cache
def sources() -> dict[str, Source]:
    """Every module of ours by its import name. Read once: nothing changes them meanwhile."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *(part for part in parts if part != "__init__")))
            tree = ast.parse(path.read_text(), str(path))
            at_home = name if path.name == "__init__.py" else name.rpartition(".")[0]
            found[name] = Source(name, path, tuple(_imports(tree, at_home)), tuple(_attributes(tree)))
    return found


def reached(start: Iterable[str], known: Mapping[str, Source], *, lazily: bool) -> dict[str, str]:
    """Every module, ours or not, that importing `start` imports in the end -> the module that imports it.

    With `lazily` also what functions import when they are called. A package is imported before its modules.
    """
    found: dict[str, str] = {}
    todo = [(name, "the test") for name in start]
    while todo:
        name, importer = todo.pop()
        if name in found:
            continue
        found[name] = importer
        if package := name.rpartition(".")[0]:
            todo.append((package, name))
        if name in known:
            executed = (each for each in known[name].imports if not each.for_types)
            todo += [(each.name, name) for each in executed if lazily or not each.in_function]
    return found


def _imports(tree: ast.Module, package: str) -> Iterator[Import]:
    def walk(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[Import]:
        for name in _imported(node, package):
            yield Import(name, getattr(node, "lineno", 0), in_function, for_types)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                yield from walk(statement, in_function, True)
            for statement in node.orelse:
                yield from walk(statement, in_function, for_types)
            return
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside, for_types)

    return walk(tree, False, False)


def _imported(node: ast.AST, package: str) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [name.name for name in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            base = ".".join([*above, *([module] if module else [])])
            return [base, *(f"{base}.{name.name}" for name in names)]
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
            return [name]
        case _:
            return []


def _attributes(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}", node.lineno
