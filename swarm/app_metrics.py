"""The application's own prometheus-client metrics: one file per worker index, which the observer merges.

prometheus-client's multiprocess mode names its files by pid, so that a thousand recycled workers would leave a thousand files;
by index there are as many as workers, and counters go on over a restart. Costs nothing where the app does not import it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

_MODULE: Final = "prometheus_client.values"
_PARENT: Final = "parent"
DAMAGED: Final = ".damaged"
"""What a file's name ends with that was set aside."""
_identity = _PARENT


def prepare(directory: Path, *, keep: bool = False) -> None:
    """Before the app is imported, in the supervisor: make the directory empty (unless workers use it: `keep`) and have
    prometheus-client use it. May raise OSError."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for old in () if keep else (*directory.glob("*.db"), *directory.glob(f"*{DAMAGED}")):
        old.unlink(missing_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    if _MODULE in sys.modules:
        _name_by_index(sys.modules[_MODULE])
    else:
        sys.meta_path.insert(0, _Hook())


def forget_parent(directory: Path) -> None:
    """After the app was imported: metrics made by it have left files of the supervisor's, which counts nothing."""
    for old in directory.glob(f"*_{_PARENT}.db"):
        old.unlink(missing_ok=True)


def become_worker(index: int) -> list[tuple[str, str]]:
    """In a worker, after the fork: its metrics go to the files of its index.

    One that prometheus-client could not open (a full disk, somebody's hand) would make each metric raise in the handler that uses it:
    it gets another name, and what it counted begins anew. Returns (path, why) of these.
    """
    global _identity  # noqa: PLW0603  # prometheus-client asks for it by a function without arguments
    _identity = str(index)
    if _MODULE not in sys.modules:
        return []
    damaged = []
    for path in sorted(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob(f"*_{index}.db")):
        error = _damage(path)
        if error is not None:
            path.replace(path.with_name(path.name + DAMAGED))
            damaged.append((str(path), error))
    return damaged


def _damage(path: Path) -> str | None:
    """Why a file cannot be gone on with; None: it can."""
    from prometheus_client.mmap_dict import MmapedDict

    try:
        file = MmapedDict(str(path))  # type: ignore[no-untyped-call]
        keys = [json.loads(key) for key, _, _ in file.read_all_values()]  # type: ignore[no-untyped-call]
        file.close()  # type: ignore[no-untyped-call]
        if not all(len(key) == 4 for key in keys):
            return "its keys are none"
    except Exception as error:  # whatever bytes were found
        return repr(error)
    return None


def _name_by_index(module: ModuleType) -> None:
    module.ValueClass = module.MultiProcessValue(lambda: _identity)  # type: ignore[attr-defined]


class _Hook(importlib.abc.MetaPathFinder):
    """Sees the import of prometheus_client.values, and changes how it names processes as soon as it is there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: importlib.abc.Loader) -> None:
        self._inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        _name_by_index(module)
