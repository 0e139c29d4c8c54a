"""Checkpoints: safetensors files that know whether they are whole.

The metadata holds a sha256 of the entire file, computed with the digest's own 64 characters zeroed. It is verified
before anything is believed, so a truncated or altered file is an error and never a wrong number. Nothing is ever
unpickled. Equal content gives equal bytes: there is no time and no path inside, and the header's order is fixed (the
library's own writer orders the metadata anew in every process, so it only reads here).
"""
from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy

from microtfm import atomic
from microtfm.errors import UserError

FORMAT = "microtfm"
VERSION = 1                              # of what a checkpoint holds; older ones are read, newer ones refused
LONGEST_HEADER = 100_000_000             # bytes, as in the safetensors library
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8")}
CODES = {dtype: code for code, dtype in DTYPES.items()}
DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


@dataclass(frozen=True)
class Checkpoint:
    """Arrays by name, and what is to be known about them (plain JSON values)."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def save(path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all: float32, float64 or int64 arrays, and facts that JSON can hold.

    Raises UserError where the folder or the disk does not take the file.
    """
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    table: dict[str, Any] = {"__metadata__": {
        "format": FORMAT, "format_version": str(VERSION), "facts": text, "sha256": "0" * 64}}
    data: list[atomic.Chunk] = []
    offset = 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):      # so that all are aligned
        array = arrays[name]
        raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        table[name] = {"dtype": CODES[raw.dtype], "shape": list(array.shape),
                       "data_offsets": [offset, offset + raw.nbytes]}
        data.append(raw.reshape(-1).view(np.uint8).data)
        offset += raw.nbytes
    top = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    top += b" " * (-len(top) % 8)
    header = bytearray(len(top).to_bytes(8, "little") + top)
    digest = hashlib.sha256(header)
    for chunk in data:
        digest.update(chunk)
    place = DIGEST.search(header)
    assert place is not None
    header[slice(*place.span(1))] = digest.hexdigest().encode()
    atomic.write(path, [header, *data])


def load(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises UserError for a file that is missing, foreign, truncated, altered, or too new."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):        # before opening: opening a FIFO would wait for ever
            raise UserError(f"{path} is not a file, so it is no checkpoint.")
        with open(path, "rb") as file:
            return _read(path, file)
    except OSError as error:
        raise UserError(f"The checkpoint {path} cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise UserError(f"There is not enough memory to read {path}: it has {path.stat().st_size:,} bytes.") from None


def _read(path: Path, file: BinaryIO) -> Checkpoint:
    """The header first: before it makes sense and agrees with the file's size, nothing else is read."""
    size = os.fstat(file.fileno()).st_size
    header_end = 8 + _header_length(path, file.read(9), size)
    file.seek(8)
    table = _header(path, file.read(header_end - 8))
    facts = table.pop("__metadata__", None)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of microtfm: its header lacks the mark of one.")
    _check_size(path, table, size - header_end)
    file.seek(0)
    data = file.read()
    _verify(path, data, header_end, facts)
    if facts.get("format_version") != str(VERSION):
        raise UserError(f"{path} has format version {facts.get('format_version')!r}; this microtfm reads {VERSION}. "
                        "Use the version of microtfm that wrote it, or a newer one.")
    try:
        known = json.loads(facts["facts"])
        arrays = safetensors.numpy.load(data)
    except (KeyError, TypeError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not a checkpoint of microtfm: its header makes no sense ({error}).") from None
    if not isinstance(known, dict):
        raise UserError(f"{path} is not a checkpoint of microtfm: its header makes no sense.")
    return Checkpoint(arrays, known)


def _header_length(path: Path, start: bytes, size: int) -> int:
    length = int.from_bytes(start[:8], "little")
    if size < 10 or start[8:] != b"{" or not 2 <= length <= LONGEST_HEADER:
        raise UserError(f"{path} is not a checkpoint of microtfm (a safetensors file), or its beginning is damaged.")
    if 8 + length > size:
        raise UserError(f"{path} is cut short: its header alone has {length:,} bytes and the file has {size:,}.")
    return length


def _check_size(path: Path, table: dict[str, Any], size: int) -> None:
    try:
        end = max((int(entry["data_offsets"][1]) for entry in table.values()), default=0)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path} is not a checkpoint of microtfm: its header makes no sense.") from None
    if end != size:
        raise UserError(f"{path} is damaged: its arrays have {end:,} bytes and the file has {size:,} for them. Restore "
                        f"it from a copy, or train again.")


def _header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        table = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not a checkpoint of microtfm, or its header is damaged.") from None
    return dict(table)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice")
    return table


def _verify(path: Path, data: bytes, header_end: int, facts: dict[str, Any]) -> None:
    places = list(DIGEST.finditer(data[8:header_end]))
    if len(places) != 1 or places[0][1].decode() != facts.get("sha256"):
        raise UserError(f"{path} is damaged: it has lost its sha256. Restore it from a copy, or train again.")
    begin, end = (8 + place for place in places[0].span(1))
    digest = hashlib.sha256(data[:begin])
    digest.update(b"0" * 64)
    digest.update(memoryview(data)[end:])
    if digest.hexdigest() != facts["sha256"]:
        raise UserError(f"{path} is damaged: its sha256 should be {facts['sha256'][:16]}…, but its content has "
                        f"{digest.hexdigest()[:16]}…. Restore it from a copy, or train again.")


def fit(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, Any], where: Path) -> None:
    """Check that a checkpoint's arrays are the wanted ones by name, shape and dtype. UserError lists what differs."""
    wrong = [f"{name} is missing" for name in sorted(wanted.keys() - arrays.keys())]
    wrong += [f"{name} is unknown" for name in sorted(arrays.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & arrays.keys()):
        found, right = (f"{a.dtype} {a.shape}" for a in (arrays[name], wanted[name]))
        if found != right:
            wrong.append(f"{name} is {found} instead of {right}")
    if wrong:
        more = f", and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise UserError(f"{where} does not fit the model that its run folder describes: {', '.join(wrong[:4])}{more}. "
                        f"Put back the checkpoint that belongs to this folder.")
