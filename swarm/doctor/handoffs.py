"""Where a handler hands its messages to a queue, a pool or an event loop and returns: read from its source, nothing is run.

What is marked when the handler returns has then not been done. Best effort, and silent where in doubt: it knows the queues and pools of
Python's own library that were there before the handler ran, follows calls to the application's own functions, and says nothing of a
handler in whose code anything waits. Run where the application is loaded.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import FunctionType
from typing import Any, Final

from swarm.doctor.facts import Handoff
from swarm.doctor.source import Code, attribute, last, root

_HANDS_OVER: Final[Mapping[str, frozenset[str]]] = {
    "queue": frozenset({"put", "put_nowait"}),
    "executor": frozenset({"submit", "map"}),
    "pool": frozenset({"apply_async", "map_async", "starmap_async"}),  # its map answers when all is done
    "loop": frozenset({"create_task", "call_soon_threadsafe", "call_soon", "run_in_executor"}),
}
_OF_ASYNCIO: Final = frozenset({"create_task", "ensure_future", "run_coroutine_threadsafe"})
_WAITS: Final = (
    "wait",
    "result",
    "as_completed",
    "gather",
    "drain",
    "flush",
    "shutdown",
    "barrier",
    "finish",
    "complete",
)
"""A call whose name has one of these in it may wait for all of it."""
_ASKS: Final = frozenset({"unfinished_tasks", "empty", "done", "ready", "successful", "is_set"})
_MOVES: Final = frozenset({"pause", "seek"})
"""After these a run marks nothing by itself."""
_POSITION: Final = frozenset(
    {"topic", "partition", "offset", "timestamp", "attempt", "first_offset", "last_offset", "worker"}
)
"""Attributes that tell where a message stood, which is a statistic and no work."""
_MEASURES: Final = frozenset({"len", "type", "id", "bool", "isinstance", "hash", "print", "getsizeof"})
_CONVERTS: Final = frozenset(
    {
        "list", "tuple", "dict", "set", "str", "bytes", "int", "float", "sorted", "reversed", "enumerate", "zip", "filter", "chain",
        "islice", "batched", "partial", "copy", "deepcopy", "copy_context", "asdict", "cast",
    }
)  # fmt: skip
_CONVERTING: Final = ("load", "decode", "parse", "from_", "deserialize", "unpack")
_GATHERS: Final = frozenset({"append", "appendleft", "add", "extend", "insert", "setdefault", "update"})
_SAYS: Final = frozenset({"debug", "info", "warning", "error", "exception", "critical", "print", "mark_as_consumed"})
_DEPTH: Final = 3
"""Calls that are followed from a handler into the application."""
_SURE: Final = 2
_PERHAPS: Final = 1


def handoffs(handler: Any) -> list[Handoff]:
    """Where the handler lets go of messages that nobody is known to have processed when it returns."""
    bound: Any = None
    function: Any = inspect.unwrap(handler) if callable(handler) else handler
    if inspect.isclass(handler):
        function, bound = attribute(handler, "consume"), handler
    elif inspect.ismethod(function):
        function, bound = function.__func__, function.__self__
    if not isinstance(function, FunctionType):
        return []
    code = Code(function, bound, function.__module__.partition(".")[0])
    if code.tree is None:
        return []
    reading = _Reading(code, dict.fromkeys(code.parameters[:1], _SURE))
    found = list(dict.fromkeys(reading.all()))
    if not found or _waits(code, set()):
        return []
    alone = not reading.works
    return [each if alone else Handoff(each.kind, each.name, each.where, each.code, sure=False) for each in found]


# -- whether anything waits ------------------------------------------------------------------------------------------


def _waits(code: Code, seen: set[FunctionType], depth: int = 0) -> bool:
    """Whether anything in it, or in what it calls of the application, looks as if it waited for what was handed over."""
    if code.function in seen or depth > _DEPTH or code.tree is None:
        return False
    seen.add(code.function)
    given = [node.lineno for node in code.nodes if isinstance(node, ast.Call) and _kind_of_handoff(code, node)]
    for node in code.nodes:
        match node:
            case ast.Attribute(attr=attr) if attr in _ASKS:
                return True
            case ast.With(items=items) | ast.AsyncWith(items=items):
                if any(code.kind(item.context_expr) in ("executor", "pool") for item in items):
                    return True
                if given and node.lineno > max(given):  # perhaps a lock that was handed over, too
                    return True
            case ast.Await(value=ast.Name() | ast.Attribute() | ast.Subscript()):  # a future or a task, and no call
                return True
            case ast.While(test=test) if any(
                isinstance(each, ast.Attribute) and each.attr == "qsize" for each in ast.walk(test)
            ):
                return True
            case ast.Call() if _is_wait(code, node) or (
                last(node.func) == "acquire" and given and node.lineno > max(given)
            ):
                return True
            case ast.Call():
                inner = code.called(node)
                if inner is not None and _waits(inner, seen, depth + 1):
                    return True
    return False


def _is_wait(code: Code, call: ast.Call) -> bool:
    name = last(call.func)
    holder = call.func.value if isinstance(call.func, ast.Attribute) else None
    if name in _MOVES and holder is not None:
        return True
    if name == "join":  # of a thread, a pool or a queue, and not of texts
        return holder is not None and not isinstance(holder, (ast.Constant, ast.JoinedStr)) and last(holder) != "path"
    if name in ("get", "get_nowait") and holder is not None:  # a dict's has a key
        return not call.args or code.kind(holder) == "queue"
    return any(word in name.lower().replace("nowait", "") for word in _WAITS)


# -- what is handed over ---------------------------------------------------------------------------------------------


def _kind_of_handoff(code: Code, call: ast.Call) -> str:
    name = last(call.func)
    if name in _OF_ASYNCIO and "asyncio" in str(getattr(code.resolve(call.func), "__module__", "")):
        return "loop"
    if not isinstance(call.func, ast.Attribute) or not any(name in names for names in _HANDS_OVER.values()):
        return ""
    kind = code.kind(call.func.value)
    if name not in _HANDS_OVER.get(kind, ()):
        return ""
    if name == "map" and not isinstance(code.parents.get(call), ast.Expr):  # somebody takes its results
        return ""
    return "pool" if kind == "executor" else kind


@dataclass
class _Reading:
    """One function, and what it calls. content: which of its names hold what messages say, and how sure that is. works: set where it
    does something else with them, too."""

    code: Code
    content: dict[str, int]
    depth: int = 0
    seen: set[FunctionType] = field(default_factory=set)
    works: bool = False

    def all(self) -> Iterator[Handoff]:
        if self.code.tree is None or self.code.function in self.seen or self.depth > _DEPTH:
            return
        self.seen.add(self.code.function)
        for _ in range(4):  # until names that are made of one another are known
            for node in self.code.nodes:
                self._learn(node)
        passed: set[str] = set()
        worked: list[set[str]] = []
        for node in self.code.nodes:
            if not isinstance(node, ast.Call):
                if node not in self._later and self._is_kept_work(node):
                    worked.append(set())
                continue
            kind = _kind_of_handoff(self.code, node)
            level = self._given(node, kind)
            if kind and level:
                passed |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
                if kind == "queue" or self._is_let_go(node):
                    yield Handoff(
                        kind, ast.unparse(_holder(node)), self.code.place(node), _short(node), sure=level == _SURE
                    )
            elif not kind and level:
                inner = self._follow(node)
                if inner is not None:
                    found = list(inner.all())
                    yield from found
                    self.works |= inner.works
                    if found:
                        continue
                work = self._as_work(node)
                if work is not None and node not in self._later:
                    worked.append(work)
        self.works |= any(not names & passed for names in worked)

    # content

    def _learn(self, node: Any) -> None:
        match node:
            case ast.For(target=target, iter=value) | ast.AsyncFor(target=target, iter=value):
                self._is_made_of(target, value)
            case ast.comprehension(target=target, iter=value):
                self._is_made_of(target, value)
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._is_made_of(target, value)
            case ast.AnnAssign(target=target, value=value) | ast.AugAssign(target=target, value=value) if (
                value is not None
            ):
                self._is_made_of(target, value)
            case ast.NamedExpr(target=target, value=value):
                self._is_made_of(target, value)
            case ast.Call(func=ast.Attribute(value=holder, attr=attr), args=args) if attr in _GATHERS:
                self._holds(root(holder), max(map(self._level, args), default=0))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if node is not self.code.tree:
                self._holds(name, self._named(node))

    def _is_made_of(self, target: ast.AST, value: ast.expr) -> None:
        match target, value:
            case ast.Tuple(elts=[_, item]), ast.Call(func=ast.Name(id="enumerate"), args=[of, *_]):
                self._is_made_of(item, of)
            case ast.Subscript(value=holder), _:
                self._holds(root(holder), self._level(value))
            case _:
                level = self._level(value)
                for each in ast.walk(target):
                    if isinstance(each, ast.Name):
                        self._holds(each.id, level)

    def _holds(self, name: str, level: int) -> None:
        if level and name in (self.code.locals | self._nested):
            self.content[name] = max(level, self.content.get(name, 0))

    @cached_property
    def _nested(self) -> set[str]:
        return {node.name for node in self.code.nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}

    @cached_property
    def _later(self) -> set[ast.AST]:
        """What stands in functions of its own, which whoever is given them calls."""
        inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        own = [node for node in self.code.nodes if isinstance(node, inner) and node is not self.code.tree]
        return {each for node in own for each in ast.walk(node)}

    def _named(self, node: ast.AST) -> int:
        return max((self.content.get(each.id, 0) for each in ast.walk(node) if isinstance(each, ast.Name)), default=0)

    def _level(self, node: ast.AST) -> int:
        """How sure it is that an expression holds what messages say; 0: it does not."""
        match node:
            case ast.Name(id=name):
                return self.content.get(name, 0)
            case ast.Attribute(attr=attr) if attr in _POSITION:
                return 0
            case ast.Attribute(value=holder) | ast.Subscript(value=holder):
                return self._level(holder)
            case ast.Compare():
                return 0
            case ast.Lambda():
                return self._named(node)
            case ast.Call(func=function):
                name = last(function)
                if name in _MEASURES or _kind_of_handoff(self.code, node):
                    return 0
                if isinstance(function, ast.Attribute) and (own := self._level(function.value)):
                    return own
                given = self._given(node, "")
                is_view = name in _CONVERTS or name[:1].isupper() or any(word in name.lower() for word in _CONVERTING)
                return given if is_view else min(given, _PERHAPS)
        return max(map(self._level, ast.iter_child_nodes(node)), default=0)

    def _given(self, call: ast.Call, kind: str) -> int:
        """Of what a call is given; of a coroutine that a task is made of, what that is given."""
        levels = [0]
        for each in (*call.args, *(keyword.value for keyword in call.keywords)):
            coroutine = kind == "loop" and isinstance(each, ast.Call)
            levels.append(self._given(each, "") if coroutine else self._level(each))  # type: ignore[arg-type]
        return max(levels)

    # what becomes of it

    def _is_let_go(self, node: ast.AST) -> bool:
        """Whether nobody looks at what a call answers: it is dropped, or only kept somewhere."""
        parent = self.code.parents.get(node)
        match parent:
            case ast.Expr():
                return True
            case ast.Attribute(attr="add_done_callback"):
                return True
            case ast.ListComp() | ast.SetComp() if node is parent.elt:
                return self._is_let_go(parent)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                return name in self.code.locals and all(map(self._is_only_kept, self._uses(name)))
            case ast.Call(func=ast.Attribute(value=holder, attr=attr)) if attr in _GATHERS and node in parent.args:
                name = root(holder)
                local = name in self.code.locals and name != self.code.itself
                return not local or all(map(self._is_only_kept, self._uses(name)))
        return False

    def _uses(self, name: str) -> list[ast.AST]:
        return [n for n in self.code.nodes if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)]

    def _is_only_kept(self, use: ast.AST) -> bool:
        parent = self.code.parents.get(use)
        match parent:
            case ast.Attribute(attr=attr):
                return attr in _GATHERS or attr == "add_done_callback"
            case ast.Call(func=ast.Attribute(attr=attr)):
                return attr in _GATHERS
        return False

    def _is_kept_work(self, node: ast.AST) -> bool:
        """Whether a statement writes what messages say to where others find it."""
        match node:
            case ast.Assign(targets=targets, value=value):
                pass
            case ast.AugAssign(target=target, value=value):
                targets = [target]
            case _:
                return False
        if not self._level(value) or any(
            isinstance(each, ast.Call) and _kind_of_handoff(self.code, each) for each in ast.walk(value)
        ):
            return False
        return any(
            root(each) not in self.code.locals or root(each) == self.code.itself for each in targets if root(each)
        )

    def _as_work(self, call: ast.Call) -> set[str] | None:
        """None where a call with what messages say does nothing with it; else the names that have its answer."""
        name, text = last(call.func), ast.unparse(call.func).lower()
        if name in _SAYS or name in _MEASURES or name in _CONVERTS or "log" in text:
            return None
        if name in _GATHERS and isinstance(call.func, ast.Attribute) and root(call.func) in self.code.locals:
            return None
        parent = self.code.parents.get(call)
        if isinstance(parent, ast.Await):
            parent = self.code.parents.get(parent)
        match parent:
            case ast.Expr():
                return set()
            case ast.Assign(targets=targets) if (
                not any(word in name.lower() for word in _CONVERTING) and name[:1].islower()
            ):
                return {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
        return None

    def _follow(self, call: ast.Call) -> _Reading | None:
        """The application's own function, told which of its parameters hold what messages say."""
        inner = self.code.called(call)
        if inner is None or inner.tree is None:
            return None
        content = {
            name: level for name, each in zip(inner.parameters, call.args, strict=False) if (level := self._level(each))
        }
        content |= {k.arg: level for k in call.keywords if k.arg is not None and (level := self._level(k.value))}
        return _Reading(inner, content, self.depth + 1, self.seen)


def _holder(call: ast.Call) -> ast.expr:
    return call.func.value if isinstance(call.func, ast.Attribute) and last(call.func) not in _OF_ASYNCIO else call.func


def _short(node: ast.AST) -> str:
    code = ast.unparse(node)
    return code if len(code) <= 80 else code[:79] + "…"
