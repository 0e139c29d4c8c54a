"""Reading files that people name: whole, regular, of a bearable size, and with an error that says what is wrong."""
from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from microtfm.errors import UserError

PathLike = str | os.PathLike[str]
LONGEST_TABLE = 20_000                   # bytes of a file of settings, at most


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


def read_table(path: Path) -> dict[str, Any]:
    """The nested table in a TOML file of settings, its names not yet checked. UserError for anything else."""
    data = read_bytes(path, LONGEST_TABLE)
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8, so it holds no settings.") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be settings.") from None
    except ValueError as error:          # TOMLDecodeError, and numbers that Python does not read
        raise UserError(f"{path} is not valid TOML: {error}. A setting is a line such as  batch_tokens = 1024  under "
                        f"[train]; text stands in quotes.") from None
