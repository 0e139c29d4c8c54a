"""Files that are whole or not there: written beside their place, synced, then renamed over it."""
from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from microtfm.errors import UserError

Chunk = bytes | bytearray | memoryview


def write(path: Path, chunks: Iterable[Chunk]) -> None:
    """Replace the file at `path` by `chunks`, or leave it as it was.

    A process killed at any moment leaves the old file or the new one; what is left of its unfinished file is swept by
    the next write to the same place. Raises UserError where the folder or the disk does not take the file.
    """
    partial = unfinished(path)
    try:
        sweep(path)
        with open(partial, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}. What stood there before is unharmed. "
                        f"{_remedy(error.errno)}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Delete unfinished files for `path` whose processes no longer run."""
    _sweep(path.parent, re.escape(path.name))


def sweep_folder(folder: Path) -> None:
    """Delete all unfinished files and folders in `folder` whose processes no longer run."""
    _sweep(folder, ".+")


def unfinished(path: Path) -> Path:
    """Where what will be `path` is made: a name that tells whose it is, so that it is swept if it is left behind."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sweep(folder: Path, names: str) -> None:
    pattern = re.compile(rf"\.{names}\.(\d+)\.tmp")
    for entry in folder.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and not _runs(int(match[1]), entry):
            with contextlib.suppress(OSError):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()


def _remedy(number: int | None) -> str:
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Make the folder writable, or choose another one."
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "Put back its folder, or choose another one."
    return "Make room for it."


def _runs(pid: int, file: Path) -> bool:
    if pid == os.getpid():
        return False
    if os.name == "nt":                  # there, signal 0 would end the process: judge by age
        with contextlib.suppress(OSError):
            return time.time() - file.stat().st_mtime < 3600
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable (POSIX only: Windows offers no handle on a folder)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
