"""Files of compiled kernels: a private folder of this user's, and a digest before what each file holds.

A digest is of a file's name and content, so a file that is damaged, or stands under another kernel's name, is found out
before anything runs. Whatever goes wrong with the disk costs time, never a result: kernels are compiled again, and one
warning of each kind of trouble says why.
"""

import contextlib
import functools
import hashlib
import os
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from numba.core import config

DIGEST = hashlib.sha256().digest_size
UNFINISHED = 3600  # seconds after which a file that is still being written has been given up


@functools.cache
def folder(name: str) -> Path | None:
    """The private folder of this name for this user, made if need be; None if there is no place for one."""
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
    warn("no folder", "no folder to keep compiled kernels in, so each run compiles them: set NUMBA_CACHE_DIR to one")
    return None


def read(path: Path) -> bytes | None:
    """What a file holds; None if it is not there, or damaged, and then it is removed."""
    try:
        content = path.read_bytes()
    except OSError:  # most often: not there yet
        return None
    digest, payload = content[:DIGEST], content[DIGEST:]
    if _signed(path, payload) == digest:
        return payload
    damaged(path)
    return None


def write(path: Path, payload: bytes) -> None:
    """Keep it: all of it, or nothing."""
    temporary = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(_signed(path, payload) + payload)
        os.replace(temporary, path)
    except OSError as error:
        warn("unsaved", f"compiled kernels cannot be kept in {path.parent}, so each run compiles them: {error}")
        if temporary:
            _remove(Path(temporary))


def damaged(path: Path) -> None:
    """Remove a file that is of no use."""
    warn("damaged", f"a damaged file of compiled kernels was removed, its kernel is compiled again: {path}")
    _remove(path)


def warn(kind: str, message: str) -> None:
    """Warn once of each kind of trouble."""
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


_warned: set[str] = set()


def _signed(path: Path, payload: bytes) -> bytes:
    """The digest of a file, and of what it is: under another kernel's name it is damaged, too."""
    return hashlib.sha256(path.name.encode() + b"\0" + payload).digest()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        warn("stuck", f"the file {path} cannot be removed: {error}")


def _sweep(path: Path) -> None:
    """Delete what processes that were killed while they wrote have left."""
    for unfinished in path.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - unfinished.stat().st_mtime > UNFINISHED:
                unfinished.unlink()


def _roots() -> Iterator[Path]:
    """The places to try, in order."""
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR).absolute()
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
