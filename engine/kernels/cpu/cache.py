"""Compiled kernels on disk: one checked file for each function and signature, in a private folder.

Numba's own cache loads pickles without looking, fails where a file is damaged, a disk full or a home missing, and does
not notice when a function in another file changes. Here a file's name holds a hash of the sources of the function's
module and of all that it imports, and `disk` sees to it that nothing is unpickled that was not written here.
"""

import functools
import hashlib
import marshal
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from .. import disk


class DiskCache(_Cache):
    """What a Numba dispatcher asks for code compiled earlier, and gives what it has compiled."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name, self._folder = f"{function.__module__}.{function.__name__}", folder()
        self._function = function

    @property
    def cache_path(self) -> str | None:
        return None if self._folder is None else str(self._folder)

    def enable(self) -> None:
        self._folder = folder()

    def disable(self) -> None:
        self._folder = None

    def flush(self) -> None:
        """Forget nothing: the files' names change with the sources."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for a signature, or None."""
        target_context.refresh()
        path = self._path(sig, target_context.codegen())
        payload = None if path is None else disk.read(path)
        if path is None or payload is None:
            return None
        try:
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        except (AttributeError, ImportError, KeyError, TypeError, ValueError, RuntimeError, OSError):
            disk.damaged(path)  # whole, but made by a differently built Numba or LLVM of the same version
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function."""
        path = self._path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals:
            return
        disk.write(path, dumps(data._reduce()))

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        if self._folder is None:
            return None
        try:
            sources = _sources_of(self._function)
        except OSError:  # no readable sources: a frozen program
            return None
        key = repr((str(signature), codegen.magic_tuple(), sys.version_info[:3], sources))
        return self._folder / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.bin"


def folder() -> Path | None:
    """The private folder of these kernels for this user, made if need be; None if there is no place for one."""
    return disk.folder(f"microtfm-kernels-{numba.__version__}-{int(bool(config.BOUNDSCHECK))}")


_PACKAGE = __name__.rsplit(".", 2)[0]
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+)?import[ \t]*(\([^)]*\)|[^\n]*)", re.MULTILINE)


def _sources_of(function: Callable[..., Any]) -> str:
    """A hash of all sources that the machine code of a function can depend on."""
    module = _inside(function.__module__)
    if module in _modules():
        return _hash(module)
    everything = "".join(_digest(module) for module in sorted(_modules()))
    return hashlib.sha256(everything.encode() + marshal.dumps(function.__code__)).hexdigest()


@functools.cache
def _hash(module: str) -> str:
    """A hash of the sources of a kernels' module and of those that it imports, directly or not."""
    found, new = {module}, [module]
    while new:
        imported = _imported(new.pop()) - found
        found |= imported
        new.extend(imported)
    return hashlib.sha256("".join(_digest(module) for module in sorted(found)).encode()).hexdigest()


@functools.cache
def _modules() -> dict[str, Path]:
    """The kernels' modules, by their names inside this package, and their files."""
    top = Path(__file__).parent.parent
    return {".".join(path.relative_to(top).with_suffix("").parts): path for path in top.rglob("*.py")}


@functools.cache
def _digest(module: str) -> str:
    return hashlib.sha256(f"{module}\0".encode() + _modules()[module].read_bytes()).hexdigest()


@functools.cache
def _imported(module: str) -> frozenset[str]:
    """The kernels' modules that are named in the import statements of one of them."""
    found = set()
    package = [*_PACKAGE.split("."), *module.split(".")[:-1]]
    for dots, source, names in _IMPORT.findall(_modules()[module].read_text(encoding="utf-8")):
        start = ".".join(package[: len(package) + 1 - len(dots)]) if dots else ""
        inside = _inside(".".join(filter(None, (start, source))))
        found |= {inside, *(f"{inside}.{name}".strip(".") for name in re.findall(r"[\w.]+", names))}
        found |= {_inside(name) for name in re.findall(r"[\w.]+", names)}
    return frozenset(found & _modules().keys())


def _inside(module: str) -> str:
    """The name of a module inside this package; "" for any other."""
    return module[len(_PACKAGE) + 1 :] if module.startswith(f"{_PACKAGE}.") else ""
