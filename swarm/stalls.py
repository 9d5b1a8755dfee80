"""What a thread waits for, as its backtrace and the source of its lines say: a lock, a queue, a future, another thread. Pure.

C code has no frame of its own, so a thread that waits for a `threading.Lock` stands on the line of its `with`; it stands there again for a
moment when it leaves the block. Who holds a lock is not to be had from outside: named is a thread that stands in the body of a
`with` of the same name in the same file (in the same class, where it is an object's), where there is only one.
"""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from swarm.stacks import Frame, Stack, whereabouts

_WAITING: Final = re.compile(r"(/threading|/queue|/selectors|/concurrent/futures/\w+|/multiprocessing/\w+)\.py$")
"""Modules of Python's own in which somebody waits."""
_CALLS: Final = frozenset(
    {
        "wait", "wait_for", "acquire", "get", "put", "result", "exception", "join", "as_completed", "result_iterator", "shutdown", "recv",
        "map", "starmap", "apply", "next",
    }
)  # fmt: skip
_BLOCKS: Final = frozenset({"__enter__", "__exit__", "acquire"})
"""What a `with` calls: a semaphore enters by `acquire`."""
_LOCK: Final = re.compile("lock|mutex|semaphore|condition", re.IGNORECASE)
_LONGEST: Final = 80

Lines = Callable[[str], Sequence[str]]
"""The lines of a file, as they are now; none where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Stall:
    """A thread waits. statement: the code that it stands on. locks: as they are called there, none where it waits for something else."""

    frame: Frame
    statement: str
    locks: tuple[str, ...] = ()


def stalled(stack: Stack, packages: Iterable[str] = (), lines: Lines = linecache.getlines) -> Stall | None:
    """What the application's code in this thread waits for; None where it runs, or where that cannot be told."""
    own = stack.own(packages)
    if not own:
        return None
    frame = own[0]
    deeper = stack.frames[: stack.frames.index(frame)]
    if any("/site-packages/" in other.file or not _WAITING.search(other.file) for other in deeper):
        return None
    text = list(lines(frame.file))
    if not 0 < frame.line <= len(text):
        return None
    called = deeper[-1].name if deeper else ""
    if called and called not in _CALLS | _BLOCKS:
        return None
    if not called or called in _BLOCKS:
        block = _header_at(text, frame.line)
        if block is not None and (called or all(map(_is_name, block))):
            found = tuple(ast.unparse(each) for each in block)
            return _stall(frame, f"with {', '.join(found)}:", found if called != "__exit__" else ())
    calls = _calls_at(text, frame.line)
    if not called and len(calls) != 1:  # the one that runs may be another
        return None
    for call in calls:
        if isinstance(call.func, ast.Attribute) and (_waits_in_c(call) if not called else call.func.attr == called):
            locks = (ast.unparse(call.func.value),) if call.func.attr == "acquire" else ()
            return _stall(frame, text[frame.line - 1].strip(), locks)
    return _stall(frame, text[frame.line - 1].strip()) if called else None


def holder(
    stall: Stall, stacks: Iterable[Stack], packages: Iterable[str] = (), lines: Lines = linecache.getlines
) -> tuple[Stack, Frame] | None:
    """The one thread that stands in the body of a `with` of the same lock, and where there; None where there are none, or several."""
    text = "".join(lines(stall.frame.file))
    bodies = [
        (block.body[0].lineno, block.body[-1].end_lineno or 0)
        for block in _blocks(text)
        if any(
            (lock := ast.unparse(item.context_expr)) in stall.locks
            and _may_be_one(lock, text, stall.frame.line, block.lineno)
            for item in block.items
        )
    ]
    found = []
    for stack in stacks:
        own = stack.own(packages)
        inside = [f for f in own if f.file == stall.frame.file and any(a <= f.line <= z for a, z in bodies)]
        # Whoever waits for a condition has let go of its lock.
        if inside and not any(f"{lock}.wait" in _line(own[0].file, own[0].line, lines) for lock in stall.locks):
            found.append((stack, inside[0]))
    return found[0] if len(found) == 1 else None


