"""What a handler's code changes that other threads see: read from its source, nothing is run.

Best effort: it follows calls to functions of the handler's own module, sees names that are resolved in it, and takes what stands
under a lock for guarded. It cannot see what is changed through other objects. Run where the application is loaded.
"""

from __future__ import annotations

import ast
import collections
import inspect
import os
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any, Final

from swarm.consumer import Consumer
from swarm.doctor.facts import Write

_CONTAINERS: Final = (list, dict, set, bytearray, collections.deque)
_MUTATORS: Final = frozenset(
    {
        "add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem", "popleft",
        "remove", "setdefault", "sort", "update",
    }
)  # fmt: skip
_LOCKS: Final = (type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Semaphore)
_DEPTH: Final = 3
"""Calls that are followed from a handler into its module."""


def writes(handler: Any, *, virtual: bool) -> list[Write]:
    """What the handler changes that several threads may see; nothing for an async one, which one event loop runs.

    virtual: whether several threads run one instance (virtual partitions).
    """
    found = []
    for function, cls in _functions(handler):
        if not inspect.iscoroutinefunction(function):
            found += list(_Reading(function, cls, virtual=virtual and function.__name__ == "consume").all())
    return list(dict.fromkeys(found))


def _functions(handler: Any) -> Iterator[tuple[FunctionType, type | None]]:
    """The handler's own functions: it, or the methods of its class up to ours."""
    if inspect.isclass(handler):
        for cls in handler.__mro__[: handler.__mro__.index(Consumer)] if Consumer in handler.__mro__ else [handler]:
            yield from ((value, handler) for value in vars(cls).values() if isinstance(value, FunctionType))
        return
    function = inspect.unwrap(handler) if callable(handler) else handler
    if isinstance(function, FunctionType):
        yield function, None


@dataclass
class _Reading:
    """One function's code, and what it calls in its module."""

    function: FunctionType
    cls: type | None
    virtual: bool = False
    depth: int = 0
    seen: set[FunctionType] = field(default_factory=set)

    def all(self) -> Iterator[Write]:
        if self.function in self.seen or self.depth > _DEPTH:
            return
        self.seen.add(self.function)
        try:
            lines, first = inspect.getsourcelines(self.function)
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, SyntaxError, TypeError):
            return
        body = tree.body[0] if tree.body else None
        if not isinstance(body, ast.FunctionDef):
            return
        self.first = first
        self.globals = {name for node in ast.walk(body) if isinstance(node, ast.Global) for name in node.names}
        self.locals = {
            node.id for node in ast.walk(body) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        } - self.globals
        self.locals |= {argument.arg for argument in ast.walk(body.args) if isinstance(argument, ast.arg)}
        self.itself = body.args.args[0].arg if self.cls is not None and body.args.args else ""
        for statement in body.body:
            yield from self._walk(statement)

    def _walk(self, node: Any) -> Iterator[Write]:
        if isinstance(node, (ast.With, ast.AsyncWith)) and any(self._is_lock(item.context_expr) for item in node.items):
            return
        yield from self._judge(node)
        for child in ast.iter_child_nodes(node):
            yield from self._walk(child)

    def _judge(self, node: Any) -> Iterator[Write]:
        match node:
            case ast.AugAssign(target=target):
                yield from self._changed(target, node, again=True)
            case ast.Assign(targets=targets, value=value):
                for each in targets:
                    yield from self._changed(each, node, again=_reads(value, each))
            case ast.Delete(targets=targets):
                for each in targets:
                    yield from self._changed(each, node, again=False)
            case ast.Call(func=ast.Attribute(value=holder, attr=attr)) if attr in _MUTATORS:
                yield from self._called(holder, node)
            case ast.Call(func=ast.Name(id=name)):
                called = self.function.__globals__.get(name)
                if (
                    isinstance(called, FunctionType)
                    and called.__module__ == self.function.__module__
                    and name not in self.locals
                ):
                    yield from _Reading(called, None, depth=self.depth + 1, seen=self.seen).all()

    def _changed(self, target: Any, node: Any, *, again: bool) -> Iterator[Write]:
        """A name, an item or an attribute gets a value. again: one that is made of its former value."""
        match target:
            case ast.Name(id=name) if name in self.globals and again:
                yield self._write("global", name, node)
            case ast.Subscript(value=holder):
                kind, name = self._shared(holder)
                if kind:
                    yield self._write("global" if again and kind == "container" else kind, name, node)
                elif again and self.virtual and self._is_own(holder):
                    yield self._write("instance", ast.unparse(holder), node)
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name == self.itself and name:
                if again and self.virtual:
                    yield self._write("instance", f"{name}.{attr}", node)
            case ast.Attribute(value=ast.Name(id=name)) if again and name not in self.locals:
                known = self.function.__globals__.get(name)
                if known is not None and not isinstance(known, (ModuleType, threading.local)):
                    yield self._write("global", ast.unparse(target), node)

    def _called(self, holder: Any, node: Any) -> Iterator[Write]:
        kind, name = self._shared(holder)
        if kind:
            yield self._write(kind, name, node)

    def _shared(self, holder: Any) -> tuple[str, str]:
        """(kind, name) of a container that others have too; ("", "") of any other."""
        match holder:
            case ast.Name(id=name) if name not in self.locals:
                if isinstance(self.function.__globals__.get(name), _CONTAINERS):
                    return "container", name
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if (
                name == self.itself and name and self.cls is not None
            ):
                if isinstance(getattr(self.cls, attr, None), _CONTAINERS) and not _set_on_instances(self.cls, attr):
                    return "class", f"{self.cls.__name__}.{attr}"
        return "", ""

    def _is_own(self, holder: ast.expr) -> bool:
        return (
            isinstance(holder, ast.Attribute)
            and isinstance(holder.value, ast.Name)
            and holder.value.id == self.itself != ""
        )

    def _is_lock(self, expression: ast.expr) -> bool:
        text = ast.unparse(expression)
        known = self.function.__globals__.get(text) if isinstance(expression, ast.Name) else None
        return isinstance(known, _LOCKS) or "lock" in text.lower() or "mutex" in text.lower()

    def _write(self, kind: str, name: str, node: ast.AST) -> Write:
        line = self.first + getattr(node, "lineno", 1) - 1
        file = os.path.basename(self.function.__code__.co_filename)
        code = ast.unparse(node)
        return Write(kind, name, f"{file}:{line}", code if len(code) <= 80 else code[:79] + "…")


def _reads(value: ast.expr, target: ast.expr) -> bool:
    text = ast.unparse(target)
    return any(isinstance(node, ast.expr) and ast.unparse(node) == text for node in ast.walk(value))


def _set_on_instances(cls: type, attribute: str) -> bool:
    """Whether a method gives each instance one of its own: `self.seen = []`."""
    for base in cls.__mro__[:-1]:
        for function in vars(base).values():
            if isinstance(function, FunctionType) and base is not Consumer:
                try:
                    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
                except (OSError, SyntaxError, TypeError):
                    continue
                for node in ast.walk(tree):
                    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == attribute:
                        return True
    return False
