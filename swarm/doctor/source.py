"""A function of the application as its source: what its names stand for, and which of them are queues, pools and event loops. Runs nothing.

Run where the application is loaded: names are looked up in its modules as they are now. What is None so far, as an `after_fork` hook
makes it, is known by what its module assigns to it.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import FunctionType, ModuleType
from typing import Any, Final

from swarm.consumer import Consumer
from swarm.stacks import Frame

_KINDS: Final[Mapping[str, str]] = {
    "queue.Queue": "queue",
    "_queue.SimpleQueue": "queue",
    "queue.SimpleQueue": "queue",
    "asyncio.queues.Queue": "queue",
    "multiprocessing.queues.Queue": "queue",
    "multiprocessing.queues.SimpleQueue": "queue",
    "concurrent.futures.thread.ThreadPoolExecutor": "executor",
    "concurrent.futures.process.ProcessPoolExecutor": "executor",
    "multiprocessing.pool.Pool": "pool",
    "asyncio.events.AbstractEventLoop": "loop",
}
"""Classes by name, so that none has to be imported. Another executor may run its work at once."""
_MAKERS: Final = {
    "Queue": "queue",
    "JoinableQueue": "queue",
    "SimpleQueue": "queue",
    "Pool": "pool",
    "ThreadPool": "pool",
}
"""Functions of multiprocessing that make one."""


@dataclass
class Code:
    """One function. bound: what its first parameter is, an instance or a class; None for a plain function. package: whose code the
    application's is, also where it is installed like a library."""

    function: FunctionType
    bound: Any = None
    package: str = ""

    @cached_property
    def tree(self) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        try:
            lines, self.first = inspect.getsourcelines(self.function)
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, SyntaxError, TypeError):
            return None
        body = tree.body[0] if tree.body else None
        return body if isinstance(body, (ast.FunctionDef, ast.AsyncFunctionDef)) else None

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree)) if self.tree is not None else []

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        return {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    @cached_property
    def _arguments(self) -> list[str]:
        assert self.tree is not None
        return [argument.arg for argument in (*self.tree.args.posonlyargs, *self.tree.args.args)]

    @property
    def parameters(self) -> list[str]:
        """Without the one that it is bound to."""
        return self._arguments[1:] if self.bound is not None else self._arguments

    @property
    def itself(self) -> str:
        """What it calls that one."""
        return self._arguments[0] if self.bound is not None and self._arguments else ""

    @cached_property
    def locals(self) -> set[str]:
        declared = {n for node in self.nodes if isinstance(node, (ast.Global, ast.Nonlocal)) for n in node.names}
        stored = {n.id for n in self.nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} - declared
        return stored | {node.arg for node in self.nodes if isinstance(node, ast.arg)}

    @cached_property
    def _names(self) -> dict[str, Any]:
        names = dict(self.function.__globals__)
        for name, cell in zip(self.function.__code__.co_freevars, self.function.__closure__ or (), strict=False):
            try:
                names[name] = cell.cell_contents
            except ValueError:  # not yet assigned
                continue
        return names

    def resolve(self, expression: ast.AST) -> Any:
        """What an expression of names and dots is at this moment; None where that is not known."""
        match expression:
            case ast.Name(id=name) if name == self.itself and name:
                return self.bound
            case ast.Name(id=name) if name not in self.locals:
                return self._names.get(name)
            case ast.Attribute(value=holder, attr=attr):
                owner = self.resolve(holder)
                return attribute(owner, attr) if owner is not None else None
        return None

    def kind(self, expression: ast.AST) -> str:
        """`queue`, `executor`, `pool` (multiprocessing's) or `loop`, of one that was there before the function ran; "" for anything else."""
        value = self.resolve(expression)
        if value is not None:
            return _kind(type(value))
        match expression:
            case ast.Name(id=name) if name not in self.locals:  # None so far: made by a hook, perhaps
                return _made_in(self.function.__module__, name)
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name == self.itself and name:
                return _set_by(self.bound if inspect.isclass(self.bound) else type(self.bound), attr)
            case ast.Attribute(value=holder, attr=attr):
                owner = self.resolve(holder)
                return _made_in(owner.__name__, attr) if isinstance(owner, ModuleType) else ""
            case ast.Call(func=function) if last(function) in ("get_running_loop", "get_event_loop"):
                return "loop"
        return ""

    def called(self, call: ast.Call) -> Code | None:
        """The application's own function that a call is of."""
        target = self.resolve(call.func)
        owner = self.resolve(call.func.value) if isinstance(call.func, ast.Attribute) else None
        if not isinstance(target, FunctionType) or not Frame(target.__code__.co_filename, 1, "").is_own([self.package]):
            return None
        method = owner is not None and not isinstance(owner, ModuleType)
        static = method and isinstance(_raw(owner, call.func.attr), staticmethod)  # type: ignore[attr-defined]
        return Code(target, owner if method and not static else None, self.package)

    def place(self, node: ast.AST) -> str:
        line = self.first + getattr(node, "lineno", 1) - 1
        return f"{os.path.basename(self.function.__code__.co_filename)}:{line}"


def _raw(owner: Any, attr: str) -> Any:
    """An attribute as it is kept; no code of the application runs for it."""
    if isinstance(owner, ModuleType):
        return vars(owner).get(attr)
    own = getattr(owner, "__dict__", {})
    if not inspect.isclass(owner) and attr in own:
        return own[attr]
    for cls in (owner if inspect.isclass(owner) else type(owner)).__mro__:
        if attr in vars(cls):
            return vars(cls)[attr]
    return None


def attribute(owner: Any, attr: str) -> Any:
    found = _raw(owner, attr)
    return found.__func__ if isinstance(found, (staticmethod, classmethod)) else found


def _kind(cls: type) -> str:
    return next(
        (_KINDS[name] for base in cls.__mro__ if (name := f"{base.__module__}.{base.__qualname__}") in _KINDS), ""
    )


def _kind_made(value: ast.expr | None, names: Mapping[str, Any]) -> str:
    """Of what an expression makes: `ThreadPoolExecutor(4)`; or of a class that an annotation names."""
    for node in ast.walk(value) if value is not None else ():
        if not isinstance(node, (ast.Name, ast.Attribute)):
            continue
        found = names.get(node.id) if isinstance(node, ast.Name) else None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = attribute(names[node.value.id], node.attr) if node.value.id in names else None
        kind = _kind(found) if inspect.isclass(found) else ""
        if not kind and "multiprocessing" in str(getattr(found, "__module__", "")):
            kind = _MAKERS.get(getattr(found, "__name__", ""), "")
        if kind:
            return kind
    return ""


@lru_cache(maxsize=64)
def _parsed(module: ModuleType) -> ast.Module | None:
    try:
        return ast.parse(inspect.getsource(module))
    except (OSError, SyntaxError, TypeError):
        return None


def _made_in(module: str, name: str) -> str:
    """The kind of a module's variable by what is assigned to it anywhere in the module."""
    found = sys.modules.get(module)
    tree = _parsed(found) if found is not None else None
    if found is None or tree is None:
        return ""
    scopes: list[ast.AST] = [tree]
    scopes += [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and any(isinstance(each, ast.Global) and name in each.names for each in node.body)
    ]
    for scope in scopes:
        for node in getattr(scope, "body", ()) if scope is tree else ast.walk(scope):
            for target, value in _assigned(node):
                if isinstance(target, ast.Name) and target.id == name and (kind := _kind_made(value, vars(found))):
                    return kind
    return ""


def _set_by(cls: type, attr: str) -> str:
    """The kind of an instance's attribute by what its methods assign to it."""
    for base in cls.__mro__[:-1]:
        for function in vars(base).values() if base is not Consumer else ():
            code = Code(function, cls) if isinstance(function, FunctionType) else None
            for node in code.nodes if code is not None and code.tree is not None else ():
                for target, value in _assigned(node):
                    if (
                        isinstance(target, ast.Attribute)
                        and target.attr == attr
                        and isinstance(target.value, ast.Name)
                        and code is not None
                        and target.value.id == code.itself
                        and (kind := _kind_made(value, code.function.__globals__))
                    ):
                        return kind
    return ""


def _assigned(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    match node:
        case ast.Assign(targets=targets, value=value):
            yield from ((target, value) for target in targets)
        case ast.AnnAssign(target=target, annotation=annotation, value=made):
            yield target, made if made is not None and not isinstance(made, ast.Constant) else annotation


def last(function: ast.AST) -> str:
    """`put` of `self.jobs.put`."""
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def root(expression: ast.AST) -> str:
    """`batches` of `batches.setdefault(key, []).append`."""
    while not isinstance(expression, ast.Name):
        match expression:
            case ast.Attribute(value=inner) | ast.Subscript(value=inner) | ast.Call(func=inner):
                expression = inner
            case _:
                return ""
    return expression.id