def waits_at(
    stack: Stack, stacks: Iterable[Stack], packages: Iterable[str] = (), lines: Lines = linecache.getlines
) -> str:
    """For a sentence: "`with LOCK:` (shop.py line 18), perhaps held by thread processing 2, in shop.py line 30"; empty where it does not
    wait. stacks: all threads of its process."""
    stall = stalled(stack, packages, lines)
    if stall is None:
        return ""
    at = f"`{stall.statement}` ({stall.frame.short})"
    found = holder(stall, stacks, packages, lines) if stall.locks else None
    if found is None:
        return at
    other, frame = found
    if other.ident == stack.ident:
        if not all(map(str.isidentifier, stall.locks)):  # it may have that of one object and wait for that of another
            return at
        return f"{at}, perhaps held by this thread itself, in {frame.short}"
    where = whereabouts(other, packages, lambda file, line: _line(file, line, lines))
    return f"{at}, perhaps held by thread {other.name or hex(other.ident)}, in {where}"


def _stall(frame: Frame, statement: str, locks: tuple[str, ...] = ()) -> Stall | None:
    return Stall(frame, statement, locks) if len(statement) <= _LONGEST else None


def _line(file: str, line: int, lines: Lines) -> str:
    text = lines(file)
    return text[line - 1].strip() if 0 < line <= len(text) else ""


# -- the source ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _tree(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _blocks(text: str) -> Iterator[ast.With]:
    tree = _tree(text)
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.With)) if tree is not None else ()


def _may_be_one(lock: str, text: str, *places: int) -> bool:
    """Whether a lock of this name may be the same one at all these lines. An object's is one that looks like a lock, in one class; what is
    a function's own, each call has for itself."""
    scopes = [_scopes_at(text, line) for line in places]
    root = lock.partition(".")[0].partition("[")[0]
    if root not in ("self", "cls"):
        functions = {each for some in scopes for each in some if not isinstance(each, ast.ClassDef)}
        return not any(root in _names_of(each) for each in functions)
    classes = [next((each for each in reversed(some) if isinstance(each, ast.ClassDef)), None) for some in scopes]
    owner = classes[0]
    if owner is None or any(each is not owner for each in classes):
        return False
    made = [ast.unparse(node) for node in ast.walk(owner) if isinstance(node, (ast.Assign, ast.AnnAssign))]
    return any(
        _LOCK.search(each) for each in (lock, *(each for each in made if each.startswith((f"{lock} ", f"{lock}:"))))
    )


def _scopes_at(text: str, line: int) -> list[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The classes and functions around a line, the outermost first."""
    tree = _tree(text)
    return [
        node
        for node in (ast.walk(tree) if tree is not None else ())
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.lineno <= line <= (node.end_lineno or 0)
    ]


def _names_of(function: ast.AST) -> set[str]:
    """The names that a function sets, and its arguments."""
    nodes = list(ast.walk(function))
    others = {name for node in nodes if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names}
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored - others | {node.arg for node in nodes if isinstance(node, ast.arg)}


def _header_at(text: Sequence[str], line: int) -> list[ast.expr] | None:
    """What the `with` on this line takes; None where there is none, or where its body stands on the same line."""
    for block in _blocks("".join(text)):
        if block.lineno <= line < block.body[0].lineno:
            return [item.context_expr for item in block.items]
    return None


def _calls_at(text: Sequence[str], line: int) -> list[ast.Call]:
    tree = _tree("".join(text))
    return [
        node
        for node in (ast.walk(tree) if tree is not None else ())
        if isinstance(node, ast.Call) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]


def _is_name(expression: ast.expr) -> bool:
    """Whether it is a lock, as far as can be seen, and not something that is made, opened or begun here."""
    return isinstance(expression, (ast.Name, ast.Attribute, ast.Subscript))


def _waits_in_c(call: ast.Call) -> bool:
    """`lock.acquire()`, and `get()` of a SimpleQueue: that of a dict has a key."""
    assert isinstance(call.func, ast.Attribute)
    return call.func.attr == "acquire" or (call.func.attr == "get" and not call.args)
