"""Reading files that people name: whole, regular, of a bearable size, and with an error that says what is wrong."""
from __future__ import annotations

import os
import stat
from pathlib import Path

from microtfm.errors import UserError

PathLike = str | os.PathLike[str]


def read_bytes(path: PathLike, limit: int | None = None) -> bytes:
    """All of a regular file of at most `limit` bytes. UserError for what is missing, unreadable or no plain file."""
    try:
        found = os.stat(path)                  # before opening: opening a FIFO would wait for ever
        if stat.S_ISDIR(found.st_mode):
            raise UserError(f"{path} is a folder. Name the file inside it.")
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is not a plain file, so it cannot be read twice. Save its text to a file first.")
        if limit is not None and found.st_size > limit:
            raise UserError(f"{path} has {found.st_size:,} bytes, which is too many for such a file (at most "
                            f"{limit:,}). Is it the right one?")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Check the name; the current folder is {Path.cwd()}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError:                         # a NUL in the name
        raise UserError(f"{str(path)!r} is no name of a file.") from None
