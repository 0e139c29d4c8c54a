"""Compiled kernels on disk: one checked file for each function and signature, in a private folder.

Numba's own cache loads pickles without looking, fails where a file is damaged, a disk full or a home missing, and does
not notice when a function in another file changes. Here the folder's name holds a hash of the sources of all kernels,
every file begins with the sha256 of the rest, which is checked before anything is unpickled, and whatever goes wrong
with the disk costs time, never a result: the kernel is compiled again, and one warning says why.
"""

import functools
import hashlib
import os
import pickle
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

DIGEST = hashlib.sha256().digest_size


class DiskCache(_Cache):
    """What a Numba dispatcher asks for code compiled earlier, and gives what it has compiled."""

    def __init__(self, name: str) -> None:
        self._name, self._folder = name, folder()

    @property
    def cache_path(self) -> str | None:
        return None if self._folder is None else str(self._folder)

    def enable(self) -> None:
        self._folder = folder()

    def disable(self) -> None:
        self._folder = None

    def flush(self) -> None:
        """Forget nothing: the folder's name changes with the sources."""

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
        if hashlib.sha256(payload).digest() == digest:
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
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, path)
        except OSError as error:
            _warn("unsaved", f"compiled kernels cannot be kept in {path.parent}, so each run compiles them: {error}")
            if temporary:
                _remove(Path(temporary))

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        if self._folder is None:
            return None
        key = repr((str(signature), codegen.magic_tuple(), sys.version_info[:3]))
        return self._folder / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.bin"


@functools.cache
def folder() -> Path | None:
    """The private folder of these kernels for this user, made if need be; None if there is no place for one."""
    try:
        name = f"microtfm-kernels-{numba.__version__}-{_source_hash()}-{int(bool(config.BOUNDSCHECK))}"
    except OSError:  # no readable sources: a frozen program
        return None
    for root in _roots():
        path = root / name
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _private(path) and (root.name != _temporary_name() or _private(root)):
                tempfile.TemporaryFile(dir=path).close()
                return path
        except OSError:
            continue
    _warn("no folder", "no folder to keep compiled kernels in, so each run compiles them: set NUMBA_CACHE_DIR to one")
    return None


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


def _source_hash() -> str:
    """A hash of the sources of all kernels."""
    everything = hashlib.sha256()
    top = Path(__file__).parent.parent
    for path in sorted(top.rglob("*.py")):
        everything.update(f"{path.relative_to(top)}\0".encode() + path.read_bytes() + b"\0")
    return everything.hexdigest()[:16]


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
