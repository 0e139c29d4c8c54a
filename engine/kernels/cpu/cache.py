"""Compiled kernels on disk: one checked file for each function and signature, in a private folder.

Numba's own cache loads pickles without looking, fails where a file is damaged, a disk full or a home missing, and does
not notice when a function in another file changes. Here a file's name holds a hash of the sources of the function's
module and of all that it imports, every file begins with the sha256 of its name and the rest, which is checked before
anything is unpickled, and whatever goes wrong with the disk costs time, never a result: the kernel is compiled again,
and one warning says why.
"""

import contextlib
import functools
import hashlib
import marshal
import os
import pickle
import re
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

DIGEST = hashlib.sha256().digest_size
UNFINISHED = 3600  # seconds after which a file that is still being written has been given up


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
        try:
            content = path.read_bytes() if path else b""
        except OSError:  # most often: not there yet
            return None
        if path is None:
            return None
        digest, payload = content[:DIGEST], content[DIGEST:]
        if _signed(path, payload) == digest:
            try:
                return CompileResult._rebuild(target_context, *pickle.loads(payload))
            except (AttributeError, ImportError, KeyError, TypeError, ValueError, RuntimeError, OSError):
                pass  # whole, but made by a differently built Numba or LLVM of the same version
        _warn("damaged", f"a damaged file of compiled kernels was removed, its kernel is compiled again: {path}")
        _remove(path)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function."""
        path = self._path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals:
            return
        payload = dumps(data._reduce())
        temporary = None
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(_signed(path, payload) + payload)
            os.replace(temporary, path)
        except OSError as error:
            _warn("unsaved", f"compiled kernels cannot be kept in {path.parent}, so each run compiles them: {error}")
            if temporary:
                _remove(Path(temporary))

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        if self._folder is None:
            return None
        try:
            sources = _sources_of(self._function)
        except OSError:  # no readable sources: a frozen program
            return None
        key = repr((str(signature), codegen.magic_tuple(), sys.version_info[:3], sources))
        return self._folder / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.bin"


def _signed(path: Path, payload: bytes) -> bytes:
    """The digest of a file, and of what it is: under another kernel's name it is damaged, too."""
    return hashlib.sha256(path.name.encode() + b"\0" + payload).digest()


@functools.cache
def folder() -> Path | None:
    """The private folder of these kernels for this user, made if need be; None if there is no place for one."""
    name = f"microtfm-kernels-{numba.__version__}-{int(bool(config.BOUNDSCHECK))}"
    for root in _roots():
        path = root / name
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _private(path) and (root.name != _temporary_name() or _private(root)):
                tempfile.TemporaryFile(dir=path).close()
                _sweep(path)
                return path
        except OSError:
            continue
    _warn("no folder", "no folder to keep compiled kernels in, so each run compiles them: set NUMBA_CACHE_DIR to one")
    return None


def _sweep(path: Path) -> None:
    """Delete what processes that were killed while they wrote have left."""
    for unfinished in path.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - unfinished.stat().st_mtime > UNFINISHED:
                unfinished.unlink()


def _roots() -> Iterator[Path]:
    """The places to try, in order."""
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR)
    else:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if os.path.isabs(home):
            yield Path(home) / "microtfm"
    try:
        yield Path(tempfile.gettempdir()) / _temporary_name()
    except FileNotFoundError:  # not even a temporary folder
        return


def _temporary_name() -> str:
    """The name of this user's root in the folder for temporary files, which other users can write to as well."""
    return f"microtfm-{os.getuid() if hasattr(os, 'getuid') else os.environ.get('USERNAME', 'user')}"


def _private(path: Path) -> bool:
    """Whether a folder is this user's and closed to others: files in it are code that will be run."""
    if not hasattr(os, "getuid"):
        return True
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return False
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return True


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


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _warn("stuck", f"the file {path} cannot be removed: {error}")


def _warn(kind: str, message: str) -> None:
    """Warn once of each kind of trouble."""
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


_warned: set[str] = set()
