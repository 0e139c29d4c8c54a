"""Files that are whole or not there: written beside their place, synced, then renamed over it."""
from __future__ import annotations

import contextlib
import os
import re
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
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        sweep(path)
        with open(partial, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}. What stood there before is unharmed. "
                        f"Make room for it.") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Delete unfinished files for `path` whose processes no longer run."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"(\d+)\.tmp")
    for entry in path.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and not _runs(int(match[1]), entry):
            with contextlib.suppress(OSError):
                entry.unlink()


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


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable (POSIX only: Windows offers no handle on a folder)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
