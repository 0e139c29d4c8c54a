"""One process at a time in a run folder: a lock that goes when its holder ends, however it ends."""
from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from microtfm.errors import UserError

HELD = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder. UserError, at once, where another process or thread holds it.

    The folder's own handle is locked, so no file is left behind (Windows: a file that goes with its holder). Where the
    file system knows no locks, nothing is locked.
    """
    try:
        handle = _open(folder)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be opened: {error.strerror or error}.") from None
    try:
        _lock(handle)
    except OSError as error:
        if error.errno in HELD:
            os.close(handle)
            raise UserError(f"{folder} is in use: another process is training in it. Wait until it has ended, stop it "
                            f"with Ctrl-C, or choose another folder.") from None
    try:
        yield
    finally:
        os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _open(folder: Path) -> int:
        return os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_TEMPORARY)

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _open(folder: Path) -> int:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
